"""Bringing an older history up to date with Alembic, in process: a copy first, one transaction, never downwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect

from app.errors import SchemaTooNew
from app.history.schema import HEAD
from app.history.transactions import Transactions

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"


def current(database: Transactions) -> str | None:
    """The migration the file is at; None for an empty one."""
    def work(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return database.read(work)


def migrate(database: Transactions, backups_dir: Path) -> None:
    """Creates or updates the tables. An existing file is copied to `backups_dir` before it is changed.

    Raises SchemaTooNew for a file that a later version of Sprocket wrote; the file is not touched.
    """
    at = current(database)
    if at == HEAD:
        return
    if at is not None:
        if at not in _known():
            raise SchemaTooNew(f"The history {database.name} was written by a newer Sprocket (schema {at}; this one knows "
                               f"up to {HEAD}). Update Sprocket, or use another data directory.")
        database.backup_to(backups_dir / f"before-{HEAD}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.db")
    upgrade(database, HEAD)


def upgrade(database: Transactions, revision: str) -> None:
    """All migrations up to `revision`, in one transaction."""
    from alembic import command

    config = _config()

    def work(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    database.write(work)


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config  # 0.3 s, and only where a migration is due

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config
