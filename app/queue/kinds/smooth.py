"""A job of the kind 'interpolate' by method 'generate': the stage-two model makes the frames between those of a clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from app.history.records import Clip, Job
from app.history.sidecar import source_of
from app.planning import plan_here, recent_clips
from app.queue.clips import PlannedWork, clip_of, publish_clip
from app.queue.workplace import Attempt, Workplace
from app.settings import Settings
from engine.events import ClipWritten, CutsFound, Event
from engine.hardware import Hardware
from engine.inputs import input_file
from engine.interpolate.filling import plan_filled
from engine.interpolate.recipe import build_smoothing_recipe
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import origin_of, plan_smoothed
from engine.ladder import Lapse, read_lapses
from engine.media.probe import VideoFacts, probe_video
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.video.recipe import told


def both(request: InterpolateRequest, inputs: Path) -> tuple[VideoFacts, VideoFacts | None]:
    """Facts of the video, and of the second one where there is one. Raises InvalidRequest for one that is gone or cannot be read."""
    first = probe_video(input_file(inputs, request.video, "video"))
    return first, probe_video(input_file(inputs, request.then, "then"), field="then") if request.then else None


def smoothing(place: Workplace, job: Job, request: InterpolateRequest, facts: VideoFacts, second: VideoFacts | None) -> Smoothing:
    """Raises as `smoothed_here` and `Engine.spec` do."""
    origin = origin_of(facts)
    spec = place.engine.spec(str(job.request.get("needs") or origin.model), place.settings.models_dir)
    plan = smoothed_here(request, facts, second, spec, place.engine.hardware(), recent_clips(place.store, spec.name), place.settings,
                         read_lapses(job.lapses), own_device=bool(place.device))
    return Smoothing(job, request, plan, facts.fps)


def smoothed_here(request: InterpolateRequest, facts: VideoFacts, second: VideoFacts | None, spec: ModelSpec, hardware: Hardware,
                  clips: tuple[Clip, ...], settings: Settings, lapses: tuple[Lapse, ...] = (), own_device: bool = False) -> Plan:
    """The plan for this machine. Raises as `plan_smoothed`, or as `plan_filled` where there are two videos."""
    plan_one = lambda wish, model: plan_here(wish, model, hardware, clips, settings, lapses=lapses, own_device=own_device)  # noqa: E731
    if second is not None:
        return plan_filled(request, facts, second, origin_of(facts), spec, plan_one, hardware.device)
    return plan_smoothed(request, facts, origin_of(facts), spec, plan_one, hardware.device)


@dataclass
class Smoothing(PlannedWork):
    """One interpolation by a model, planned."""

    job: Job
    request: InterpolateRequest
    plan: Plan
    source_fps: float
    cuts: tuple[float, ...] = field(default=())

    @cached_property
    def recipe(self) -> dict[str, Any]:
        job, plan = self.job, self.plan
        source = {"title": self.request.title, "prompt": plan.prompt, "model": told(plan.model), "seed": plan.seed}
        return build_smoothing_recipe(self.request, plan, clip_id=job.id, made_from=job.made_from, source=source,
                                      created=datetime.fromtimestamp(job.created_at, timezone.utc), source_fps=self.source_fps)

    def run(self, attempt: Attempt) -> Iterator[Event]:
        for event in super().run(attempt):
            if isinstance(event, CutsFound):
                self.cuts = event.seconds
            yield event

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        if not isinstance(last, ClipWritten):
            raise RuntimeError("the engine ended without a clip")
        plan, recipe = self.plan, self.recipe | ({"cuts": list(self.cuts)} if self.cuts else {})
        clip = clip_of(self.job, last, recipe, name=source_of(recipe)["name"], prompt=plan.prompt, model=plan.model, seed=plan.seed)
        publish_clip(attempt, clip, last)
