"""A job of the kind 'interpolate' by method 'generate': the stage-two model makes the frames between those of a clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from app.history.records import Clip, Job
from app.history.sidecar import clip_file, source_of, title
from app.planning import plan_here, recent_clips
from app.queue.clips import publish_clip
from app.queue.workplace import Attempt, Workplace
from app.settings import Settings
from engine.events import ClipWritten, CutsFound, Event
from engine.hardware import Hardware
from engine.interpolate.recipe import build_smoothing_recipe
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import origin_of, plan_smoothed
from engine.ladder import Lapse, read_lapses
from engine.media.probe import VideoFacts
from engine.memory.placement import Placement
from engine.plan import Plan, disk_need
from engine.spec import ModelSpec


def smoothing(place: Workplace, job: Job, request: InterpolateRequest, facts: VideoFacts) -> Smoothing:
    """Raises as `plan_smoothed` and `Engine.spec` do."""
    origin = origin_of(facts)
    spec = place.engine.spec(origin.model, place.settings.models_dir)
    plan = smoothed_here(request, facts, spec, place.engine.hardware(), recent_clips(place.store, origin.model), place.settings,
                         read_lapses(job.lapses))
    return Smoothing(job, request, plan, facts.fps)


def smoothed_here(request: InterpolateRequest, facts: VideoFacts, spec: ModelSpec, hardware: Hardware, clips: tuple[Clip, ...],
                  settings: Settings, lapses: tuple[Lapse, ...] = ()) -> Plan:
    """The plan for this machine. Raises as `plan_smoothed`."""
    return plan_smoothed(request, facts, origin_of(facts), spec,
                         lambda wish, model: plan_here(wish, model, hardware, clips, settings, lapses=lapses), hardware.device)


@dataclass
class Smoothing:
    """One interpolation by a model, planned."""

    job: Job
    request: InterpolateRequest
    plan: Plan
    source_fps: float
    cuts: tuple[float, ...] = field(default=())

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
        job, plan = self.job, self.plan
        source = {"title": self.request.title, "prompt": plan.prompt, "model": plan.model, "seed": plan.seed}
        return build_smoothing_recipe(self.request, plan, clip_id=job.id, made_from=job.made_from, source=source,
                                      created=datetime.fromtimestamp(job.created_at, timezone.utc), source_fps=self.source_fps)

    def run(self, attempt: Attempt) -> Iterator[Event]:
        place, settings = attempt.place, attempt.settings
        for event in place.engine.run(
                self.plan, part=attempt.part, workspace=attempt.workspace, recipe=self.recipe, models=place.models,
                cancelled=attempt.beat.cancelled, checkpoint_seconds=settings.checkpoint_seconds,
                preview_seconds=settings.preview_seconds, inputs=settings.inputs_dir, loras=settings.loras_dir,
                calibrations=settings.calibrations_dir):
            if isinstance(event, CutsFound):
                self.cuts = event.seconds
            yield event

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        if not isinstance(last, ClipWritten):
            raise RuntimeError("the engine ended without a clip")
        job, plan = self.job, self.plan
        recipe = self.recipe | ({"cuts": list(self.cuts)} if self.cuts else {}) | {"seconds": last.seconds, "peak_bytes": last.peak_bytes}
        publish_clip(attempt, Clip(
            id=job.id, owner=job.owner, project_id=job.project_id, job_id=job.id, name=title(source_of(recipe)["name"]), prompt=plan.prompt,
            model=plan.model, seed=plan.seed, file=clip_file(job), sha256=last.sha256, size_bytes=last.size_bytes, width=last.width,
            height=last.height, frames=last.frames, fps=last.fps, recipe=recipe, favourite=False, made_from=job.made_from,
            created_at=job.created_at), last)
