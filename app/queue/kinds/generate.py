"""Jobs of the kind 'generate': a request for a model, made into one clip by `engine.run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from app.history.records import Clip, Job
from app.history.sidecar import clip_file, title
from app.loras import Loras
from app.planning import hardware_for, plan_here, recent_clips
from app.queue.clips import ClipKind, publish_clip
from app.queue.workplace import Attempt, Workplace
from engine.events import ClipWritten, Event
from engine.ladder import read_lapses
from engine.memory.placement import Placement
from engine.plan import Plan, disk_need
from engine.request import GenerationRequest
from engine.video.recipe import build_recipe


class Generate(ClipKind):
    """Words, an image or a video to a clip."""

    what = "Video"

    def title(self, request: Mapping[str, Any]) -> str:
        return str(request.get("prompt", ""))

    def resolve(self, place: Workplace, job: Job) -> Generation:
        """Raises as `plan_here` and `Engine.spec` do."""
        request = GenerationRequest.from_mapping(job.request)
        spec = place.engine.spec(request.model, place.settings.models_dir)
        plan = plan_here(request, spec, hardware_for(place.engine, request), recent_clips(place.store, request.model), place.settings,
                         lapses=read_lapses(job.lapses))
        return Generation(place, job, plan)


@dataclass
class Generation:
    """One generation, planned."""

    place: Workplace
    job: Job
    plan: Plan

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

    @cached_property
    def recipe(self) -> dict[str, Any]:
        job = self.job
        return build_recipe(self.plan, clip_id=job.id, made_from=job.made_from,
                            created=datetime.fromtimestamp(job.created_at, timezone.utc),
                            loras=Loras(self.place.settings).used(self.plan.loras))

    def run(self, attempt: Attempt) -> Iterator[Event]:
        place, settings = attempt.place, attempt.settings
        return place.engine.run(
            self.plan, part=attempt.part, workspace=attempt.workspace, recipe=self.recipe, models=place.models,
            cancelled=attempt.beat.cancelled, checkpoint_seconds=settings.checkpoint_seconds,
            preview_seconds=settings.preview_seconds, inputs=settings.inputs_dir, loras=settings.loras_dir,
            calibrations=settings.calibrations_dir)

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        if not isinstance(last, ClipWritten):
            raise RuntimeError("the engine ended without a clip")
        publish_clip(attempt, self._clip(last), last)

    def _clip(self, written: ClipWritten) -> Clip:
        job, plan = self.job, self.plan
        return Clip(id=job.id, owner=job.owner, project_id=job.project_id, job_id=job.id, name=title(plan.prompt),
                    prompt=plan.prompt, model=plan.model, seed=plan.seed, file=clip_file(job),
                    sha256=written.sha256, size_bytes=written.size_bytes, width=written.width, height=written.height,
                    frames=written.frames, fps=written.fps,
                    recipe=self.recipe | {"seconds": written.seconds, "peak_bytes": written.peak_bytes},
                    favourite=False, made_from=job.made_from, created_at=job.created_at)


KIND = Generate()
