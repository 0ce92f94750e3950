"""Jobs of the kind 'interpolate': more frames between those of a clip or of an uploaded video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from app.errors import NotFound
from app.history.records import Clip, Job
from app.history.sidecar import source_of
from app.queue.clips import ClipKind, clip_of, publish_clip
from app.queue.kinds import Work
from app.queue.kinds.smooth import both, smoothing
from app.queue.workplace import Attempt, Workplace
from engine.errors import InvalidRequest
from engine.events import ClipWritten, CutsFound, Event, SoundLeftOut
from engine.interpolate.filling import plan_flowed
from engine.interpolate.plan import LABEL, UNHEARD, InterpolatePlan, plan_interpolation
from engine.interpolate.recipe import build_interpolation_recipe
from engine.interpolate.request import InterpolateRequest, wish_words
from engine.video.recipe import told


class Interpolate(ClipKind):
    """A video to one with more frames."""

    what = "Motion interpolation"

    def title(self, request: Mapping[str, Any]) -> str:
        try:
            wish = _wish(request)
        except InvalidRequest:
            return LABEL
        return f"{wish_words(wish.fps, wish.slow, wish.then)}: {wish.title or 'a video'}"

    def resolve(self, place: Workplace, job: Job) -> Work:
        """By the method that is asked for. Raises as `plan_interpolation`, `plan_flowed`, `smoothing` or `both`."""
        request = _wish(job.request)
        facts, second = both(request, place.settings.inputs_dir)
        if request.method == "generate":
            return smoothing(place, job, request, facts, second)
        plan = plan_interpolation(request, facts) if second is None else plan_flowed(request, facts, second)
        generated = facts.recipe is not None or (second is not None and second.recipe is not None)
        return Interpolation(job, request, plan, _parent(place, job), generated)


def _wish(stored: Mapping[str, Any]) -> InterpolateRequest:
    """The request in a job's row. Beside it may stand the model that makes the frames (`needs`), for whoever asks what is in use."""
    return InterpolateRequest.from_mapping({name: value for name, value in stored.items() if name != "needs"})


def _parent(place: Workplace, job: Job) -> Clip | None:
    try:
        return place.store.clips.get(job.made_from, owner=job.owner) if job.made_from else None
    except NotFound:
        return None  # its row is gone; its pixels are an input by now


@dataclass
class Interpolation:
    """One interpolation by optical flow, planned."""

    job: Job
    request: InterpolateRequest
    plan: InterpolatePlan
    parent: Clip | None
    generated: bool
    """The video was itself made by a model."""
    cuts: tuple[float, ...] = field(default=())
    unheard: bool = False
    """Its sound had to be left out."""

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.plan.notes, *((UNHEARD,) if self.unheard else ()))

    @property
    def steps(self) -> int:
        return self.plan.frames

    @property
    def device(self) -> str:
        return self.plan.device

    @property
    def disk_bytes(self) -> int:
        return self.plan.disk_bytes

    @property
    def placement(self) -> None:
        return None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        parent = self.parent
        source: dict[str, Any] = {"title": self.request.title}
        if parent is not None:
            source |= source_of(parent.recipe) if "source" in parent.recipe else {"prompt": parent.prompt, "model": parent.model,
                                                                                   "seed": parent.seed}
        source |= {"model": told(source["model"])} if "model" in source else {}
        return build_interpolation_recipe(
            self.request, self.plan, clip_id=self.job.id, made_from=self.job.made_from, source=source, generated=self.generated,
            created=datetime.fromtimestamp(self.job.created_at, timezone.utc))

    def run(self, attempt: Attempt) -> Iterator[Event]:
        from engine.interpolate.run import run  # OpenCV and PyAV, which lists of jobs do not need

        for event in run(self.plan, part=attempt.part, workspace=attempt.workspace, recipe=self.recipe,
                         cancelled=attempt.beat.cancelled, inputs=attempt.settings.inputs_dir):
            if isinstance(event, CutsFound):
                self.cuts = event.seconds
            self.unheard = self.unheard or isinstance(event, SoundLeftOut)
            yield event

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        if not isinstance(last, ClipWritten):
            raise RuntimeError("the interpolation ended without a clip")
        recipe = self.recipe | ({"cuts": list(self.cuts)} if self.cuts else {})
        source = source_of(recipe)
        publish_clip(attempt, clip_of(self.job, last, recipe, name=source["name"], prompt=source["prompt"], model=LABEL,
                                      seed=source["seed"]), last)


KIND = Interpolate()
