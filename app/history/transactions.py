"""What the history needs of a database, and the choice between the two there are: a SQLite file, or a PostgreSQL server.

The queries are the same for both. Row locks (`SELECT ... FOR UPDATE`) are in them: SQLite, where one writer holds the whole
file, leaves them out; PostgreSQL, where many write at once, needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from app.settings import Settings
from app.storage import drop_ballast

T = TypeVar("T")


class Transactions(Protocol):
    """Owns the connections to one history. Threads may share it; processes each open their own. `work` does nothing but SQL."""

    @property
    def name(self) -> str:
        """What people call it: a path, or an address without its password."""

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on one consistent view of the history."""

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one transaction while no other `write` runs, and commits. `work` may run twice.

        Raises StorageBlocked, HistoryBusy, HistoryDamaged, and whatever `work` raises.
        """

    def write_rows(self, work: Callable[[Connection], T]) -> T:
        """As `write`, beside others: for a `work` that locks the rows it reads before it changes them."""

    def quick_check(self) -> None:
        """Raises HistoryDamaged, HistoryBusy."""

    def backup_to(self, target: Path) -> None:
        """A consistent copy in one file. A server has tools of its own for that (pg_dump), and nothing is written."""

    def close(self) -> None: ...


def open_database(settings: Settings) -> Transactions:
    """The history that `settings` name. Connects to nothing yet. Raises InvalidRequest (database)."""
    url = settings.database.get_secret_value()
    if url:
        from app.history.postgres import PostgresDatabase  # its driver is an extra

        return PostgresDatabase(url)
    from app.history.database import Database

    return Database(settings.db_path, make_room=lambda: drop_ballast(settings))
