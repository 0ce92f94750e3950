"""What a page shows of an image or video that a clip starts from: its facts, and its pixels as they will be fitted.

The file is probed in the limited process before anything decodes it; no torch. Inputs are named after what is in them, so what was
found out about one holds for ever.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from app.inputs import ENDINGS
from app.settings import Settings
from engine.errors import InvalidRequest
from engine.inputs import input_file
from engine.media.probe import VideoFacts, probe_image, probe_video
from engine.request import FITS, INPUT_NAME, MAX_FRAMES, MAX_SIDE

VIDEO_ENDINGS = {ENDINGS[reader] for reader in ("mp4", "matroska", "avi")}
PICTURES = 8
"""A video is shown as so many of its frames, side by side."""
MAX_IMAGE_SIDE, MAX_STRIP_SIDE = 768, 384
"""Pixels of a preview's longer side: of an image, and of each picture of a strip."""
LEAST_SHOW = 0.25
"""As in `engine.media.clip`: a last frame that is on display for less than this part of its time does not count."""


@dataclass(frozen=True, slots=True)
class InputFacts:
    """One input, as people would describe it."""

    name: str
    field: str
    """'image' or 'video': the request field that takes it."""
    width: int
    """Pixels, upright."""
    height: int
    seconds: float = 0.0
    """0 for an image."""
    fps: float = 0.0
    note: str = ""
    """What the user should know about how it is used; mostly empty."""

    def frames_at(self, fps: float) -> int:
        """How many frames the video gives at `fps` frames a second; 0 for an image."""
        return max(1, math.ceil(self.seconds * fps - LEAST_SHOW)) if self.field == "video" else 0


def field_of(name: str) -> str:
    """'image' or 'video', by the ending that `app.inputs` gave the file."""
    return "video" if name.rpartition(".")[2] in VIDEO_ENDINGS else "image"


def facts(settings: Settings, name: str) -> InputFacts:
    """Raises InvalidRequest (field 'image' or 'video') for an input that is not here or cannot be read."""
    return _facts(input_file(settings.inputs_dir, checked(name), field_of(name)))


@lru_cache(maxsize=64)
def _facts(path: Path) -> InputFacts:
    if field_of(path.name) == "image":
        image = probe_image(path)
        return InputFacts(path.name, "image", image.width, image.height, note=image.note)
    video = _video(path)
    return InputFacts(path.name, "video", video.width, video.height, video.seconds, video.fps, video.note)


@lru_cache(maxsize=64)
def _video(path: Path) -> VideoFacts:
    return probe_video(path)


def preview(settings: Settings, name: str, *, width: int, height: int, fit: str, frames: int = 1, fps: float = 8.0) -> bytes:
    """A WebP of the input as a model of `width` x `height` gets it, by the same code, only smaller.

    An image gives one picture; a video a strip of `PICTURES` pictures, side by side, spread over its first `frames` at `fps` (the
    last one again where it is shorter). Raises InvalidRequest.
    """
    path = input_file(settings.inputs_dir, checked(name), field_of(name))
    _check_shape(width, height, fit, frames, fps)
    chosen = cast('Literal["crop", "pad"]', fit)
    from PIL import Image  # with PyAV half a second, and seldom needed

    if field_of(name) == "image":
        from engine.media.image import load_image

        small = smaller(width, height, MAX_IMAGE_SIDE)
        return _webp(Image.fromarray(load_image(path, width=small[0], height=small[1], fit=chosen)))
    return _webp(Image.fromarray(_strip(path, smaller(width, height, MAX_STRIP_SIDE), chosen, PICTURES * fps / max(frames, PICTURES))))


def _strip(path: Path, size: tuple[int, int], fit: Literal["crop", "pad"], fps: float) -> Any:
    """uint8 (height, PICTURES * width, 3)."""
    from itertools import islice

    import numpy as np

    from engine.media.clip import iter_frames

    pictures = list(islice(iter_frames(path, width=size[0], height=size[1], fit=fit, fps=fps, facts=_video(path)), PICTURES))
    if not pictures:
        raise InvalidRequest("video", "has no picture that can be decoded. Convert it to an H.264 mp4.")
    return np.concatenate([*pictures, *pictures[-1:] * (PICTURES - len(pictures))], axis=1)


def smaller(width: int, height: int, longest: int) -> tuple[int, int]:
    """The same shape with no side above `longest` pixels; never larger than it was."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def checked(name: str) -> str:
    """Raises InvalidRequest for what is no name of an input: no path gets further."""
    if not INPUT_NAME.fullmatch(name):
        raise InvalidRequest("image", "must be the name of an input of this studio. Add the file first; adding it gives the name.")
    return name


def _check_shape(width: int, height: int, fit: str, frames: int, fps: float) -> None:
    for side, value in (("width", width), ("height", height)):
        if not 16 <= value <= MAX_SIDE:
            raise InvalidRequest(side, f"is {value}; allowed is 16 to {MAX_SIDE:,}.")
    if fit not in FITS:
        raise InvalidRequest("fit", f"is not known. Use one of {', '.join(FITS)}.")
    if not 1 <= frames <= MAX_FRAMES or not 0.1 <= fps <= 240:
        raise InvalidRequest("frames", f"or their rate is out of range: 1 to {MAX_FRAMES:,} frames, 0.1 to 240 a second.")


def _webp(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=2)
    return buffer.getvalue()
