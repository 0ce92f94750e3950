"""More frames for a clip or an uploaded video: asking for it, and what it will take. Pages, command line and API come here.

The video is kept as an input, named after its content, so the job does the same whatever becomes of the clip meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.history.records import Clip, Forecast, Job
from app.planning import forecast_of, recent_clips
from app.queue.kinds import INTERPOLATE
from app.queue.kinds.smooth import both, smoothed_here
from app.queue.process import this_process
from app.restoring import named_here
from engine.errors import InvalidRequest
from engine.interpolate.filling import plan_flowed
from engine.interpolate.plan import LABEL, FlowTiming, InterpolatePlan, forecast_seconds, plan_interpolation
from engine.interpolate.request import MAX_TITLE_CHARS, InterpolateRequest
from engine.interpolate.smoothing import origin_of
from engine.lines import one_line
from engine.plan import RECENT, Plan

if TYPE_CHECKING:
    from app.studio import Studio

LOCAL = "local"
PRETENDED, ALSO_PRETENDED = f"{'0' * 64}.mp4", f"{'1' * 64}.mp4"
HALF_TITLE = MAX_TITLE_CHARS // 2 - 10


class Interpolations:
    """The use-cases; owns nothing."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def submit(self, source: str | Path, *, owner: str = LOCAL, fps: float | None = None, slow: float | None = None,
               method: str = "flow", then: str | Path | None = None, between: int | None = None, idempotency_key: str | None = None,
               reserve: bool = False) -> Job:
        """One durable job. `source`: id of a clip, or a `Path` of a video file. `then`: another one; frames are made between the two
        and all becomes one clip. Returns once it is on the disk.

        Raises InvalidRequest (also for a video that cannot be read), NotFound, NotAllowed, StorageBlocked; no row exists then.
        """
        request, clip = self._request(source, owner, {"fps": fps, "slow": slow, "method": method}, then, between)
        return self._add(request, clip, owner, idempotency_key, reserve)

    def submit_input(self, video: str, *, owner: str = LOCAL, fps: float | None = None, slow: float | None = None,
                     method: str = "flow", title: str = "", then: str = "", between: int | None = None,
                     project_id: str | None = None, idempotency_key: str | None = None) -> Job:
        """As `submit`, for a video that is an input already, by its name; `then` too is one. `project_id`: None for the first one."""
        request = InterpolateRequest(video=video, fps=fps, slow=slow, method=method, title=title, then=then, between=between)
        return self._add(request, None, owner, idempotency_key, False, project_id)

    def forecast(self, source: str | Path, *, owner: str = LOCAL, fps: float | None = None, slow: float | None = None,
                 method: str = "flow", then: str | Path | None = None, between: int | None = None) -> Forecast:
        """What it would cost here. Raises what `submit` raises for the wish."""
        request, clip = self._request(source, owner, {"fps": fps, "slow": slow, "method": method}, then, between)
        return self.forecast_of(self.plan(request, clip.model if clip else ""))

    def plan(self, request: InterpolateRequest, known: str = "") -> InterpolatePlan | Plan:
        """`known`: the model of the clip as the history knows it; its file says of a folder the name alone. Takes half a second: a process
        of its own looks at the video. Raises InvalidRequest, and for generation as `plan_smoothed`."""
        studio = self._studio
        facts, second = both(request, studio.settings.inputs_dir)
        if request.method == "flow":
            return plan_interpolation(request, facts) if second is None else plan_flowed(request, facts, second)
        spec = studio.spec(named_here(origin_of(facts).model, studio.models(), known))
        return smoothed_here(request, facts, second, spec, studio.hardware(), recent_clips(studio.store, spec.name), studio.settings)

    def forecast_of(self, plan: InterpolatePlan | Plan) -> Forecast:
        store = self._studio.store
        if isinstance(plan, Plan):
            return forecast_of(store, plan)
        timings = [timing for clip in store.clips.recent(LABEL, limit=RECENT) if (timing := _timing(clip))]
        seconds, basis = forecast_seconds(plan, timings)
        return Forecast(seconds=seconds, memory_bytes=plan.predicted_bytes, basis=basis, notes=plan.notes,
                        queued_ahead=store.jobs.ahead_of(), stages={"interpolate": seconds}, disk_bytes=plan.disk_bytes)

    def _request(self, source: str | Path, owner: str, wish: Mapping[str, Any], then: str | Path | None,
                 between: int | None) -> tuple[InterpolateRequest, Clip | None]:
        """What the wish itself has wrong is said before a video is copied."""
        request = InterpolateRequest(video=PRETENDED, then=ALSO_PRETENDED if then else "", between=between, **wish)
        if then is not None and then == source:
            raise InvalidRequest("then", "is the same clip as the first. Choose two different ones.")
        video, title, clip = self._video(source, owner, "video")
        if not then:
            return replace(request, video=video, title=title), clip
        second, called, other = self._video(then, owner, "then")
        return replace(request, video=video, then=second, then_clip=other.id if other else "",
                       title=_line(f"{title[:HALF_TITLE]}, then {called[:HALF_TITLE]}")), clip

    def _video(self, source: str | Path, owner: str, field: str) -> tuple[str, str, Clip | None]:
        """(input, what people call it, the clip that it is)."""
        studio = self._studio
        if isinstance(source, Path):
            return _added(studio, source, field), _line(source.name), None
        clip = studio.clip(source, owner=owner)
        return _added(studio, studio.clip_path(clip.id, owner=owner), field), _line(clip.name or clip.prompt), clip

    def _add(self, request: InterpolateRequest, clip: Clip | None, owner: str, key: str | None, reserve: bool,
             project_id: str | None = None) -> Job:
        studio = self._studio
        asked = request.to_json() | {"title": ""}  # a clip that was given another name meanwhile is still the same clip
        made_from = None if clip is None else clip.id
        if known := studio.store.jobs.repeated(key, asked, owner=owner, made_from=made_from, kind=INTERPOLATE):
            return known[0]
        plan = self.plan(request, clip.model if clip else "")
        now, steps = time.time(), plan.sampled_steps if isinstance(plan, Plan) else plan.frames
        needs = {"needs": plan.model} if isinstance(plan, Plan) else {}
        project = studio.store.projects.chosen(project_id if clip is None else clip.project_id, owner=owner, now=now).id
        return studio.store.jobs.add(
            owner=owner, project_id=project, kind=INTERPOLATE, request=request.to_json() | needs, asked=asked, now=now,
            steps=steps, notes=plan.notes, idem_key=key, made_from=made_from,
            max_attempts=studio.settings.max_crashes, max_waiting=studio.settings.max_waiting,
            reserved_by=this_process().to_json() if reserve else None)


def _added(studio: Studio, path: Path, field: str) -> str:
    try:
        return studio.add_input(path, field="video")
    except InvalidRequest as error:
        raise InvalidRequest(field, error.message, suggestion=error.suggestion) from error


def _timing(clip: Clip) -> FlowTiming | None:
    """What a clip cost, out of its recipe; None where the recipe does not say. Recipes come back from files."""
    try:
        pixels = clip.frames * clip.width * clip.height
        seconds = sum(float(each) for each in clip.recipe["seconds"].values())
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return FlowTiming(pixels, seconds) if 0 < seconds < 1e7 else None


def _line(text: str) -> str:
    """`text` as a title."""
    return one_line(one_line(text)[:MAX_TITLE_CHARS])  # it may have been cut at a joiner
