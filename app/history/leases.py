"""Jobs as workers and recovery see them: claim under a lease, report, publish, hand back, take from the dead.

Every write of a worker carries its token; once the job has been given to somebody else the token matches no row, and the
write raises `LeaseLost` instead of touching what is no longer its own.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from app.history.records import Clip, Job, JobState
from app.history.rows import act, clip_of, insert_clip, job_of, job_row, leased_row, log
from app.history.schema import clips, jobs
from app.history.transactions import Transactions
from app.queue.process import ProcessId, from_json, seen_from_here, surely_dead
from app.queue.states import Action
from engine.events import Stage

HELD = (JobState.RUNNING.value, JobState.FINALIZING.value, JobState.CANCELLING.value)
RESERVED_SECONDS = 300.0
"""So long a job stays reserved for a process elsewhere of which nothing is heard: it has no lease before it is claimed."""
_STAGE_ORDER = {stage.value: number for number, stage in enumerate(Stage, start=1)}


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of one worker."""

    job: Job
    token: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a job may take its worker down at the same place before it fails."""

    crashes: int
    kills: int


class Leases:
    """The worker's side of the jobs table."""

    def __init__(self, database: Transactions, lease_seconds: float) -> None:
        self._db = database
        self.lease_seconds = lease_seconds

    def claim(self, who: ProcessId, *, now: float, only: str | None = None) -> Claim | None:
        """The first waiting job, now running under a lease of `who`; None when nothing waits. Owners take turns.

        `only`: this job and no other. Jobs reserved for another process are passed over.
        """
        if self._db.read(lambda c: c.execute(first_waiting(only)).first()) is None:
            return None  # without this look every idle poll would take the write lock

        def work(c: Connection) -> Claim | None:
            job_id = c.execute(first_waiting(only, lock=True)).scalar()
            if job_id is None:
                return None
            token = secrets.token_hex(8)
            row = job_row(c, job_id)
            act(c, row, Action.CLAIM, now, detail=f"attempt {row.attempt + 1}", attempt=row.attempt + 1, lease_token=token,
                lease_until=now + self.lease_seconds, holder=who.to_json(), stage=None, step=0, eta_seconds=None,
                started_at=row.started_at or now, error_code=None, error=None)
            return Claim(job_of(job_row(c, job_id)), token)
        return self._db.write_rows(work)

    def renew(self, claim: Claim, *, now: float, **progress: Any) -> bool:
        """Extends the lease and writes progress columns. True when the owner wants the job cancelled.

        Raises LeaseLost.
        """
        def work(c: Connection) -> bool:
            row = leased_row(c, claim.job.id, claim.token)
            values: dict[str, Any] = {"lease_until": now + self.lease_seconds}
            if progress:
                values |= progress | {"status_seq": jobs.c.status_seq + 1, "progress_at": now}
            c.execute(update(jobs).where(jobs.c.id == row.id).values(**values))
            return row.state == JobState.CANCELLING.value
        return self._db.write_rows(work)

    def look(self, claim: Claim) -> bool:
        """True when the owner wants the job cancelled; writes nothing. Raises LeaseLost."""
        return self._db.read(lambda c: leased_row(c, claim.job.id, claim.token, lock=False).state) == JobState.CANCELLING.value

    def note(self, claim: Claim, *, now: float, notes: tuple[str, ...], **values: Any) -> None:
        """Replaces the job's notes for people. Raises LeaseLost."""
        self.renew(claim, now=now, notes=json.dumps(notes), **values)

    def log(self, claim: Claim, *, now: float, what: str, detail: str = "") -> None:
        def work(c: Connection) -> None:
            log(c, leased_row(c, claim.job.id, claim.token).id, now, what, detail)
        self._db.write_rows(work)

    def finalize(self, claim: Claim, *, now: float) -> None:
        """From here on cancelling is too late. Raises LeaseLost, NotAllowed (it is being cancelled)."""
        self._act(claim, Action.FINALIZE, now, lease_until=now + self.lease_seconds)

    def finish(self, claim: Claim, clip: Clip, *, now: float) -> None:
        """The clip's row and the job's end in one transaction. Raises LeaseLost."""
        def work(c: Connection) -> None:
            row = leased_row(c, claim.job.id, claim.token)
            insert_clip(c, clip)
            act(c, row, Action.FINISH, now, detail=clip.file, clip_id=clip.id)
        self._db.write_rows(work)

    def complete(self, claim: Claim, *, now: float, detail: str = "", write: Callable[[Connection], None] | None = None) -> None:
        """Ends a job whose result is no clip. `write`: rows that belong to it, in the same transaction. Raises LeaseLost."""
        def work(c: Connection) -> None:
            row = leased_row(c, claim.job.id, claim.token)
            if write is not None:
                write(c)
            act(c, row, Action.FINISH, now, detail=detail)
        self._db.write_rows(work)

    def fail(self, claim: Claim, *, now: float, code: str, message: str) -> None:
        """Ends the job with a message for people. Raises LeaseLost."""
        self._act(claim, Action.FAIL, now, detail=f"{code}: {message}", error_code=code, error=message)

    def block(self, claim: Claim, *, now: float, code: str, reason: str) -> None:
        """The job waits until `unblock`. Raises LeaseLost."""
        self._act(claim, Action.BLOCK, now, detail=reason, error_code=code, error=reason)

    def hold(self, claim: Claim, *, now: float, code: str, reason: str) -> None:
        """The job waits until its owner goes on (`Jobs.revise`, `Jobs.resume`). Raises LeaseLost."""
        self._act(claim, Action.HOLD, now, detail=reason, error_code=code, error=reason)

    def release(self, claim: Claim, *, now: float, why: str) -> None:
        """Hands the job back unharmed; a job that was to be cancelled is cancelled. Raises LeaseLost."""
        self._act(claim, Action.RELEASE, now, detail=why, reserved_by=None)

    def lower(self, claim: Claim, *, now: float, lapse: dict[str, Any], why: str) -> None:
        """Memory ran out: the job waits again, at its old place, and its next attempt knows of it. Raises LeaseLost."""
        def work(c: Connection) -> None:
            row = leased_row(c, claim.job.id, claim.token)
            act(c, row, Action.RELEASE, now, detail=why, reserved_by=None, lapses=json.dumps([*json.loads(row.lapses), lapse]),
                notes=json.dumps([*json.loads(row.notes), why]))
        self._db.write_rows(work)

    def confirm_cancel(self, claim: Claim, *, now: float) -> None:
        """The work has stopped. Raises LeaseLost."""
        self._act(claim, Action.CONFIRM_CANCEL, now)

    def _act(self, claim: Claim, action: Action, now: float, *, detail: str = "", **values: Any) -> None:
        self._db.write_rows(lambda c: act(c, leased_row(c, claim.job.id, claim.token), action, now, detail=detail, **values))

    def blocked(self) -> tuple[Job, ...]:
        """In the order of the queue."""
        query = select(jobs).where(jobs.c.state == JobState.BLOCKED.value).order_by(jobs.c.rank, jobs.c.id)
        return self._db.read(lambda c: tuple(map(job_of, c.execute(query))))

    def unblock(self, job_ids: Sequence[str], *, now: float) -> int:
        """Those of these jobs that are blocked wait in the queue again. Returns how many."""
        query = select(jobs).where(jobs.c.state == JobState.BLOCKED.value, jobs.c.id.in_(job_ids))

        def work(c: Connection) -> int:
            rows = c.execute(query.with_for_update(skip_locked=True)).all()
            for row in rows:
                act(c, row, Action.UNBLOCK, now, detail="there is room again", error_code=None, error=None)
            return len(rows)
        return self._db.write(work)

    def reap(self, *, now: float, limits: Limits, dead: Callable[[ProcessId | None], bool] = surely_dead,
             crashed: ProcessId | None = None, cause: str = "its worker was killed", memory: bool = False) -> int:
        """Takes jobs away from workers that are dead or silent for a lease; they wait again, or fail when this was once
        too often. Reservations of dead processes are lifted, and of silent ones that cannot be seen from here (another host, or
        a container that was replaced). Returns how many rows changed.

        `crashed`: this process is known to have died of its own (signal, exit code, memory), for `cause`; it counts
        against `limits.crashes`. Every other death counts against `limits.kills`. `memory`: it was for want of memory, so
        that the job goes on with less.
        """
        def lost(row: Row[Any]) -> bool:
            return row.lease_until is None or row.lease_until < now or dead(from_json(row.holder or ""))

        held = select(jobs).where(jobs.c.state.in_(HELD))
        reserved = select(jobs).where(jobs.c.state == JobState.QUEUED.value, jobs.c.reserved_by.is_not(None))

        def find(c: Connection, held: Select[Any] = held, reserved: Select[Any] = reserved) -> tuple[list[Row[Any]], list[Row[Any]]]:
            return ([row for row in c.execute(held) if lost(row)],
                    [row for row in c.execute(reserved).all() if dead(who := from_json(row.reserved_by))
                     or (not seen_from_here(who) and now - _last_stir(c, row) > RESERVED_SECONDS)])
        if not any(self._db.read(find)):
            return 0

        def work(c: Connection) -> int:
            # A row that is locked is being written by a worker, which therefore lives.
            taken, free = find(c, held.with_for_update(skip_locked=True), reserved.with_for_update(skip_locked=True))
            for row in taken:
                ours = crashed is not None and from_json(row.holder or "") == crashed
                _take_back(c, row, now, limits, cause, ours, memory and ours)
            for row in free:
                c.execute(update(jobs).where(jobs.c.id == row.id).values(reserved_by=None))
            return len(taken) + len(free)
        return self._db.write(work)

    def adopt(self, clip: Clip, *, now: float) -> bool:
        """A published clip whose row was never written: the row now, and its job (if known) is done.

        False when the clip is there already, or its job was cancelled.
        """
        def work(c: Connection) -> bool:
            row = c.execute(select(jobs).where(jobs.c.id == clip.job_id).with_for_update()).one_or_none()  # before looking: its
            # worker may be writing the clip's row just now
            if c.execute(select(clips.c.id).where((clips.c.id == clip.id) | (clips.c.job_id == clip.job_id)
                                                  | (clips.c.file == clip.file))).first():
                return False
            if row is not None:
                if row.state in (JobState.CANCELLED.value, JobState.CANCELLING.value):
                    return False
                if row.state != JobState.DONE.value:
                    act(c, row, Action.ADOPT, now, detail=f"recovered {clip.file}", clip_id=clip.id,
                        error_code=None, error=None)
            insert_clip(c, clip)
            return True
        return self._db.write(work)

    def held(self) -> tuple[Claim, ...]:
        """Every job that is in the hands of a worker, with its token."""
        query = select(jobs).where(jobs.c.state.in_(HELD))
        rows = self._db.read(lambda c: c.execute(query).all())
        return tuple(Claim(job_of(row), row.lease_token or "") for row in rows)

    def waiting(self, limit: int = 32) -> tuple[Job, ...]:
        """The first jobs that anybody may claim, in the order of claiming."""
        query = select(jobs).where(jobs.c.state == JobState.QUEUED.value, jobs.c.reserved_by.is_(None))
        rows = self._db.read(lambda c: c.execute(query.order_by(_turn(), jobs.c.rank, jobs.c.id).limit(limit)).all())
        return tuple(map(job_of, rows))

    def holder(self, job_id: str) -> ProcessId | None:
        """Who has a job in hand; None where nobody has."""
        row = self._db.read(lambda c: c.execute(select(jobs.c.holder).where(jobs.c.id == job_id, jobs.c.state.in_(HELD))).one_or_none())
        return None if row is None else from_json(row.holder or "")

    def unfinished(self) -> tuple[Job, ...]:
        """Every job that has not ended."""
        ended = [state.value for state in JobState if state.ended]
        rows = self._db.read(lambda c: c.execute(select(jobs).where(jobs.c.state.not_in(ended))).all())
        return tuple(map(job_of, rows))

    def last_progress(self) -> float:
        """When any job last moved on; 0 if none ever has."""
        return self._db.read(lambda c: c.execute(select(func.max(jobs.c.progress_at))).scalar()) or 0.0

    def cancelling(self) -> tuple[tuple[str, ProcessId | None, float], ...]:
        """(job id, holder, asked at) of the jobs that were told to stop and have not yet."""
        query = select(jobs).where(jobs.c.state == JobState.CANCELLING.value)
        rows = self._db.read(lambda c: c.execute(query).all())
        return tuple((row.id, from_json(row.holder or ""), row.cancel_requested_at or 0.0) for row in rows)

    def clip_of_job(self, job_id: str) -> Clip | None:
        row = self._db.read(lambda c: c.execute(select(clips).where(clips.c.job_id == job_id)).one_or_none())
        return None if row is None else clip_of(row)


def first_waiting(only: str | None = None, *, lock: bool = False) -> Select[Any]:
    """The id of the job to be claimed next. `lock`: its row is locked, and what another worker is taking is passed over."""
    query = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED.value)
    query = query.where(jobs.c.id == only) if only else query.where(jobs.c.reserved_by.is_(None))
    query = query.order_by(_turn(), jobs.c.rank, jobs.c.id).limit(1)
    return query.with_for_update(skip_locked=True) if lock else query


def progress_mark(stage: str | None, step: int) -> int:
    """How far a job got, as one growing number."""
    return _STAGE_ORDER.get(stage or "", 0) * 1_000_000 + step


def _take_back(c: Connection, row: Row[Any], now: float, limits: Limits, cause: str, crashed: bool, memory: bool) -> None:
    mark = progress_mark(row.stage, row.step)
    further = mark > (row.death_mark if row.death_mark is not None else -1)
    crashes = (0 if further else row.crashes) + (1 if crashed else 0)
    kills = (0 if further else row.kills) + (0 if crashed else 1)
    values: dict[str, Any] = {"crashes": crashes, "kills": kills, "death_mark": mark if further else row.death_mark}
    if memory and row.way:
        values["lapses"] = json.dumps([*json.loads(row.lapses), _lapse_of(row)])
    give_up = crashes >= limits.crashes or kills >= limits.kills
    if not give_up or row.state == JobState.CANCELLING.value:
        act(c, row, Action.REAP, now, detail=cause, reserved_by=None, **values)
        return
    where = f"{row.stage} {row.step}/{row.steps}" if row.stage else "before its first step"
    message = (f"The process that made this video ended {crashes + kills} times at the same place ({where}); last time {cause}. "
               "Its log says more. A smaller size or fewer frames may work; Retry tries again.")
    act(c, row, Action.REAP, now, detail=message, to=JobState.FAILED, error_code="crash", error=message, **values)


def _last_stir(c: Connection, row: Row[Any]) -> float:
    """When something was last heard of the process that this waiting job is reserved for: it runs the others of its batch first."""
    if row.batch_id is None:
        return float(row.created_at)
    times = [func.max(jobs.c[name]) for name in ("created_at", "progress_at", "finished_at", "lease_until")]
    return max(filter(None, c.execute(select(*times).where(jobs.c.batch_id == row.batch_id)).one()))


def _lapse_of(row: Row[Any]) -> dict[str, Any]:
    """What `engine.ladder.Lapse.to_json` gives, of a worker that the kernel ended before it could say anything."""
    way = json.loads(row.way)
    phase = row.stage or Stage.LOAD.value
    if phase == Stage.ENCODE.value:
        phase = "image" if row.step else "text"
    return {"phase": phase, "where": "device" if way["device"] == "cpu" else "ram", "placement": way["placement"]}


def _turn() -> Any:
    """When the job's owner last had a turn: who has waited longest comes first, however many jobs another has put in before."""
    theirs = jobs.alias()
    return select(func.coalesce(func.max(theirs.c.started_at), 0.0)).where(theirs.c.owner == jobs.c.owner).scalar_subquery()
