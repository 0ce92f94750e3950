"""Opening a history whatever state it was left in: under a lock, checked, migrated, and if damaged made again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from app.errors import DataDirBusy, HistoryDamaged
from app.history.postgres import PostgresDatabase
from app.history.recovery import carry_jobs, restore_files
from app.history.store import Store
from app.lock import FileLock
from app.settings import Settings
from engine.video.publish import storage_errors

log = logging.getLogger(__name__)
MESSAGE = "recovery_message"
OPEN_WAIT_SECONDS = 60.0


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
                return _checked(settings)
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
    """From the newest sound backup, else from nothing; then the clips' own files."""
    aside = move_aside(settings, "damaged")
    source = "an empty one"
    store: Store | None = None
    for backup in newest_backups(settings):
        _copy(backup, settings.db_path)
        try:
            store = _checked(settings)
        except HistoryDamaged as worse:
            log.error("the copy is damaged too: %s", worse)
            backup.rename(backup.with_suffix(".damaged"))
            settings.db_path.unlink()
            continue
        source = f"the copy {backup.name}"
        break
    store = store or _checked(settings)
    if aside.exists():
        carry_jobs(aside, store)
    found = restore_files(settings, store)
    store.remember(MESSAGE, f"The history was damaged and has been made again from {source} and the clips' own files "
                            f"({found} clips found there). The damaged file is kept as {aside.name}. {error}",
                   now=time.time())
    return store


def _copy(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    part.write_bytes(source.read_bytes())
    part.replace(target)


def move_aside(settings: Settings, why: str) -> Path:
    """Renames the database and its journals. Nobody may have it open. Returns the new path of the database."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    target = settings.data_dir / f"history.{why}-{stamp}.db"
    number = 1
    while target.exists():
        number += 1
        target = settings.data_dir / f"history.{why}-{stamp}-{number}.db"
    for ending in ("-journal", "-wal", "-shm"):
        side = settings.db_path.with_name(settings.db_path.name + ending)
        if side.exists():
            side.replace(target.with_name(target.name + ending))
    if settings.db_path.exists():
        settings.db_path.replace(target)
    return target


def newest_backups(settings: Settings) -> list[Path]:
    return sorted(settings.backups_dir.glob("*.db"), key=lambda path: path.stat().st_mtime, reverse=True)


def back_up(settings: Settings, store: Store, *, now: float, every_seconds: float = 24 * 3600.0) -> Path | None:
    """A copy of the history once a day; the oldest daily ones beyond `settings.backups` go. Raises StorageBlocked."""
    daily = sorted(settings.backups_dir.glob("daily-*.db"))
    if daily and now - daily[-1].stat().st_mtime < every_seconds:
        return None
    target = settings.backups_dir / f"daily-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.db"
    store.database.backup_to(target)
    for old in [*daily, target][:-settings.backups]:
        old.unlink(missing_ok=True)
    return target


def rebuild(settings: Settings) -> int:
    """`sprocket history rebuild`: a new history from the clips' files; the old one is kept beside it. Returns clips found.

    Waiting jobs and their log live in the history alone, so they are carried over from the old one where it is readable.
    On a database server its tables stay, and get what they lack: of the files, and of a SQLite history in the data folder.
    Raises DataDirBusy while a server works on this directory.
    """
    with storage_errors(settings.data_dir):
        settings.make_folders()
        if settings.on_server:
            return _filled_up(settings)
        with (FileLock(settings.data_dir / "server.lock"),
              FileLock(settings.data_dir / "open.lock", wait_seconds=OPEN_WAIT_SECONDS)):
            old = move_aside(settings, "before-rebuild") if settings.db_path.exists() else None
            store = Store(settings)
            try:
                store.migrate(settings.backups_dir)
                if old is not None:
                    carry_jobs(old, store)
                return restore_files(settings, store)
            finally:
                store.close()


def _filled_up(settings: Settings) -> int:
    with FileLock(settings.server_lock):
        store = _on_server(settings)
        try:
            if settings.db_path.exists():
                carry_jobs(settings.db_path, store)
            return restore_files(settings, store)
        finally:
            store.close()
