"""Jobs as their owner sees them: add, look, cancel, retry, reorder. What workers do is in `leases.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, case, func, insert, select, update

from app.errors import NotAllowed, NotFound
from app.history.ids import new_id
from app.history.records import Job, JobEvent, JobMark, JobState, NewJob
from app.history.rows import act, event_of, job_of, job_row, locked_row, log
from app.history.schema import job_events, jobs
from app.history.transactions import Transactions
from app.queue.states import Action
from engine.errors import InvalidRequest

WAITING = (JobState.QUEUED.value, JobState.BLOCKED.value, JobState.PAUSED.value)
AT_WORK = (JobState.RUNNING.value, JobState.FINALIZING.value, JobState.CANCELLING.value)


class Jobs:
    """The jobs of one history. All times are UTC seconds."""

    def __init__(self, database: Transactions) -> None:
        self._db = database

    def add(self, *, owner: str, project_id: str, request: Mapping[str, Any], asked: Mapping[str, Any], now: float,
            max_attempts: int, max_waiting: int, steps: int = 0, notes: tuple[str, ...] = (), idem_key: str | None = None,
            made_from: str | None = None, reserved_by: str | None = None, kind: str = "generate") -> Job:
        """One new waiting job; with an `idem_key` seen before, the job it made then.

        `request` is complete (seed drawn), `asked` is what the caller sent, for telling a repeated call from another one.
        Raises InvalidRequest if the key was used for something else, NotAllowed when too many wait already.
        """
        new = NewJob(dict(request), dict(asked), steps, notes)
        [job] = self._add((new,), _sha(kind, asked, made_from), None, owner=owner, project_id=project_id, now=now,
                          max_attempts=max_attempts, max_waiting=max_waiting, idem_key=idem_key, made_from=made_from,
                          reserved_by=reserved_by, kind=kind)
        return job

    def add_batch(self, new: Sequence[NewJob], *, owner: str, project_id: str, now: float, max_attempts: int, max_waiting: int,
                  idem_key: str | None = None, made_from: str | None = None, reserved_by: str | None = None,
                  kind: str = "generate") -> tuple[Job, ...]:
        """All of `new` or none, one after the other at the end of the queue; else as `add`."""
        sha = _sha(kind, [each.asked for each in new], made_from)
        return self._add(new, sha, new_id(now), owner=owner, project_id=project_id, now=now, max_attempts=max_attempts,
                         max_waiting=max_waiting, idem_key=idem_key, made_from=made_from, reserved_by=reserved_by, kind=kind)

    def _add(self, new: Sequence[NewJob], sha: str, batch_id: str | None, *, owner: str, now: float, max_waiting: int,
             idem_key: str | None, **common: Any) -> tuple[Job, ...]:
        """The first of a batch carries its `idem_key`."""
        def work(c: Connection) -> tuple[Job, ...]:
            if known := _repeated(c, idem_key, sha, owner):
                return known
            waiting = c.execute(select(func.count()).where(jobs.c.owner == owner, jobs.c.state.in_(WAITING))).scalar_one()
            if waiting + len(new) > max_waiting:
                raise NotAllowed(f"{waiting} jobs wait already; the limit is {max_waiting}"
                                 + (f", and {len(new)} more were asked for" if len(new) > 1 else "")
                                 + ". Cancel some, or come back when some are done.")
            last = c.execute(select(func.max(jobs.c.rank))).scalar() or 0.0
            ids = [new_id(now + number / 1000) for number in range(len(new))]  # ids are in the order of time
            for number, (job_id, each) in enumerate(zip(ids, new, strict=True)):
                c.execute(insert(jobs).values(
                    id=job_id, owner=owner, state=JobState.QUEUED.value, request=json.dumps(each.request), request_sha=sha,
                    idem_key=idem_key if number == 0 else None, rank=last + 1.0 + number, steps=each.steps,
                    notes=json.dumps(each.notes), created_at=now, batch_id=batch_id, **common))
                log(c, job_id, now, JobState.QUEUED.value)
            return tuple(job_of(job_row(c, job_id)) for job_id in ids)
        return self._db.write(work)

    def repeated(self, idem_key: str | None, asked: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, owner: str,
                 made_from: str | None = None, kind: str = "generate") -> tuple[Job, ...]:
        """What `add`, or `add_batch` where `asked` is a list, made before for this key; nothing where it is new. Raises
        InvalidRequest if the key was used for something else."""
        sha = _sha(kind, asked, made_from)
        return () if idem_key is None else self._db.read(lambda c: _repeated(c, idem_key, sha, owner))

    def has_key(self, idem_key: str, *, owner: str) -> bool:
        """Has a request of this owner come with it before?"""
        query = select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.idem_key == idem_key)
        return self._db.read(lambda c: c.execute(query).first()) is not None

    def batch(self, batch_id: str, *, owner: str) -> tuple[Job, ...]:
        """The jobs of a batch in the order they were asked for. Raises NotFound."""
        return self._db.read(lambda c: _batch(c, batch_id, owner))

    def cancel_batch(self, batch_id: str, *, owner: str, now: float) -> tuple[Job, ...]:
        """`ask_cancel` for every job of a batch that has not ended and is not being saved, in one step. Raises NotFound."""
        def work(c: Connection) -> tuple[Job, ...]:
            for job in _batch(c, batch_id, owner):
                row = locked_row(c, job.id)
                state = JobState(row.state)
                if not state.ended and state not in (JobState.CANCELLING, JobState.FINALIZING):
                    act(c, row, Action.ASK_CANCEL, now, cancel_requested_at=now)
            return _batch(c, batch_id, owner)
        return self._db.write(work)

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Raises NotFound."""
        return self._db.read(lambda c: job_of(job_row(c, job_id, owner)))

    def list(self, *, owner: str, active_only: bool = False, limit: int = 100) -> tuple[Job, ...]:
        """Running first, then waiting in their order, then ended ones, newest first."""
        group = case((jobs.c.state.in_(AT_WORK), 0), (jobs.c.state.in_(WAITING), 1), else_=2)
        query = select(jobs).where(jobs.c.owner == owner)
        if active_only:
            query = query.where(jobs.c.state.in_(AT_WORK + WAITING))
        query = query.order_by(group, case((group == 2, -func.coalesce(jobs.c.finished_at, 0.0)), else_=jobs.c.rank),
                               jobs.c.id).limit(limit)
        return self._db.read(lambda c: tuple(job_of(row) for row in c.execute(query)))

    def marks(self) -> tuple[JobMark, ...]:
        """Of every job that runs or waits, whosever it is, oldest first."""
        query = select(jobs.c.id, jobs.c.owner, jobs.c.status_seq, jobs.c.preview_seq).where(jobs.c.state.in_(AT_WORK + WAITING))
        return self._db.read(lambda c: tuple(JobMark(*row) for row in c.execute(query.order_by(jobs.c.id))))

    def loras_in_use(self) -> set[str]:
        """The LoRAs of every job that runs or waits, whosever it is."""
        query = select(jobs.c.request).where(jobs.c.state.in_(AT_WORK + WAITING))
        rows = self._db.read(lambda c: [json.loads(row.request) for row in c.execute(query)])
        return {name for request in rows for name, _weight in request.get("loras", ())}

    def models_in_use(self) -> tuple[str, ...]:
        """The model of every job that runs or waits and needs one, whosever it is; as often as there are such jobs."""
        query = select(jobs.c.request).where(jobs.c.state.in_(AT_WORK + WAITING))
        rows = self._db.read(lambda c: [json.loads(row.request) for row in c.execute(query)])
        return tuple(str(model) for request in rows if (model := request.get("model") or request.get("needs")))

    def events(self, job_id: str, *, owner: str) -> tuple[JobEvent, ...]:
        def work(c: Connection) -> tuple[JobEvent, ...]:
            job_row(c, job_id, owner)
            rows = c.execute(select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id))
            return tuple(event_of(row) for row in rows)
        return self._db.read(work)

    def counts(self, *, owner: str | None = None) -> dict[JobState, int]:
        """How many jobs are in each state; states without any are 0."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        found = self._db.read(lambda c: {row[0]: row[1] for row in c.execute(query)})
        return {state: found.get(state.value, 0) for state in JobState}

    def ask_cancel(self, job_id: str, *, owner: str, now: float) -> Job:
        """Waiting: cancelled. Running: its worker is told. Asking twice changes nothing. Raises NotFound, NotAllowed."""
        def work(c: Connection) -> Job:
            row = locked_row(c, job_id, owner)
            if row.state not in (JobState.CANCELLING.value, JobState.CANCELLED.value):
                act(c, row, Action.ASK_CANCEL, now, cancel_requested_at=now)
            return job_of(job_row(c, job_id))
        return self._db.write(work)

    def retry(self, job_id: str, *, owner: str, now: float) -> Job:
        """A failed or cancelled job waits again, at the end; what it saved of its sampling still counts."""
        return self._owner_act(job_id, owner, Action.RETRY, now, error_code=None, error=None, cancel_requested_at=None,
                               stage=None, step=0, finished_at=None, resumed_from=None, crashes=0, kills=0,
                               death_mark=None, lapses="[]", started_at=None, to_end=True)

    def pause(self, job_id: str, *, owner: str, now: float) -> Job:
        return self._owner_act(job_id, owner, Action.PAUSE, now)

    def resume(self, job_id: str, *, owner: str, now: float) -> Job:
        return self._owner_act(job_id, owner, Action.RESUME, now)

    def revise(self, job_id: str, *, owner: str, now: float, code: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Job:
        """A job that is held with `code` goes on with another request, in one step. `change`: of the stored request.

        Raises NotFound, NotAllowed where it is not held so, and what `change` raises; then nothing has changed.
        """
        def work(c: Connection) -> Job:
            row = locked_row(c, job_id, owner)
            if row.state != JobState.PAUSED.value or row.error_code != code:
                raise NotAllowed(f"This job does not wait for you: it is {row.state}.")
            act(c, row, Action.RESUME, now, request=json.dumps(change(json.loads(row.request))), error_code=None, error=None)
            return job_of(job_row(c, job_id))
        return self._db.write(work)

    def _owner_act(self, job_id: str, owner: str, action: Action, now: float, *, to_end: bool = False,
                   **values: Any) -> Job:
        def work(c: Connection) -> Job:
            row = locked_row(c, job_id, owner)
            if to_end:
                values["rank"] = (c.execute(select(func.max(jobs.c.rank))).scalar() or 0.0) + 1.0
            act(c, row, action, now, **values)
            return job_of(job_row(c, job_id))
        return self._db.write(work)

    def move(self, job_id: str, *, owner: str, to: str) -> Job:
        """Changes the order of this owner's waiting jobs. `to`: up, down, top, bottom; at the end nothing happens."""
        if to not in ("up", "down", "top", "bottom"):
            raise InvalidRequest("to", f"is {to!r:.40}; use up, down, top or bottom.")

        def work(c: Connection) -> Job:
            row = locked_row(c, job_id, owner)
            if row.state not in WAITING:
                raise NotAllowed("Only waiting jobs can be moved.")
            rows = c.execute(select(jobs.c.id, jobs.c.rank).where(jobs.c.owner == owner, jobs.c.state.in_(WAITING))
                             .order_by(jobs.c.rank, jobs.c.id)).all()
            ids = [r.id for r in rows]
            at = ids.index(job_id)
            target = {"up": max(at - 1, 0), "down": min(at + 1, len(ids) - 1), "top": 0, "bottom": len(ids) - 1}[to]
            ids.insert(target, ids.pop(at))
            for changed, old in zip(ids, rows, strict=True):  # the same ranks, handed out in the new order
                if changed != old.id:
                    c.execute(update(jobs).where(jobs.c.id == changed)
                              .values(rank=old.rank, status_seq=jobs.c.status_seq + 1))
            return job_of(job_row(c, job_id))
        return self._db.write(work)

    def ahead_of(self, rank: float | None = None) -> int:
        """How many jobs run or wait before this rank; None: before one added now."""
        query = select(func.count()).where(jobs.c.state.in_((*AT_WORK, JobState.QUEUED.value)))
        if rank is not None:
            query = query.where(jobs.c.rank < rank)
        return self._db.read(lambda c: c.execute(query).scalar_one())


def _batch(c: Connection, batch_id: str, owner: str) -> tuple[Job, ...]:
    rows = c.execute(select(jobs).where(jobs.c.batch_id == batch_id, jobs.c.owner == owner).order_by(jobs.c.id)).all()
    if not rows:
        raise NotFound("There is no such batch. It may belong to somebody else, or to another data directory.")
    return tuple(map(job_of, rows))


def _repeated(c: Connection, idem_key: str | None, sha: str, owner: str) -> tuple[Job, ...]:
    if idem_key is None:
        return ()
    row = c.execute(select(jobs).where(jobs.c.owner == owner, jobs.c.idem_key == idem_key)).one_or_none()
    if row is None:
        return ()
    if row.request_sha != sha:
        raise InvalidRequest("idempotency_key", "was used before for another request. Send a fresh key with every new request.")
    return (job_of(row),) if row.batch_id is None else _batch(c, row.batch_id, owner)


def _sha(kind: str, asked: Mapping[str, Any] | Sequence[Mapping[str, Any]], made_from: str | None) -> str:
    """What tells a repeated call from another one."""
    said = {"kind": kind, "request" if isinstance(asked, Mapping) else "batch": asked, "made_from": made_from}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
