"""A history on a PostgreSQL server, for several web and worker hosts; the same queries as on SQLite.

- `write` takes one advisory lock for its transaction, so that what counts rows or hands out places is alone, as on SQLite.
- `write_rows` does not: workers claim, report and publish side by side, each locking the row it changes. Claiming passes over
  rows that another holds (FOR UPDATE SKIP LOCKED), so it never waits and never doubles.
- Isolation: READ COMMITTED with these locks for writing, REPEATABLE READ for reading.
- A connection that broke is made anew, and `work` is run again where it cannot have been committed; where that is not known,
  or nobody answers, `HistoryUnreachable` is raised, and its callers try again later as they do for a busy file.
- Patience is bounded everywhere (the constants below), so that a cut cable is an error after seconds and holds no locks for
  longer than `IDLE_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, exc, make_url, text

from app.errors import HistoryBusy, HistoryUnreachable
from engine.errors import InvalidRequest, StorageBlocked

log = logging.getLogger(__name__)
CONNECT_SECONDS = 5
LOCK_SECONDS = 10
STATEMENT_SECONDS = 30
IDLE_SECONDS = 30
"""A transaction in which nothing is asked for so long is ended by the server: its client is gone."""
SILENT_SECONDS = 10
"""What was sent and is not acknowledged for so long breaks the connection (TCP_USER_TIMEOUT)."""
TRIES = 3
WRITING = 0x5370726F636B6574  # "Sprocket"
"""Key of the advisory lock that one `write` holds."""
UNREACHABLE = ("08", "57P01", "57P02", "57P03", "53300")
"""SQLSTATE or its class: no connection, the server is going, starting or full (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
AGAIN = ("40001", "40P01")
BUSY = ("55P03", "57014", "25P03")
FULL = ("53100", "53200", "25006")
T = TypeVar("T")


class PostgresDatabase:
    """Owns the connections to one server. Threads may share it; processes each open their own."""

    def __init__(self, url: str) -> None:
        """`url`: postgresql://user:password@host:port/name. Raises InvalidRequest (database) without the driver."""
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        shown = make_url(url)
        secret = [key for key in shown.query if "pass" in key.lower()]
        self.name = shown.difference_update_query(secret).render_as_string(hide_password=True)
        options = (f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s "
                   f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s")
        arguments = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": SILENT_SECONDS * 1000, "keepalives_idle": SILENT_SECONDS,
                     "keepalives_interval": 2, "keepalives_count": 3, "application_name": "sprocket",
                     "options": " ".join(filter(None, [str(parsed.query.get("options", "")), options]))}
        try:
            self._engine = create_engine(parsed, connect_args=arguments, pool_size=4, max_overflow=12, pool_timeout=LOCK_SECONDS)
        except ImportError as error:
            raise InvalidRequest("database", f"is {self.name!r}, and the package psycopg is not installed ({error}). "
                                             "`pip install 'psycopg[binary]'` brings it.") from error

    def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on one consistent view. Raises HistoryBusy, StorageBlocked, and what `work` raises."""
        return self._run(work, isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one transaction while no other `write` runs, and commits. Raises as `read`."""
        def alone(c: Connection) -> T:
            c.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITING})
            return work(c)
        return self._run(alone, isolation_level="READ COMMITTED")

    def write_rows(self, work: Callable[[Connection], T]) -> T:
        """As `write`, beside others. Raises as `read`."""
        return self._run(work, isolation_level="READ COMMITTED")

    def _run(self, work: Callable[[Connection], T], **options: Any) -> T:
        for left in reversed(range(TRIES)):
            worked = False
            try:
                with self._engine.connect().execution_options(**options) as connection, connection.begin():
                    made = work(connection)
                    worked = True
                return made
            except exc.DBAPIError as error:
                # A commit whose answer was lost may have been done: running `work` again could do it twice.
                if left and not worked and may_help(error):
                    time.sleep(0.05 * (TRIES - left))
                    continue
                raise explained(error, self.name) from error
            except exc.TimeoutError as error:  # all connections of this process are in use
                raise HistoryBusy(f"This process has asked {self.name} for too much at once. Try again.") from error
        raise AssertionError("unreachable")

    def quick_check(self) -> None:
        """Raises HistoryUnreachable when the server does not answer."""
        self.read(lambda c: c.execute(text("SELECT 1")).scalar())

    def backup_to(self, target: Path) -> None:
        """Nothing: `pg_dump` does it."""

    def version(self) -> str:
        """As the server says it, e.g. '15.14'. Raises HistoryUnreachable."""
        return str(self.read(lambda c: c.execute(text("SHOW server_version")).scalar()))

    def check_clock(self, most_seconds: float) -> None:
        """Leases compare times of different computers. Raises InvalidRequest (database) when the server's clock is further
        from this one's than `most_seconds`; HistoryUnreachable."""
        before = time.time()
        there = float(self.read(lambda c: c.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()))
        off = max(before - there, there - time.time(), 0.0)
        if off > most_seconds:
            raise InvalidRequest("database", f"is {self.name!r}, whose clock is {off:.0f} s from this computer's; {most_seconds:.0f} s are "
                                             "the limit, because leases of jobs are times. Set both clocks (NTP).")

    def close(self) -> None:
        self._engine.dispose()


def may_help(error: exc.DBAPIError) -> bool:
    """True where running the same work on a fresh transaction is right: deadlocks, and connections that broke."""
    return state_of(error).startswith(AGAIN) or error.connection_invalidated


def state_of(error: exc.DBAPIError) -> str:
    """SQLSTATE of an error; '' where the server never answered."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def explained(error: exc.DBAPIError, name: str) -> Exception:
    """An error of the driver as one of ours; those that are our own mistakes stay what they are."""
    state, said = state_of(error), " ".join(str(error.orig).split())
    if state.startswith(FULL):
        return StorageBlocked(f"{name} takes nothing more ({said}). Free space there; waiting jobs go on by themselves.")
    if state.startswith(BUSY + AGAIN):
        return HistoryBusy(f"Others held what was asked of {name} for more than {LOCK_SECONDS} s ({said}). Try again.")
    if state.startswith(UNREACHABLE) or error.connection_invalidated or (not state and isinstance(error, exc.OperationalError)):
        return HistoryUnreachable(f"{name} cannot be reached ({said}). Check SPROCKET_DATABASE, that the server runs and the network; "
                                  "what waits goes on by itself once it answers.")
    return error.orig if isinstance(error.orig, Exception) else error
