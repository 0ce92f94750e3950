"""The Length and smoothness control: seconds and a rate, key frames, and images the clip passes through.

    lengthened(values, kept, spec) -> (values, kept)     what the widgets say as request fields: frames, given
    timeline(values, kept)                               the images, as markup
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from app.length import frames_of, with_known
from app.ui import views
from app.ui.form import read_whole
from app.ui.html.keys import timeline_html
from app.ui.parts import OWNER, Changes
from app.ui.rates import EDITED_FOR, KNOWN, MADE, ONE_CLIP, rate_of
from engine.errors import InvalidRequest
from engine.request import GenerationRequest
from engine.spec import ModelSpec

if TYPE_CHECKING:
    from app.ui.actions import Click


SECONDS_STEP = 0.5


def seconds_slider() -> Component:
    return gr.Slider(label="Seconds", minimum=1, maximum=60, step=SECONDS_STEP, value=6, elem_id="field-seconds", buttons=[],
                     info="of video")


def lengthened(values: Mapping[str, Any], kept: Mapping[str, Any], spec: ModelSpec | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """`values` and `kept` with the clip's frames and given frames; without them where no rate is chosen. Raises `InvalidRequest`."""
    left = {key: value for key, value in kept.items() if key not in ("given", "edits", KNOWN, EDITED_FOR, MADE)}
    rate = rate_of(values.get("fps"))
    if rate is None and spec is not None and spec.shown:
        frames = read_whole("frames", values.get("frames"))
        left |= _given(kept, GenerationRequest(prompt="-", model=spec.name, frames=frames), spec)
        return {**values, "fps": None, "key_frames": None, "review": False}, left
    if rate is None or spec is None:
        return {**values, "fps": None, "key_frames": None, "review": False}, left
    keys = read_whole("key_frames", values.get("key_frames"))
    frames = _as_made(kept, values.get("seconds"), rate, keys) or frames_of(values.get("seconds"), rate, keys, spec)
    left |= _given(kept, GenerationRequest(prompt="-", model=spec.name, frames=frames, fps=rate, key_frames=keys), spec)
    if kept.get("edits") and kept.get(EDITED_FOR) == [frames, rate]:
        left["edits"] = kept["edits"]
    return {**values, "frames": frames, "fps": rate, "key_frames": keys}, left


def _as_made(kept: Mapping[str, Any], seconds: object, rate: float, keys: int | None) -> int | None:
    """The frames of the request that the form was filled from, while its length, rate and key frames stand there untouched."""
    made = kept.get(MADE)
    if not isinstance(made, list) or made[1:] != [rate, keys] or rate <= 0:
        return None
    if not isinstance(made[0], int) or not isinstance(seconds, (int, float)):
        return None
    return made[0] if abs(seconds - (made[0] - 1) / rate) <= SECONDS_STEP / 2 else None


def _given(kept: Mapping[str, Any], wish: GenerationRequest, spec: ModelSpec) -> dict[str, Any]:
    """{"given": ...} of the images at places of the clip; {} without any."""
    known = kept.get(KNOWN)
    if not isinstance(known, dict) or not known:
        return {}
    places = [(str(place), name) for place, name in known.items()]
    return {"given": [list(pair) for pair in with_known(wish, spec, places).given]}


def seconds_of(request: GenerationRequest) -> Any:
    """The update of the slider for `request`."""
    if request.fps is None or request.frames is None:
        return gr.update()
    seconds = (request.frames - 1) / request.fps
    return gr.update(value=seconds, minimum=min(1, seconds), maximum=max(60, seconds))


def timeline(values: Mapping[str, Any], kept: Mapping[str, Any], spec: ModelSpec | None = None) -> str:
    """The markup of the images the clip passes through. `spec`: of the chosen model: some take such images without key frames."""
    known, rounds = kept.get(KNOWN), values.get("fps") not in (None, "", ONE_CLIP)
    shown = "" if rounds or spec is None else spec.shown
    return timeline_html(known if isinstance(known, dict) else {}, on=rounds or bool(shown), shown=shown)


# ---- clicks


def length(click: Click) -> Changes:
    """The rate was changed: the timeline appears or goes."""
    return {click.parts.timeline: timeline(click.values, click.kept, views.spec_of(click.studio, click.values.get("model")))}


def unknown(click: Click) -> Changes:
    """Without this image."""
    known = {place: name for place, name in _known(click).items() if place != click.text("place")}
    return _redrawn(click, known)


def taken(click: Click, name: str, purpose: str) -> Changes:
    """An image has come in for a place of the clip (`known-PLACE`) or instead of a key frame (`key-JOB-FRAME`)."""
    kind, _, rest = purpose.partition("-")
    if kind == "known":
        return _redrawn(click, {**_known(click), rest[:12]: name})
    job, _, index = rest.partition("-")
    click.studio.edit_key_frame(job, _frame(index), name, owner=OWNER)
    return refreshed(click)


def key_again(click: Click) -> Changes:
    """A key frame is made anew, with another seed."""
    click.studio.edit_key_frame(click.text("job"), _frame(click.text("index")), owner=OWNER)
    return refreshed(click)


def go_on(click: Click) -> Changes:
    """The rounds may begin."""
    click.studio.go_on(click.text("job"), owner=OWNER)
    return refreshed(click)


def refreshed(click: Click) -> Changes:
    from app.ui.actions import refresh

    return {**refresh(click), click.parts.timer: gr.Timer(active=True)}


def _known(click: Click) -> dict[str, str]:
    known = click.kept.get(KNOWN)
    return dict(known) if isinstance(known, dict) else {}


def _redrawn(click: Click, known: Mapping[str, str]) -> Changes:
    from app.ui import create

    kept, spec = {**click.kept, KNOWN: dict(known)}, views.spec_of(click.studio, click.values.get("model"))
    return {click.parts.kept: kept, click.parts.timeline: timeline(click.values, kept, spec),
            click.parts.forecast: create.forecast_markup(click.studio, click.values, kept)}


def _frame(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 6):
        raise InvalidRequest("index", "must be the number of a key frame, from 0.")
    return int(value)


LENGTH_ACTIONS: tuple[Callable[[Click], Changes], ...] = (length, unknown, key_again, go_on)
