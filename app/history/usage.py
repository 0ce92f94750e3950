"""What one owner, and all together, have in the history: for quotas and for `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from app.history.jobs import AT_WORK, WAITING
from app.history.schema import clips, jobs
from app.history.store import Store


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of one owner."""

    waiting: int
    running: int
    clip_bytes: int
    """Of finished clips that are still on the disk, those in the trash included."""


def usage_of(store: Store, owner: str) -> Usage:
    """What `owner` has now."""
    at_work = jobs.c.state.in_(AT_WORK).label("at_work")
    count = select(at_work, func.count()).where(jobs.c.owner == owner, jobs.c.state.in_(AT_WORK + WAITING))
    size = select(func.coalesce(func.sum(clips.c.size_bytes), 0)).where(clips.c.owner == owner, clips.c.missing == 0)
    rows, held = store.database.read(lambda c: (c.execute(count.group_by("at_work")).all(), c.execute(size).scalar_one()))
    by_work = {bool(row[0]): int(row[1]) for row in rows}
    return Usage(by_work.get(False, 0), by_work.get(True, 0), int(held))


def unfinished(store: Store) -> int:
    """Jobs of everybody that run or wait."""
    query = select(func.count()).where(jobs.c.state.in_(AT_WORK + WAITING))
    return int(store.database.read(lambda c: c.execute(query).scalar_one()))


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of the whole history."""

    jobs: dict[str, int]
    """By state."""
    clips: int
    clip_bytes: int
    frames: int


def totals(store: Store) -> Totals:
    """As they are in the rows now."""
    by_state = select(jobs.c.state, func.count()).group_by(jobs.c.state)
    made = select(func.count(), func.coalesce(func.sum(clips.c.size_bytes), 0), func.coalesce(func.sum(clips.c.frames), 0))
    rows, one = store.database.read(lambda c: (c.execute(by_state).all(), c.execute(made).one()))
    return Totals({str(row[0]): int(row[1]) for row in rows}, int(one[0]), int(one[1]), int(one[2]))


def made_before(store: Store, owners: str, at: float) -> tuple[tuple[str, str], ...]:
    """(id, file) of clips that are still there, of owners beginning with `owners`, made before `at` (UTC seconds)."""
    query = select(clips.c.id, clips.c.file).where(clips.c.owner.startswith(owners, autoescape=True), clips.c.created_at < at,
                                                   clips.c.missing == 0)
    return tuple((str(row.id), str(row.file)) for row in store.database.read(lambda c: c.execute(query).all()))
