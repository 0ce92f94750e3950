"""Opening a history whatever state it was left in: under a lock, checked, migrated, and if damaged made again."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.errors import DataDirBusy, HistoryDamaged
from app.history.postgres import PostgresDatabase
from app.history.recovery import at_work, carry_changes, carry_jobs, restore_files, restore_projects, retell
from app.history.store import Store
from app.lock import FileLock
from app.settings import Settings
from engine.video.publish import storage_errors, write_atomic

log = logging.getLogger(__name__)
MESSAGE = "recovery_message"
OPEN_WAIT_SECONDS = 60.0
UNFINISHED = "history.unfinished"
"""While a history is made again, this file in the data folder says which one was put aside for it."""


def open_store(settings: Settings, *, repair: bool = True) -> Store:
    """The history of `settings.data_dir`, created, migrated or recovered as needed.

    A damaged file is moved aside and never deleted; the newest backup takes its place and the clips' own files fill what
    it lacks. What happened is kept under the meta key 'recovery_message'. `repair=False` raises HistoryDamaged instead,
    and so does a damaged history that a running server has open.
    On a database server nothing is repaired: its tables are made or migrated there.
    Raises StorageBlocked, SchemaTooNew, HistoryDamaged, HistoryBusy, OSError.
    """
    with storage_errors(settings.data_dir):
        settings.make_folders()
        if settings.on_server:
            return _on_server(settings)
        with FileLock(settings.data_dir / "open.lock", wait_seconds=OPEN_WAIT_SECONDS):
            try:
                return _whole(settings)
            except HistoryDamaged as error:
                if not repair:
                    raise
                log.error("%s", error)
                with _server_away(settings, error):
                    return _made_again(settings, error)


@contextlib.contextmanager
def _server_away(settings: Settings, error: HistoryDamaged) -> Iterator[None]:
    """Holds the server's lock: a history must not be replaced under a server that writes to it."""
    lock = FileLock(settings.data_dir / "server.lock")
    try:
        lock.acquire()
    except DataDirBusy:
        raise HistoryDamaged(f"{error} Stop the server that works on this folder and start it again: it repairs the "
                             "history when it starts.") from error
    try:
        yield
    finally:
        lock.close()


def _whole(settings: Settings) -> Store:
    if (settings.data_dir / UNFINISHED).exists():  # else a sound history without what only the one put aside has
        raise HistoryDamaged(f"The history {settings.db_path} was being made again, and that was cut short.")
    return _checked(settings)


def _checked(settings: Settings) -> Store:
    path = settings.db_path
    if not path.exists() or path.stat().st_size == 0:
        copies = newest_backups(settings)
        if copies:  # deleted, cut to nothing, or a repair that was itself cut short
            raise HistoryDamaged(f"The history {path} is gone or empty, but there are copies of it.")
    store = Store(settings)
    try:
        if path.exists():
            store.database.quick_check()
        store.migrate(settings.backups_dir)
        return store
    except BaseException:
        store.close()
        raise


def _on_server(settings: Settings) -> Store:
    store = Store(settings)
    try:
        database = store.database
        if isinstance(database, PostgresDatabase):
            database.check_clock(settings.lease_seconds / 3)
        store.migrate(settings.backups_dir)
        return store
    except BaseException:
        store.close()
        raise


def _made_again(settings: Settings, error: HistoryDamaged) -> Store:
    """From the newest sound backup, else from nothing; then, newer than that, what can be read of the damaged one, and the clips' own
    files. Raises as `open_store`; what is half made by then is made anew by the next opening."""
    aside = move_aside(settings, "damaged")
    source = "an empty one"
    store: Store | None = None
    copied_at: float | None = None
    for backup in newest_backups(settings):
        _copy(backup, settings.db_path)
        try:
            store = _checked(settings)
        except HistoryDamaged as worse:
            log.error("the copy is damaged too: %s", worse)
            backup.rename(backup.with_suffix(".damaged"))
            settings.db_path.unlink()
            continue
        source, copied_at = f"the copy {backup.name}", backup.stat().st_mtime
        break
    store = store or _checked(settings)
    restore_projects(settings, store, newer=True)
    if aside.exists():
        carry_jobs(aside, store, newer=True)
    if copied_at is not None:
        retell(settings, store, copied_at)
    found = restore_files(settings, store)
    if aside.exists():
        carry_changes(aside, store)
    store.remember(MESSAGE, f"The history was damaged and has been made again from {source} and the clips' own files "
                            f"({found} clips found there). The damaged file is kept as {aside.name}. {error}",
                   now=time.time())
    (settings.data_dir / UNFINISHED).unlink(missing_ok=True)
    return store


def _copy(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    part.write_bytes(source.read_bytes())
    part.replace(target)


def move_aside(settings: Settings, why: str) -> Path:
    """Renames the database and its journals, for another to be made. Nobody may have it open. Returns the new path of the database.

    The file `UNFINISHED` says that path until the new one is whole. Where it is there, an earlier attempt died: what that left in the
    database's place is put aside as well, and the path is still the first one's.
    """
    mark = settings.data_dir / UNFINISHED
    said = mark.read_text(encoding="utf-8", errors="replace") if mark.exists() else ""
    first = settings.data_dir / said if re.fullmatch(r"history\.[\w-]+\.db", said) else _free_name(settings, why)
    if first.exists():
        _rename(settings, _free_name(settings, "unfinished"))
        return first
    write_atomic(mark, first.name.encode())
    _rename(settings, first)
    return first


def _free_name(settings: Settings, why: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    target = settings.data_dir / f"history.{why}-{stamp}.db"
    number = 1
    while target.exists():
        number += 1
        target = settings.data_dir / f"history.{why}-{stamp}-{number}.db"
    return target


def _rename(settings: Settings, target: Path) -> None:
    for ending in ("-journal", "-wal", "-shm"):
        side = settings.db_path.with_name(settings.db_path.name + ending)
        if side.exists():
            side.replace(target.with_name(target.name + ending))
    if settings.db_path.exists():
        settings.db_path.replace(target)


def newest_backups(settings: Settings) -> list[Path]:
    """The newest first. Those dated in the future, by a clock that was wrong, come last: nobody knows how old they are."""
    return _oldest_first(settings.backups_dir.glob("*.db"), time.time())[::-1]


def _oldest_first(copies: Iterable[Path], now: float) -> list[Path]:
    at = {path: path.stat().st_mtime for path in copies}
    return sorted(at, key=lambda path: (at[path] <= now, at[path]))


def back_up(settings: Settings, store: Store, *, now: float, every_seconds: float = 24 * 3600.0) -> Path | None:
    """A copy of the history once a day; the oldest daily ones beyond `settings.backups` go. Raises StorageBlocked."""
    daily = _oldest_first(settings.backups_dir.glob("daily-*.db"), now)
    if daily and 0 <= now - daily[-1].stat().st_mtime < every_seconds:
        return None
    target = settings.backups_dir / f"daily-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.db"
    store.database.backup_to(target)
    for old in [*daily, target][:-settings.backups]:
        old.unlink(missing_ok=True)
    return target


def rebuild(settings: Settings) -> int:
    """`sprocket history rebuild`: a new history from the clips' files; the old one is kept beside it. Returns clips found.

    Waiting jobs and their log live in the history alone, as do changes of clips that no sidecar tells yet, so they are carried over
    from the old one where it is readable.
    On a database server its tables stay, and get what they lack: of the files, and of a SQLite history in the data folder.
    Raises DataDirBusy while a server, or a command that makes a clip, works on this directory.
    """
    with storage_errors(settings.data_dir):
        settings.make_folders()
        if settings.on_server:
            return _filled_up(settings)
        with (FileLock(settings.data_dir / "server.lock"),
              FileLock(settings.data_dir / "open.lock", wait_seconds=OPEN_WAIT_SECONDS)):
            if at_work(settings.db_path, time.time()):  # it would go on writing to what was put aside
                raise DataDirBusy(f"A clip is being made in {settings.data_dir}. Let it end, or stop it, then rebuild the history.")
            old = move_aside(settings, "before-rebuild")
            store = Store(settings)
            try:
                store.migrate(settings.backups_dir)
                found = _filled(settings, store, old)
            finally:
                store.close()
            (settings.data_dir / UNFINISHED).unlink(missing_ok=True)
            return found


def _filled_up(settings: Settings) -> int:
    with FileLock(settings.server_lock):
        store = _on_server(settings)
        try:
            return _filled(settings, store, settings.db_path)
        finally:
            store.close()


def _filled(settings: Settings, store: Store, old: Path) -> int:
    """What `store` lacks, out of an older history, which may be gone, and of the files. Returns clips found."""
    there = frozenset(clip_id for clip_id, _file, _missing in store.clips.files())
    if old.exists():
        carry_jobs(old, store)
    found = restore_files(settings, store)
    if old.exists():
        carry_changes(old, store, but=there)
    return found
