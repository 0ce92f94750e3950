"""One claimed job to its end, whatever that is; the same code in the worker process and in `sprocket generate`.

    claimed -> plan -> engine.run -> finalizing -> poster, sidecar, mp4 (atomic, in this order) -> one transaction: done

The mp4's name is a pure function of the job, so an attempt that died after publishing is found by the next one, which
then only writes the row.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from app import storage
from app.errors import HistoryBusy, LeaseLost, NotAllowed
from app.history.leases import Claim
from app.history.records import Clip, Job
from app.history.recovery import clip_at, drop_workspace, part_name, to_trash
from app.history.sidecar import clip_file, title, with_real_bytes, write_sidecar
from app.history.store import Store
from app.loras import Loras
from app.planning import hardware_for, plan_here, recent_clips
from app.queue.door import Engine
from app.queue.heartbeat import Heartbeat
from app.queue.joblog import job_log
from app.settings import Settings
from engine.errors import Cancelled, MemoryRanOut, SprocketError, StorageBlocked
from engine.events import ClipWritten, Event, Preview, RanksRestarted, Resumed, Stage, StageStarted, StepDone
from engine.ladder import PHASES, Lapse, read_lapses
from engine.plan import Plan, disk_need
from engine.request import GenerationRequest
from engine.video.publish import publish, write_atomic
from engine.video.recipe import build_recipe

log = logging.getLogger(__name__)
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a process needs to run jobs."""

    settings: Settings
    store: Store
    engine: Engine
    models: Any
    """What `engine.open_models()` returned: weights stay loaded from job to job."""
    stopping: threading.Event
    """Set when this process should hand its job back and end."""
    out_of_memory: threading.Event = field(default_factory=threading.Event)
    """Set when memory ran out here: jobs go on in another process."""


class _Lapsed(Exception):
    """Memory ran out in an attempt."""

    def __init__(self, lapse: Lapse) -> None:
        super().__init__(lapse.phase)
        self.lapse = lapse


def perform(place: Workplace, claim: Claim, on_event: Callable[[Event], None] | None = None) -> None:
    """Runs a claimed job and stores how it ended. Raises only KeyboardInterrupt (the job is then cancelled)."""
    settings, job = place.settings, claim.job
    beat = Heartbeat(settings, place.store.leases, claim, place.stopping)
    with job_log(settings, job.id):
        try:
            log.info("attempt %d", job.attempt)
            with beat:
                if not _finish_published(place, claim):
                    _finish_run(place, claim, beat, on_event)
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
        except SprocketError as error:
            _failed(place, claim, error.code, str(error))
        except KeyboardInterrupt:
            place.store.jobs.ask_cancel(job.id, owner=job.owner, now=time.time())
            place.store.leases.confirm_cancel(claim, now=time.time())
            raise
        except Exception as error:  # the worker loop: one bad job must not take the queue down
            log.exception("an unforeseen error")
            _failed(place, claim, "internal", f"An unforeseen error ended this job: {type(error).__name__}: {error}. "
                                              "Its log says more; please report it.")


def _finish_published(place: Workplace, claim: Claim) -> bool:
    """True when an earlier attempt had published the file already: only the row was missing."""
    final = place.settings.media_dir / clip_file(claim.job)
    if not final.exists():
        return False
    clip = clip_at(place.settings, place.store.projects, final, time.time())
    if clip is None or clip.job_id != claim.job.id:
        to_trash(place.settings, final)
        return False
    log.info("the file was already published; writing its row")
    job = claim.job
    clip = replace(clip, owner=job.owner, project_id=job.project_id, made_from=job.made_from, created_at=job.created_at)
    place.store.leases.finalize(claim, now=time.time())
    write_sidecar(place.settings.media_dir, clip)
    place.store.leases.finish(claim, clip, now=time.time())
    return True


def _finish_run(place: Workplace, claim: Claim, beat: Heartbeat, on_event: Callable[[Event], None] | None) -> None:
    settings, job, engine = place.settings, claim.job, place.engine
    resolved = planned(place, job)
    trouble = storage.problem(settings, disk_need(resolved))
    if trouble:
        raise StorageBlocked(trouble)
    way = {"device": resolved.device, "placement": resolved.placement.to_json()}
    beat.note(stage=Stage.LOAD.value, steps=resolved.sampled_steps, notes=json.dumps(resolved.notes), way=json.dumps(way))
    recipe = build_recipe(resolved, clip_id=job.id, made_from=job.made_from,
                          created=datetime.fromtimestamp(job.created_at, timezone.utc),
                          loras=Loras(settings).used(resolved.loras))
    part = settings.parts_dir / part_name(job, claim.token)
    written: ClipWritten | None = None
    phase = Stage.LOAD.value
    try:
        for event in engine.run(resolved, part=part, workspace=settings.job_dir(job.id) / "work", recipe=recipe,
                                models=place.models, cancelled=beat.cancelled,
                                checkpoint_seconds=settings.checkpoint_seconds, preview_seconds=settings.preview_seconds,
                                inputs=settings.inputs_dir, loras=settings.loras_dir, calibrations=settings.calibrations_dir):
            phase = _phase(event) or phase
            _tell(place, claim, beat, resolved, event)
            if on_event is not None:
                on_event(event)
            if isinstance(event, ClipWritten):
                written = event
        if written is None:
            raise RuntimeError("the engine ended without a clip")
        _publish(place, claim, beat, _clip(job, resolved, recipe, written), written)
    except MemoryRanOut as error:
        raise _Lapsed(Lapse(error.phase, error.where, resolved.placement)) from error
    except MemoryError as error:
        raise _Lapsed(Lapse(phase, "device" if resolved.device == "cpu" else "ram", resolved.placement)) from error
    finally:
        part.unlink(missing_ok=True)


def planned(place: Workplace, job: Job) -> Plan:
    """The job's request against the machine as it is now. Raises as `plan_here` and `Engine.spec` do."""
    request = GenerationRequest.from_mapping(job.request)
    spec = place.engine.spec(request.model, place.settings.models_dir)
    return plan_here(request, spec, hardware_for(place.engine, request), recent_clips(place.store, request.model), place.settings,
                     lapses=read_lapses(job.lapses))


def _phase(event: Event) -> str | None:
    """The phase (`engine.ladder.PHASES`) that an event says the job is in."""
    if isinstance(event, StageStarted):
        return "text" if event.stage is Stage.ENCODE else event.stage.value
    return "image" if isinstance(event, StepDone) and event.stage is Stage.ENCODE else None


def _tell(place: Workplace, claim: Claim, beat: Heartbeat, resolved: Plan, event: Event) -> None:
    """Writes what the engine said where a page can read it."""
    if isinstance(event, StageStarted):
        log.info("stage %s", event.stage.value)
        steps = resolved.sampled_steps if event.stage is Stage.SAMPLE else 0
        beat.note(stage=event.stage.value, step=0, steps=steps)
    elif isinstance(event, StepDone):
        beat.note(stage=event.stage.value, step=event.step, steps=event.steps, eta_seconds=event.eta_seconds)
    elif isinstance(event, Resumed):
        log.info("resumed from step %d of %d", event.step, event.steps)
        note = f"Resumed from step {event.step} of {event.steps}."
        beat.note(step=event.step, steps=event.steps, resumed_from=event.step, notes=json.dumps([*resolved.notes, note]))
    elif isinstance(event, RanksRestarted):
        log.warning("restarted, because %s. Its last lines:\n%s", event.why, event.log)
        beat.note(notes=json.dumps([*resolved.notes, f"Started again, because {event.why}."]))
    elif isinstance(event, Preview):
        path = place.settings.job_dir(claim.job.id) / "preview.webp"
        part = path.with_suffix(".part")
        part.write_bytes(event.webp)  # no fsync: a preview that a power cut eats is no loss
        part.replace(path)
        beat.previews += 1
        beat.note(preview_seq=claim.job.preview_seq + beat.previews)


def _clip(job: Job, resolved: Plan, recipe: dict[str, Any], written: ClipWritten) -> Clip:
    return Clip(id=job.id, owner=job.owner, project_id=job.project_id, job_id=job.id, name=title(resolved.prompt),
                prompt=resolved.prompt, model=resolved.model, seed=resolved.seed, file=clip_file(job),
                sha256=written.sha256, size_bytes=written.size_bytes, width=written.width, height=written.height,
                frames=written.frames, fps=written.fps,
                recipe=recipe | {"seconds": written.seconds, "peak_bytes": written.peak_bytes},
                favourite=False, made_from=job.made_from, created_at=job.created_at)


def _publish(place: Workplace, claim: Claim, beat: Heartbeat, clip: Clip, written: ClipWritten) -> None:
    """Artefacts first, then the row. A crash between any two lines leaves a state that the next attempt completes."""
    media, leases, reached = place.settings.media_dir, place.store.leases, place.engine.reached
    final = media / clip.file
    reached("before_finalizing")
    beat.flush()
    leases.finalize(claim, now=time.time())
    reached("finalizing")
    write_atomic(final.with_suffix(".webp"), written.poster_webp)
    reached("poster")
    write_sidecar(media, clip)
    reached("sidecar")
    if beat.lost:
        raise LeaseLost("This job was given to another worker.")
    try:
        publish(written.part, final)
    except FileExistsError:
        # A worker that was thought dead got here first. Its file is as good: same request, same seed.
        clip = with_real_bytes(media, clip)
        write_sidecar(media, clip)
    reached("published")
    leases.finish(claim, clip, now=time.time())
    reached("committed")


def _lost(place: Workplace, job: Job) -> None:
    """Fenced out. If the other worker is through, its sidecar is put back, in case this one wrote over it."""
    log.warning("this attempt was fenced out and is abandoned")
    try:
        clip = place.store.leases.clip_of_job(job.id)
        if clip is not None:
            write_sidecar(place.settings.media_dir, clip)
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


def _ran_out(place: Workplace, claim: Claim, lapse: Lapse) -> None:
    """The job waits again with one lapse more, or fails where nothing is left to try. This process has to end either way:
    what it holds cannot be trusted to come free."""
    log.info("memory ran out %s", PHASES[lapse.phase])
    try:
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
