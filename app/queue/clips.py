"""Publishing a clip, for every kind of job whose result is one: poster, sidecar, mp4 (atomic, in this order), then the row.

The mp4's name is a pure function of the job, so an attempt that died after publishing is found by the next one, which
then only writes the row.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from app.errors import LeaseLost
from app.history.leases import Claim
from app.history.records import Clip, Job
from app.history.recovery import clip_at, to_trash
from app.history.sidecar import clip_file, with_real_bytes, write_sidecar
from app.queue.workplace import Attempt, Workplace
from engine.events import ClipWritten, Event
from engine.memory.placement import Placement
from engine.plan import Plan, disk_need
from engine.video.publish import publish, write_atomic

log = logging.getLogger(__name__)


class ClipKind:
    """What all kinds of jobs share that end in one clip."""

    def finish_published(self, place: Workplace, claim: Claim) -> bool:
        """True when an earlier attempt had published the file already: only the row was missing."""
        final = place.settings.media_dir / clip_file(claim.job)
        if not final.exists():
            return False
        clip = clip_at(place.settings, place.store, final, time.time())
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


class PlannedWork(ABC):
    """What jobs have in common that a model makes: all of `app.queue.kinds.Work` that follows from their `plan` and `recipe`."""

    plan: Plan

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """How the clip is made, as its file says it."""

    @property
    def notes(self) -> tuple[str, ...]:
        return self.plan.notes

    @property
    def steps(self) -> int:
        return self.plan.sampled_steps

    @property
    def device(self) -> str:
        return self.plan.device

    @property
    def disk_bytes(self) -> int:
        return disk_need(self.plan)

    @property
    def placement(self) -> Placement | None:
        return self.plan.placement

    def run(self, attempt: Attempt) -> Iterator[Event]:
        place, settings = attempt.place, attempt.settings
        return place.engine.run(
            self.plan, part=attempt.part, workspace=attempt.workspace, recipe=self.recipe, models=place.models,
            cancelled=attempt.beat.cancelled, checkpoint_seconds=settings.checkpoint_seconds,
            preview_seconds=settings.preview_seconds, inputs=settings.inputs_dir, loras=settings.loras_dir,
            calibrations=settings.calibrations_dir)


def clip_of(job: Job, written: ClipWritten, recipe: dict[str, Any], *, name: str, prompt: str, model: str, seed: int) -> Clip:
    """The row of what the engine wrote for `job`. `name`: as it is to be, of a prompt its `title`."""
    return Clip(id=job.id, owner=job.owner, project_id=job.project_id, job_id=job.id, name=name, prompt=prompt, model=model,
                seed=seed, file=clip_file(job), sha256=written.sha256, size_bytes=written.size_bytes, width=written.width,
                height=written.height, frames=written.frames, fps=written.fps,
                recipe=recipe | {"seconds": written.seconds, "peak_bytes": written.peak_bytes},
                favourite=False, made_from=job.made_from, created_at=job.created_at)


def publish_clip(attempt: Attempt, clip: Clip, written: ClipWritten) -> None:
    """Artefacts first, then the row. A crash between any two lines leaves a state that the next attempt completes.

    Raises LeaseLost, NotAllowed (it is being cancelled), StorageBlocked, OSError.
    """
    claim, media = attempt.claim, attempt.settings.media_dir
    leases, reached = attempt.place.store.leases, attempt.place.engine.reached
    final = media / clip.file
    reached("before_finalizing")
    leases.finalize(claim, now=time.time())
    reached("finalizing")
    write_atomic(final.with_suffix(".webp"), written.poster_webp)
    reached("poster")
    write_sidecar(media, clip)
    reached("sidecar")
    if attempt.beat.lost:
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
