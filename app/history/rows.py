"""Rows to records, and the one way a job's state is changed."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from app.errors import LeaseLost, NotFound
from app.history.records import Clip, Job, JobEvent, JobState, Project
from app.history.schema import clips, job_events, jobs
from app.queue.states import Action, next_state

_JOB_FIELDS = tuple(Job.__dataclass_fields__)
_CLIP_FIELDS = tuple(Clip.__dataclass_fields__)


def job_of(row: Row[Any]) -> Job:
    values = {name: getattr(row, name) for name in _JOB_FIELDS}
    values |= {"state": JobState(row.state), "request": json.loads(row.request), "notes": tuple(json.loads(row.notes)),
               "lapses": tuple(json.loads(row.lapses))}
    return Job(**values)


def event_of(row: Row[Any]) -> JobEvent:
    return JobEvent(job_id=row.job_id, at=row.at, what=row.what, detail=row.detail)


def clip_of(row: Row[Any]) -> Clip:
    values = {name: getattr(row, name) for name in _CLIP_FIELDS}
    values |= {"recipe": json.loads(row.recipe), "favourite": bool(row.favourite), "missing": bool(row.missing)}
    return Clip(**values)


def clip_values(clip: Clip) -> dict[str, Any]:
    """The columns of a clip's row."""
    values = {name: getattr(clip, name) for name in _CLIP_FIELDS}
    return values | {"recipe": json.dumps(clip.recipe), "favourite": int(clip.favourite), "missing": int(clip.missing),
                     "search": search_text(clip.prompt, clip.name),
                     "public_search": None if clip.published_at is None else public_text(clip.prompt)}


def search_text(prompt: str, name: str) -> str:
    """What the gallery's search looks through."""
    return f"{prompt}\n{name}".casefold()


def public_text(prompt: str) -> str:
    """What the public gallery's search looks through: a clip's name is its owner's own."""
    return prompt.casefold()


def project_of(row: Row[Any]) -> Project:
    return Project(id=row.id, name=row.name, created_at=row.created_at, clips=getattr(row, "clips", 0))


def job_row(c: Connection, job_id: str, owner: str | None = None) -> Row[Any]:
    """The row of a job. Raises NotFound, for a foreign owner as well."""
    return _row(c, select(jobs).where(jobs.c.id == job_id), owner, "job")


def clip_row(c: Connection, clip_id: str, owner: str | None = None) -> Row[Any]:
    """The row of a clip. Raises NotFound, for a foreign owner as well."""
    return _row(c, select(clips).where(clips.c.id == clip_id), owner, "clip")


def locked_clip_row(c: Connection, clip_id: str, owner: str | None = None) -> Row[Any]:
    """As `clip_row`, for changing it: nobody else changes it before this transaction ends."""
    return _row(c, select(clips).where(clips.c.id == clip_id).with_for_update(), owner, "clip")


def _row(c: Connection, query: Select[Any], owner: str | None, what: str) -> Row[Any]:
    row = c.execute(query).one_or_none()
    if row is None or (owner is not None and row.owner != owner):
        raise NotFound(f"There is no such {what}. It may belong to somebody else, or to another data directory.")
    return row


def locked_row(c: Connection, job_id: str, owner: str | None = None) -> Row[Any]:
    """As `job_row`, for changing it: nobody else changes it before this transaction ends."""
    return _row(c, select(jobs).where(jobs.c.id == job_id).with_for_update(), owner, "job")


def leased_row(c: Connection, job_id: str, token: str, *, lock: bool = True) -> Row[Any]:
    """The row of a job, for the holder of its lease alone, locked unless it is only looked at.

    Raises LeaseLost for everybody else (the fence).
    """
    query = select(jobs).where(jobs.c.id == job_id, jobs.c.lease_token == token)
    row = c.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise LeaseLost("This job now belongs to another worker, or has ended.")
    return row


def log(c: Connection, job_id: str, now: float, what: str, detail: str = "") -> None:
    """One line in the job's append-only log."""
    c.execute(insert(job_events).values(job_id=job_id, at=now, what=what, detail=storable(detail)[:2000]))


def act(c: Connection, row: Row[Any], action: Action, now: float, *, detail: str = "", to: JobState | None = None,
        **values: Any) -> JobState:
    """Applies `action` to the job in `row`, which is locked, and writes `values` with it. Raises NotAllowed if the table forbids it.

    `to` overrides the state after, where recovery gives up (REAP to failed). Leaving the hands of a worker clears the
    lease, so nothing the old holder still writes can pass the fence.
    """
    state = next_state(JobState(row.state), action)
    state = to or state
    if state not in (JobState.RUNNING, JobState.FINALIZING, JobState.CANCELLING):
        values |= {"lease_token": None, "lease_until": None, "holder": None, "eta_seconds": None}
    if state.ended:
        values |= {"finished_at": now, "reserved_by": None}
    if values.get("error"):
        values["error"] = storable(values["error"])
    c.execute(update(jobs).where(jobs.c.id == row.id)
              .values(state=state.value, status_seq=jobs.c.status_seq + 1, **values))
    if state.value != row.state:
        log(c, row.id, now, state.value, detail)
    return state


def storable(text: str) -> str:
    """What a program said, without the one character that PostgreSQL's text cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def insert_clip(c: Connection, clip: Clip) -> None:
    c.execute(insert(clips).values(**clip_values(clip)))
