"""One SQLite file, opened the way that survives crashes; every transaction is a function that does nothing but SQL.

- `isolation_level=None` and an explicit BEGIN: writers take the write lock at once (BEGIN IMMEDIATE). A deferred
  transaction that reads first and then writes fails with "database is locked", whatever the busy timeout.
- synchronous=FULL: a commit that returned is on the disk.
- Journal: WAL only from SQLite 3.51.3 on and on a local file system; older versions can corrupt a database whose WAL is
  reset while two connections write (https://sqlite.org/wal.html#walresetbug). Else TRUNCATE. mmap_size=0 for the same reason.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy import URL, Connection, create_engine, event, exc

from app.errors import HistoryBusy, HistoryDamaged
from engine.errors import StorageBlocked

BUSY_SECONDS = 10.0
_WAL_SAFE = (3, 51, 3)
_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "gluster", "lustre", "vboxsf", "virtiofs")
T = TypeVar("T")


class Database:
    """Owns the connections to one file. Threads may share it; processes each open their own."""

    def __init__(self, path: Path, *, make_room: Callable[[], bool] | None = None) -> None:
        """`make_room` is called once when the disk is full during a write; True means it is worth trying again."""
        self.path = path
        self._make_room = make_room
        self._engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_SECONDS},
                                     pool_size=4, max_overflow=28)
        journal = journal_mode(path, sqlite3.sqlite_version_info)
        event.listen(self._engine, "connect", lambda raw, _record: _prepare(raw, journal))
        event.listen(self._engine, "begin", _begin)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one IMMEDIATE transaction and commits. `work` does SQL only and may run twice.

        Raises StorageBlocked (full or read-only disk), HistoryBusy, HistoryDamaged, and whatever `work` raises.
        """
        try:
            return self._run("BEGIN IMMEDIATE", work)
        except StorageBlocked:
            if self._make_room is None or not self._make_room():
                raise
            return self._run("BEGIN IMMEDIATE", work)

    def write_rows(self, work: Callable[[Connection], T]) -> T:
        """As `write`: a file has one writer."""
        return self.write(work)

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on one consistent view of the file. Raises as `write` does."""
        return self._run("BEGIN", work)

    def _run(self, begin: str, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect().execution_options(sprocket_begin=begin) as connection, connection.begin():
                return work(connection)
        except exc.DatabaseError as error:
            raise self._explained(error.orig) from error
        except sqlite3.DatabaseError as error:  # while connecting
            raise self._explained(error) from error

    def _explained(self, error: BaseException | None) -> Exception:
        ours = explained(error, self.path)
        if isinstance(ours, StorageBlocked):
            self._engine.dispose()  # a connection that was opened on a read-only disk stays read-only for ever
        return ours

    def quick_check(self) -> None:
        """Raises HistoryDamaged when SQLite finds the file malformed."""
        rows = self.read(lambda c: c.exec_driver_sql("PRAGMA quick_check(1)").scalars().all())
        if rows != ["ok"]:
            raise HistoryDamaged(f"The history {self.path} is damaged: {rows[0]}")

    def backup_to(self, target: Path) -> None:
        """A consistent copy, made while others read and write. Raises OSError, StorageBlocked."""
        part = target.with_suffix(".part")
        try:
            with self._engine.connect() as connection:
                copy = sqlite3.connect(part)
                try:
                    raw: Any = connection.connection.driver_connection
                    raw.backup(copy)
                finally:
                    copy.close()
            part.replace(target)
        except sqlite3.Error as error:
            raise explained(error, target) from error
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        self._engine.dispose()


def journal_mode(path: Path, version: tuple[int, ...]) -> str:
    """'WAL' where it is safe, else 'TRUNCATE'."""
    return "WAL" if version >= _WAL_SAFE and _is_local(path) else "TRUNCATE"


def explained(error: BaseException | None, path: Path) -> Exception:
    """An error of SQLite as one of ours; those that are our own mistakes stay what they are."""
    text = str(error)
    if "disk is full" in text or "disk I/O error" in text:
        return StorageBlocked(f"The disk of {path.parent} is full ({text}). Free some space; waiting jobs go on by themselves.")
    if "readonly database" in text or "unable to open database file" in text:
        return StorageBlocked(f"{path} cannot be written ({text}). Check that the disk is not read-only and the folder is yours.")
    if "locked" in text or "busy" in text:
        return HistoryBusy(f"Another process held the history {path} for more than {BUSY_SECONDS:g} s. Try again.")
    if "malformed" in text or "not a database" in text:
        return HistoryDamaged(f"The history {path} is damaged ({text}).")
    return error if isinstance(error, Exception) else RuntimeError(text)


def _prepare(raw: sqlite3.Connection, journal: str) -> None:
    raw.isolation_level = None
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA mmap_size=0")
    cursor.execute("PRAGMA temp_store=MEMORY")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0].upper() != journal:
        cursor.execute(f"PRAGMA journal_mode={journal}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sprocket_begin", "BEGIN"))


def _is_local(path: Path) -> bool:
    """False on network and shared file systems, where WAL's shared memory does not work."""
    best = ""
    kind = ""
    for mount in psutil.disk_partitions(all=True):
        if path.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= len(best):
            best, kind = mount.mountpoint, mount.fstype
    return not kind.lower().startswith(_REMOTE)
