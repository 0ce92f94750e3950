"""One claimed job to its end, whatever that is; the same code in the worker process and in `sprocket generate`.

    claimed -> its kind plans it -> runs it, a generator of events -> publishes what came of it -> done

What differs from kind to kind is in `app/queue/kinds`; publishing a clip, which several do, in `app/queue/clips.py`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from app import storage
from app.errors import HistoryBusy, LeaseLost, NotAllowed
from app.history.leases import Claim
from app.history.records import Job
from app.history.recovery import drop_workspace
from app.history.sidecar import write_sidecar
from app.queue.heartbeat import Heartbeat
from app.queue.joblog import job_log
from app.queue.kinds import Work, kind_of
from app.queue.workplace import Attempt, Workplace
from engine.errors import AwaitingReview, Cancelled, CannotFit, DeviceLost, MemoryRanOut, SprocketError, StorageBlocked
from engine.events import CutsFound, Event, Preview, RanksRestarted, Resumed, SoundLeftOut, Stage, StageStarted, StepDone
from engine.interpolate.plan import cuts_note
from engine.ladder import PHASES, Lapse

__all__ = ["Workplace", "perform", "planned"]
log = logging.getLogger(__name__)
RETRY_SECONDS = 2.0


class _Lapsed(Exception):
    """Memory ran out in an attempt. `lapse` is None where there is no other way to do the work."""

    def __init__(self, lapse: Lapse | None) -> None:
        super().__init__("memory ran out")
        self.lapse = lapse


def perform(place: Workplace, claim: Claim, on_event: Callable[[Event], None] | None = None) -> None:
    """Runs a claimed job and stores how it ended. Raises only KeyboardInterrupt; the job is then cancelled, or waits again if its
    clip was being saved."""
    settings, job = place.settings, claim.job
    beat = Heartbeat(settings, place.store.leases, claim, place.stopping)
    with job_log(settings, job.id):
        try:
            log.info("attempt %d", job.attempt)
            with beat:
                if not kind_of(job.kind).finish_published(place, claim):
                    _run(Attempt(place, claim, beat), planned(place, job), on_event)
            drop_workspace(settings, job.id)
        except LeaseLost:
            _lost(place, job)
        except _Lapsed as error:
            _ran_out(place, claim, error.lapse)
        except (Cancelled, NotAllowed) as error:  # NotAllowed: the wish to cancel came while the last frame was written
            _stopped(place, claim, beat, error)
        except StorageBlocked as error:
            reason = str(error)
            log.warning("blocked: %s", reason)
            _stored(place, lambda: place.store.leases.block(claim, now=time.time(), code=StorageBlocked.code, reason=reason))
        except AwaitingReview as error:
            what = str(error)
            log.info("held: %s", what)
            _stored(place, lambda: place.store.leases.hold(claim, now=time.time(), code=AwaitingReview.code, reason=what))
        except HistoryBusy as error:  # between two of its writes; what it saved of its work counts for the next attempt
            why = str(error)
            log.warning("handed back, because the history does not answer: %s", why)
            _stored(place, lambda: place.store.leases.release(claim, now=time.time(), why=why))
        except SprocketError as error:
            _failed(place, claim, error.code, str(error))
            if isinstance(error, DeviceLost):  # every later job would fail here in seconds
                place.device_lost.set()
                place.stopping.set()
        except KeyboardInterrupt:
            _interrupted(place, claim)
            raise
        except Exception as error:  # the worker loop: one bad job must not take the queue down
            log.exception("an unforeseen error")
            _failed(place, claim, "internal", f"An unforeseen error ended this job: {type(error).__name__}: {error}. "
                                              "Its log says more; please report it.")


def _run(attempt: Attempt, work: Work, on_event: Callable[[Event], None] | None) -> None:
    settings, beat = attempt.settings, attempt.beat
    trouble = storage.problem(settings, work.disk_bytes)
    if trouble:
        raise StorageBlocked(trouble)
    way = None if work.placement is None else json.dumps({"device": work.device, "placement": work.placement.to_json()})
    beat.note(stage=Stage.LOAD.value, steps=work.steps, notes=json.dumps(work.notes), way=way)
    last: Event | None = None
    phase = Stage.LOAD.value
    try:
        for event in work.run(attempt):
            phase = _phase(event) or phase
            _tell(attempt, work, event)
            if on_event is not None:
                on_event(event)
            last = event
        beat.flush()  # what the work said last is in the row before the job ends
        work.publish(attempt, last)
    except MemoryRanOut as error:
        raise _Lapsed(_lapse(work, error.phase, error.where)) from error
    except MemoryError as error:
        raise _Lapsed(_lapse(work, phase, "device" if work.device == "cpu" else "ram")) from error
    finally:
        attempt.part.unlink(missing_ok=True)


def _lapse(work: Work, phase: str, where: str) -> Lapse | None:
    """What the next attempt should know; None where there is no other way to do the work."""
    return None if work.placement is None else Lapse(phase, where, work.placement)


def planned(place: Workplace, job: Job) -> Work:
    """The job's request against the machine as it is now. Raises what its kind raises, InvalidRequest for an unknown kind."""
    return kind_of(job.kind).resolve(place, job)


def _phase(event: Event) -> str | None:
    """The phase (`engine.ladder.PHASES`) that an event says the job is in."""
    if isinstance(event, StageStarted):
        return "text" if event.stage is Stage.ENCODE else event.stage.value
    return "image" if isinstance(event, StepDone) and event.stage is Stage.ENCODE else None


def _tell(attempt: Attempt, work: Work, event: Event) -> None:
    """Writes what the work said where a page can read it."""
    beat = attempt.beat

    def noted(*more: str) -> str:
        return json.dumps([*work.notes, *attempt.restarts, *more])

    if isinstance(event, StageStarted):
        log.info("stage %s", event.stage.value)
        steps = work.steps if event.stage in (Stage.SAMPLE, Stage.INTERPOLATE) else 0
        beat.note(stage=event.stage.value, step=0, steps=steps)
    elif isinstance(event, StepDone):
        beat.note(stage=event.stage.value, step=event.step, steps=event.steps, eta_seconds=event.eta_seconds)
    elif isinstance(event, Resumed):
        log.info("resumed from step %d of %d", event.step, event.steps)
        note = f"Resumed from step {event.step} of {event.steps}."
        beat.note(step=event.step, steps=event.steps, resumed_from=event.step, notes=noted(note))
    elif isinstance(event, RanksRestarted):
        log.warning("restarted, because %s. Its last lines:\n%s", event.why, event.log)
        attempt.restarts.append(f"Started again, because {event.why}.")
        beat.note(notes=noted())
    elif isinstance(event, SoundLeftOut):
        beat.note(notes=noted())  # by now it is among the work's
    elif isinstance(event, CutsFound):
        beat.note(notes=noted(cuts_note(event.seconds, event.faded)))
    elif isinstance(event, Preview):
        path = attempt.settings.job_dir(attempt.job.id) / "preview.webp"
        part = path.with_suffix(".part")
        try:
            part.write_bytes(event.webp)  # no fsync: a preview that a power cut eats is no loss
            part.replace(path)
        except OSError as error:  # nor is one that a full disk has no room for; what must be kept will say so
            log.warning("a preview was not written: %s", error)
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return
        beat.previews += 1
        beat.note(preview_seq=attempt.job.preview_seq + beat.previews)


def _lost(place: Workplace, job: Job) -> None:
    """Fenced out. If the other worker is through, its sidecar is put back, in case this one wrote over it."""
    log.warning("this attempt was fenced out and is abandoned")
    try:
        clip = place.store.leases.clip_of_job(job.id)
        if clip is not None:
            write_sidecar(place.settings.media_dir, clip)
            place.store.clips.sidecar_written(clip)
    except (SprocketError, OSError) as error:
        log.warning("its sidecar was not checked: %s", error)


def _stopped(place: Workplace, claim: Claim, beat: Heartbeat, error: SprocketError) -> None:
    leases = place.store.leases
    if beat.lost:
        _lost(place, claim.job)
    elif beat.cancel_wanted or isinstance(error, NotAllowed):
        log.info("cancelled")
        _stored(place, lambda: leases.confirm_cancel(claim, now=time.time()))
        drop_workspace(place.settings, claim.job.id)
    else:
        log.info("handed back, because the worker is stopping")
        _stored(place, lambda: leases.release(claim, now=time.time(), why="the worker was stopped"))


def _interrupted(place: Workplace, claim: Claim) -> None:
    """By Ctrl-C or SIGTERM. A clip that was being saved is too late to cancel: whoever takes its job next has little left to do."""
    try:
        place.store.jobs.ask_cancel(claim.job.id, owner=claim.job.owner, now=time.time())
        place.store.leases.confirm_cancel(claim, now=time.time())
    except NotAllowed:
        with suppress(LeaseLost):  # it is done
            place.store.leases.release(claim, now=time.time(), why="interrupted while its clip was being saved")


def _ran_out(place: Workplace, claim: Claim, lapse: Lapse | None) -> None:
    """The job waits again with one lapse more, or fails where nothing is left to try. This process has to end either way:
    what it holds cannot be trusted to come free."""
    try:
        if lapse is None:
            raise CannotFit("Memory ran out, and there is no way to do this with less. Close other programs, or ask for a smaller one.")
        log.info("memory ran out %s", PHASES[lapse.phase])
        after = planned(place, replace(claim.job, lapses=(*claim.job.lapses, lapse.to_json())))
        why = after.notes[-1]
        _stored(place, lambda: place.store.leases.lower(claim, now=time.time(), lapse=lapse.to_json(), why=why))
        log.warning("%s", why)
    except SprocketError as reason:  # nothing lower is left, and it says what would help
        _failed(place, claim, reason.code, str(reason))
    place.out_of_memory.set()
    place.stopping.set()


def _failed(place: Workplace, claim: Claim, code: str, message: str) -> None:
    log.error("failed: %s", message)
    _stored(place, lambda: place.store.leases.fail(claim, now=time.time(), code=code, message=message))


def _stored(place: Workplace, write: Callable[[], None]) -> None:
    """Stores how a job ended, however long the disk is full. Gives up when this process must end: its death says enough."""
    while True:
        try:
            write()
            return
        except LeaseLost:
            return
        except (StorageBlocked, HistoryBusy) as error:
            log.warning("the job's end was not stored yet: %s", error)
            if place.stopping.wait(RETRY_SECONDS):
                return
