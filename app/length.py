"""How long and how smooth a clip is to be, as people say it (seconds, a rate, first and last images), as request fields.

Pages, command line and API share it. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import InvalidRequest
from engine.interpolate.levels import frames_for
from engine.interpolate.planning import levels_of
from engine.interpolate.shown import at_once
from engine.request import MAX_FPS, MAX_LONG_FRAMES, MIN_FPS, GenerationRequest
from engine.spec import ModelSpec

MIN_SECONDS, MAX_SECONDS = 0.1, 1024.0
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}


def frames_of(seconds: object, fps: float | None, key_frames: int | None, spec: ModelSpec) -> int:
    """Frames of a clip of about `seconds` that rounds can make. Raises `InvalidRequest`."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InvalidRequest("seconds", f"is {str(seconds)[:40]}; allowed is {MIN_SECONDS:g} to {MAX_SECONDS:g}.")
    rate = spec.fps if fps is None else fps
    if not MIN_FPS <= rate <= MAX_FPS:
        raise InvalidRequest("fps", f"is {rate:g}; allowed is {MIN_FPS:g} to {MAX_FPS:g}.")
    frames = frames_for(float(seconds), rate, key_frames, most_keys=spec.max_frames)
    if frames > MAX_LONG_FRAMES:
        raise InvalidRequest("seconds", f"is {seconds:g}, at {rate:g} fps {frames:,} frames; the limit is {MAX_LONG_FRAMES:,}. Ask for "
                                        f"{MAX_LONG_FRAMES / rate:.0f} s, or a lower rate.")
    return frames


def with_known(request: GenerationRequest, spec: ModelSpec, known: Sequence[tuple[str, str]]) -> GenerationRequest:
    """`request` with images at places of the clip: (place, name of an input).

    A place is a frame number, or first, middle or last; middle is the key frame nearest to it. Raises `InvalidRequest`.
    """
    if not known:
        return request
    keys, stride = _places(request, spec)
    given = list(request.given)
    for place, name in known:
        if place in PLACES:
            number = round(PLACES[place] * (keys - 1)) * stride
        elif place.isascii() and place.isdigit() and len(place) <= 6:
            number = int(place)
        else:
            raise InvalidRequest("given", f"names {place[:40]!r}; use the number of a frame, from 0, or {', '.join(PLACES)}.")
        given.append((number, name))
    return replace(request, given=tuple(given))


def _places(request: GenerationRequest, spec: ModelSpec) -> tuple[int, int]:
    """(places of the clip that can be named, frames from one to the next): its key frames, or all frames of one made at once."""
    if at_once(request, spec):
        return request.frames or spec.native_frames, 1
    levels, _, _ = levels_of(request, spec)
    return levels.key_frames, levels.stride


def frames_at_once(seconds: float, spec: ModelSpec) -> int:
    """How many frames of the model come nearest to `seconds`; no more than it can make."""
    step = spec.frame_step
    return min(max(1, round(seconds * spec.fps / step)) * step + 1, spec.max_frames - (spec.max_frames - 1) % step)


def fractions(request: Mapping[str, Any]) -> dict[str, str]:
    """Of stored given frames those at the first, middle and last place, as a form shows them: {place: input}."""
    frames = request.get("frames")
    if not isinstance(frames, int) or frames < 2:
        return {}
    found: dict[str, str] = {}
    for index, name in request.get("given", ()):
        nearest = min(PLACES, key=lambda place: abs(PLACES[place] - index / (frames - 1)))
        found.setdefault(nearest, name)
    return found
