"""Jobs of the kind 'generate': a request for a model, made into one clip by `engine.run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from app.history.records import Job
from app.history.sidecar import title
from app.loras import Loras
from app.planning import hardware_on, plan_here, recent_clips
from app.queue.clips import ClipKind, PlannedWork, clip_of, publish_clip
from app.queue.workplace import Attempt, Workplace
from engine.events import ClipWritten, Event
from engine.ladder import read_lapses
from engine.plan import Plan
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
        plan = plan_here(request, spec, hardware_on(place.engine, request.device), recent_clips(place.store, request.model), place.settings,
                         lapses=read_lapses(job.lapses), own_device=bool(place.device))
        return Generation(place, job, plan)


@dataclass
class Generation(PlannedWork):
    """One generation, planned."""

    place: Workplace
    job: Job
    plan: Plan

    @cached_property
    def recipe(self) -> dict[str, Any]:
        job = self.job
        return build_recipe(self.plan, clip_id=job.id, made_from=job.made_from,
                            created=datetime.fromtimestamp(job.created_at, timezone.utc),
                            loras=Loras(self.place.settings).used(self.plan.loras))

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        if not isinstance(last, ClipWritten):
            raise RuntimeError("the engine ended without a clip")
        plan = self.plan
        clip = clip_of(self.job, last, self.recipe, name=title(plan.prompt), prompt=plan.prompt, model=plan.model, seed=plan.seed)
        publish_clip(attempt, clip, last)


KIND = Generate()
