"""What the user asked for: more frames between those of one video. Frozen, JSON-able, free of torch, PyAV and OpenCV."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from engine.request import INPUT_NAME, check_names, shown

SCHEMA_VERSION = 1
METHODS = ("flow", "generate")
MIN_FPS, MAX_FPS = 1.0, 120.0
MAX_SLOW = 16.0
MAX_TITLE_CHARS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class InterpolateRequest:
    """One wish for more frames. Raises `InvalidRequest` on construction for what is wrong for every video.

    At least one of `fps` and `slow` is given. What depends on the video (its own rate, its length) is checked by
    `engine.interpolate.plan.plan_interpolation`.
    """

    video: str
    """The video, as the name of an input (`<sha256>.<ext>`)."""
    fps: float | None = None
    """Frames per second of the result, 1 to 120. None: as many as the video has."""
    slow: float | None = None
    """How many times longer it lasts, above 1 to 16. None: as long as it is."""
    method: str = "flow"
    """'flow' moves pixels (motion interpolation, not generation); 'generate' has a model make the frames between."""
    title: str = ""
    """What people call the video, for lists; up to 200 characters."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen: the one way in)
        if not (isinstance(self.video, str) and INPUT_NAME.fullmatch(self.video)):
            raise InvalidRequest("video", f"must be the name of an input of this studio, 64 hex digits and its kind, not "
                                          f"{shown(self.video)}. Add the file first; adding it gives the name.")
        set_field("fps", _number("fps", self.fps, MIN_FPS, MAX_FPS, 24))
        set_field("slow", _number("slow", self.slow, 1.0, MAX_SLOW, 2))
        if self.slow == 1.0:
            raise InvalidRequest("slow", "is 1, which leaves the video as fast as it is. Use 2 for half the speed, or leave it out.",
                                 suggestion=2)
        if self.fps is None and self.slow is None:
            raise InvalidRequest("fps", "and slow are both missing, so there is nothing to do. Say how many frames a second (24), "
                                        "or how much slower (2).", suggestion=24)
        if self.method not in METHODS:
            raise InvalidRequest("method", f"{shown(self.method)} is not known. Use one of {', '.join(METHODS)}.", suggestion="flow")
        if not isinstance(self.title, str) or len(self.title) > MAX_TITLE_CHARS or not self.title.isprintable():
            raise InvalidRequest("title", f"must be a line of at most {MAX_TITLE_CHARS} characters, not {shown(self.title)}.")
        if self.schema_version != SCHEMA_VERSION:
            raise InvalidRequest("schema_version", f"{shown(self.schema_version)} was written by another version of Sprocket; "
                                                   f"this one reads {SCHEMA_VERSION}.")

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only. `from_mapping(to_json())` is the identity."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> InterpolateRequest:
        """A request out of untrusted values. Raises `InvalidRequest`; nothing is coerced."""
        check_names(cls, values, "a field of an interpolation")
        if "video" not in values:
            raise InvalidRequest("video", "is missing. Say which video gets more frames.")
        return cls(**values)


def wish_words(fps: float | None, slow: float | None) -> str:
    """What is asked for, in words that begin a title: 'Smooth to 24 fps', 'Slow down 2x to 24 fps'."""
    if slow is None:
        return f"Smooth to {fps:g} fps"
    return f"Slow down {slow:g}x" + (f" to {fps:g} fps" if fps is not None else "")


def _number(name: str, value: object, low: float, high: float, suggestion: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(name, f"must be a number, not {shown(value)}. Use {low:g} to {high:g}.", suggestion=suggestion)
    if not low <= value <= high:  # NaN is not
        best = suggestion if math.isnan(value) else min(max(value, low if name == "fps" else suggestion), high)
        raise InvalidRequest(name, f"is {shown(value)}; allowed is {low:g} to {high:g}.", suggestion=best)
    return float(value)
