"""What the user asked for: more frames between those of one video. Frozen, JSON-able, free of torch, PyAV and OpenCV."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from engine.lines import is_shown
from engine.request import INPUT_NAME, check_names, real, shown

SCHEMA_VERSION = 1
CLIP_ID = re.compile(r"[0-9a-f]{32}")
METHODS = ("flow", "generate")
MIN_FPS, MAX_FPS = 1.0, 120.0
MAX_SLOW = 16.0
MAX_TITLE_CHARS = 200
MAX_BETWEEN, DEFAULT_BETWEEN = 127, 7
"""Frames between two videos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterpolateRequest:
    """One wish for more frames. Raises `InvalidRequest` on construction for what is wrong for every video.

    At least one of `fps` and `slow` is given, or else `then`: a second video, and frames are made between the two. What depends
    on the videos (their own rate, their length) is checked by `engine.interpolate.plan` and `engine.interpolate.filling`.
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
    then: str = ""
    """A second video, as the name of an input: the result is the first one, frames between, and this one."""
    between: int | None = None
    """How many frames come between the two, 1 to 127. None: 7."""
    then_clip: str = ""
    """Id of the clip that the second video is, where it is one."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen: the one way in)
        _check_video("video", self.video)
        set_field("fps", real("fps", self.fps, MIN_FPS, MAX_FPS, 24))
        set_field("slow", real("slow", self.slow, 1.0, MAX_SLOW, 2))
        if self.slow == 1.0:
            raise InvalidRequest("slow", "is 1, which leaves the video as fast as it is. Use 2 for half the speed, or leave it out.",
                                 suggestion=2)
        self._check_second()
        if self.fps is None and self.slow is None and not self.then:
            raise InvalidRequest("fps", "and slow are both missing, so there is nothing to do. Say how many frames a second (24), "
                                        "or how much slower (2).", suggestion=24)
        if self.method not in METHODS:
            raise InvalidRequest("method", f"{shown(self.method)} is not known. Use one of {', '.join(METHODS)}.", suggestion="flow")
        if not isinstance(self.title, str) or len(self.title) > MAX_TITLE_CHARS or not is_shown(self.title):
            raise InvalidRequest("title", f"must be a line of at most {MAX_TITLE_CHARS} characters, not {shown(self.title)}.")
        if self.schema_version != SCHEMA_VERSION:
            raise InvalidRequest("schema_version", f"{shown(self.schema_version)} was written by another version of Sprocket; "
                                                   f"this one reads {SCHEMA_VERSION}.")

    def _check_second(self) -> None:
        """`then`, `between` and `then_clip`, which go together."""
        if not self.then:
            if self.between is not None or self.then_clip or self.then != "":
                raise InvalidRequest("between", "says how many frames come between two videos, and there is one. Name the second as "
                                                "`then`.")
            return
        _check_video("then", self.then)
        if self.then == self.video:
            raise InvalidRequest("then", "is the same video as the first. Choose two different ones.")
        if self.fps is not None or self.slow is not None:
            raise InvalidRequest("fps", "and slow are for one video; frames between two come at the rate that both have. Leave them out, "
                                        "and smooth the result afterwards.")
        if self.between is not None:
            if isinstance(self.between, bool) or not isinstance(self.between, int):
                raise InvalidRequest("between", f"must be a whole number of frames, not {shown(self.between)}.", suggestion=DEFAULT_BETWEEN)
            if not 1 <= self.between <= MAX_BETWEEN:
                raise InvalidRequest("between", f"is {shown(self.between)}; allowed is 1 to {MAX_BETWEEN} frames.",
                                     suggestion=min(max(self.between, 1), MAX_BETWEEN))
        if not isinstance(self.then_clip, str) or (self.then_clip and not CLIP_ID.fullmatch(self.then_clip)):
            raise InvalidRequest("then_clip", f"must be the id of a clip, not {shown(self.then_clip)}.")

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


def wish_words(fps: float | None, slow: float | None, then: str = "") -> str:
    """What is asked for, in words that begin a title: 'Smooth to 24 fps', 'Slow down 2x to 24 fps', 'Fill between'."""
    if then:
        return "Fill between"
    if slow is None:
        return f"Smooth to {fps:g} fps"
    return f"Slow down {slow:g}x" + (f" to {fps:g} fps" if fps is not None else "")


def _check_video(field: str, name: object) -> None:
    if not (isinstance(name, str) and INPUT_NAME.fullmatch(name)):
        raise InvalidRequest(field, f"must be the name of an input of this studio, 64 hex digits and its kind, not {shown(name)}. Add the "
                                    "file first; adding it gives the name.")
