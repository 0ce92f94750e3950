"""What the Length and smoothness control says, to request fields and back, without components."""

from __future__ import annotations

from typing import Any

from engine.errors import InvalidRequest
from engine.request import GenerationRequest

ONE_CLIP = "one clip"
RATES = ("8", "12", "16", "24", "30")
KNOWN = "known"
"""Beside the kept fields: {place: name of an input}."""
EDITED_FOR = "edits_for"
"""Beside the kept fields: what the kept edits of key frames belong to."""
MADE = "made_as"
"""Beside the kept fields: [frames, rate, key frames or None] of the request that is shown. Seconds alone do not tell its frames."""


def rate_of(value: object) -> float | None:
    """The rate that the control says; None for one clip. Raises `InvalidRequest` for what is no number."""
    if value in (None, "", ONE_CLIP):
        return None
    try:
        return float(str(value))
    except ValueError:
        raise InvalidRequest("fps", f"is {str(value)[:40]!r}; use frames a second, such as 8, 16 or 24.") from None


def known_of(request: GenerationRequest) -> dict[str, Any]:
    """What the form keeps of a request's given frames and edits."""
    if not request.hierarchical:
        return {}
    last = (request.frames or 0) - 1
    places = {0: "first", last: "last"}
    kept: dict[str, Any] = {}
    if request.given:
        kept[KNOWN] = {places.get(index, str(index)) if request.frames else str(index): name for index, name in request.given}
    if request.frames and request.fps:
        kept[MADE] = [request.frames, request.fps, request.key_frames]
    if request.edits:
        kept |= {"edits": [list(pair) for pair in request.edits], EDITED_FOR: [request.frames, request.fps]}
    return kept
