"""One history: its parts, and the small values that belong to no row (`meta`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from app.history.clips import Clips, Projects
from app.history.jobs import Jobs
from app.history.leases import Leases
from app.history.migrate import migrate
from app.history.published import Published
from app.history.schema import meta
from app.history.transactions import open_database
from app.settings import Settings


class Store:
    """Owns the connections to one history. Open it with `app.history.opening.open_store`."""

    def __init__(self, settings: Settings) -> None:
        self.database = open_database(settings)
        self.jobs = Jobs(self.database)
        self.leases = Leases(self.database, settings.lease_seconds)
        self.clips = Clips(self.database)
        self.projects = Projects(self.database)
        self.published = Published(self.database)

    def migrate(self, backups_dir: Path) -> None:
        migrate(self.database, backups_dir)

    def remember(self, key: str, value: Any, *, now: float) -> None:
        """Stores one JSON value under `key`."""
        def work(c: Connection) -> None:
            c.execute(delete(meta).where(meta.c.key == key))
            c.execute(insert(meta).values(key=key, value=json.dumps(value), at=now))
        self.database.write(work)

    def recall(self, key: str) -> tuple[Any, float] | None:
        """(value, when it was stored), or None."""
        row = self.database.read(lambda c: c.execute(select(meta).where(meta.c.key == key)).one_or_none())
        return None if row is None else (json.loads(row.value), row.at)

    def recall_all(self, beginning: str) -> dict[str, tuple[Any, float]]:
        """Key -> (value, when it was stored) of every key with this beginning."""
        query = select(meta).where(meta.c.key.startswith(beginning, autoescape=True)).order_by(meta.c.key)
        rows = self.database.read(lambda c: c.execute(query).all())
        return {row.key: (json.loads(row.value), row.at) for row in rows}

    def forget(self, key: str) -> None:
        self.database.write(lambda c: c.execute(delete(meta).where(meta.c.key == key)))

    def close(self) -> None:
        self.database.close()
