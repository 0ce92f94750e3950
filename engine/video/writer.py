"""Frames in, mp4 out: H.264, yuv420p, streaming, readable from its first byte on (faststart), recipe in its metadata."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from engine.errors import OutputRejected
from engine.preview import webp
from engine.video.health import FrameHealth
from engine.video.probe import probe
from engine.video.publish import storage_errors
from engine.video.recipe import METADATA_KEY, comment

# crf 17: visually lossless. mbtree off: with it, libx264's AVX-512 code gives another file on each run (seen with PyAV
# 18.1 on small frames), and the same request shall give the same pixels.
ENCODER = {"crf": "17", "preset": "medium", "mbtree": "0"}
POSTER_WIDTH = 512
POSTER_QUALITY = 82
# The matrix of BT.601: players that ignore the tags assume it for small clips, so all agree on the colours.
BT601, BT709, LIMITED = 6, 1, 1


class ClipWriter:
    """Writes one file under a temporary name; owns it until `finish`. A context manager: leaving early removes it."""

    def __init__(self, part: Path, *, width: int, height: int, fps: float, frames: int, recipe: Mapping[str, Any]) -> None:
        """Raises `StorageBlocked` if nothing can be written there. `frames`: how many will come."""
        self.part, self.frames, self.size, self.fps = part, frames, (width, height), fps
        self.health = FrameHealth()
        self.poster: bytes = b""
        with storage_errors(part.parent):
            part.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(part.absolute()), "w", format="mp4",
                                      options={"movflags": "faststart+use_metadata_tags"})
        self._container.metadata[METADATA_KEY] = json.dumps(recipe, ensure_ascii=False, sort_keys=True)
        self._container.metadata["comment"] = comment(recipe)
        rate = Fraction(fps).limit_denominator(1001)
        stream = self._container.add_stream("libx264", rate=rate, options=dict(ENCODER))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = BT601, BT709, BT709, LIMITED
        self._stream = stream

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.discard()

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 (n, height, width, 3). Raises `StorageBlocked`."""
        self.health.add(frames)
        middle = self.frames // 2 - (self.health.frames - len(frames))
        if 0 <= middle < len(frames):
            self.poster = _poster(frames[middle])
        with storage_errors(self.part.parent):
            for pixels in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace=BT601, dst_color_range=LIMITED)
                self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Close the file and check it: frames look like a video, and the file gives all of them back.

        Raises `OutputRejected`, `StorageBlocked`.
        """
        with storage_errors(self.part.parent):
            self._container.mux(self._stream.encode())
            self._container.close()
        self.health.check()
        facts = probe(self.part)
        if (facts.frames, facts.width, facts.height) != (self.frames, *self.size):
            raise OutputRejected(f"the written file holds {facts.frames} frames of {facts.width} x {facts.height} instead of "
                                 f"{self.frames} of {self.size[0]} x {self.size[1]}. The disk may be failing; try again.")

    def discard(self) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(OSError, ValueError):  # what broke the writing breaks the closing too
            self._container.close()
        self.part.unlink(missing_ok=True)


def _poster(frame: np.ndarray) -> bytes:
    """A still for the gallery, at most `POSTER_WIDTH` wide, as WebP."""
    image = Image.fromarray(frame)
    if image.width > POSTER_WIDTH:
        image = image.resize((POSTER_WIDTH, round(image.height * POSTER_WIDTH / image.width)), Image.Resampling.LANCZOS)
    return webp(image, POSTER_QUALITY)
