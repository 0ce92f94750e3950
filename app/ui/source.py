"""From what the form says to what its source panel shows; and which model can start from what. Reads the studio, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.input_view import InputFacts
from app.ui import views
from app.ui.form import INPUT_OF, START, asked_of, start_of
from app.ui.html.source import SourceView, source_html
from engine.errors import InvalidRequest, SprocketError
from engine.plan import DEFAULT_STRENGTH, sampled_steps
from engine.request import FITS, MAX_FRAMES, MAX_SIDE, MAX_STEPS
from engine.spec import ModelSpec

EXTENDS = "extends"
"""Beside the kept fields: where the image is from, in words."""


def settled(kept: object, spec: ModelSpec | None) -> dict[str, Any]:
    """`kept` with a start that the model can do: an image-to-video model starts from an image, whatever was chosen before."""
    said = dict(kept) if isinstance(kept, Mapping) else {}
    start = start_of(said)
    modes = spec.modes if spec else tuple(INPUT_OF)
    return {**said, START: start if start in modes else modes[0]}


def waits_for(kept: Mapping[str, Any]) -> str:
    """'image' or 'video' where the start needs one and none was given yet; else ''."""
    needed = INPUT_OF[start_of(kept)]
    return needed if needed and not kept.get(needed) else ""


def parent(made_from: object, kept: Mapping[str, Any]) -> str | None:
    """The clip that the next one comes from: the one that is remixed, or extended, as long as it does start from that frame."""
    if not isinstance(made_from, str) or (kept.get(EXTENDS) and start_of(kept) != "i2v"):
        return None
    return made_from or None


def model_for(mode: str, specs: Sequence[ModelSpec], *, like: tuple[int, int] | None = None) -> ModelSpec | None:
    """An installed model that can do `mode`; of several the one whose own size (width, height) is nearest to `like`."""
    able = [spec for spec in specs if mode in spec.modes and spec.shown != "ends"]  # that one wants a last frame as well
    if like is None:
        return able[0] if able else None
    return min(able, key=lambda spec: abs(spec.native_width - like[0]) + abs(spec.native_height - like[1]), default=None)


def source_view(values: Mapping[str, Any], kept: Mapping[str, Any], spec: ModelSpec | None, others: Mapping[str, str],
                facts: InputFacts | None, problem: str = "") -> SourceView:
    """`values`: of the form by field; what is no sensible number there is the model's own. `kept`: settled."""
    start = start_of(kept)
    steps = _whole(values.get("steps"), 1, MAX_STEPS) or (spec.recommended_steps if spec else 12)
    said = values.get("strength")
    strength = float(said) if isinstance(said, (int, float)) and not isinstance(said, bool) and 0 < said <= 1 else DEFAULT_STRENGTH
    return SourceView(
        start=start, modes=spec.modes if spec else tuple(INPUT_OF), model=spec.name if spec else "", others=others, facts=facts,
        problem=problem, width=_whole(values.get("width"), 16, MAX_SIDE) or (spec.native_width if spec else 192),
        height=_whole(values.get("height"), 16, MAX_SIDE) or (spec.native_height if spec else 128),
        frames=_whole(values.get("frames"), 1, MAX_FRAMES) or (spec.native_frames if spec else 25), fps=spec.fps if spec else 8.0,
        fit=values["fit"] if values.get("fit") in FITS else FITS[0], frame_step=spec.frame_step if spec else 8,
        run=(sampled_steps(steps, strength), steps) if start == "v2v" else None,
        extends=str(kept.get(EXTENDS) or "") if start == "i2v" else "")


def panel(studio: Any, values: Mapping[str, Any], kept: object, problem: str = "") -> str:
    """The source panel's markup for what the form says."""
    spec = views.spec_of(studio, values.get("model"))
    said = settled(kept, spec)
    name = asked_of(said).get(INPUT_OF[start_of(said)])
    facts = None
    if name:
        try:
            facts = studio.input_facts(name)
        except SprocketError as error:
            problem = problem or plainly(error)
    missing = [mode for mode in INPUT_OF if spec and mode not in spec.modes]
    specs = studio.models() if missing else ()
    like = (spec.native_width, spec.native_height) if spec else None
    others = {mode: found.name for mode in missing if (found := model_for(mode, specs, like=like))}
    return source_html(source_view(values, said, spec, others, facts, problem))


def plainly(error: SprocketError) -> str:
    """The error's words where it is plain which field they are about."""
    words = error.message if isinstance(error, InvalidRequest) else str(error)
    return words[:1].upper() + words[1:]


def _whole(value: object, low: int, high: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if low <= value <= high else None
