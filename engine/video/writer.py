"""Frames in, mp4 out: H.264, yuv420p, streaming, readable from its first byte on (faststart), recipe in its metadata.

Encoding runs in a thread of its own behind a short queue, so that the decoder of the model goes on while a chunk is packed.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from engine.errors import OutputRejected
from engine.video.chroma import halved
from engine.video.health import FrameHealth
from engine.video.probe import probe
from engine.video.publish import storage_errors
from engine.video.recipe import METADATA_KEY, comment
from engine.video.seal import seal
from engine.video.signing import credentials
from engine.video.still import poster

# crf 17: visually lossless. veryfast: at this crf as near to the frames as 'medium' (bench/video_io.py prints both), in a
# third of the time. mbtree off: with it, libx264's AVX-512 code gives another file on each run (seen with PyAV 18.1 on small
# frames), and the same request shall give the same pixels. chromaloc 1: a colour sample lies in the middle of its four pixels,
# where swscale takes it from; untagged, readers that obey the standard look for it half a pixel to the left (0.8 dB).
ENCODER = {"crf": "17", "preset": "veryfast", "mbtree": "0", "x264-params": "chromaloc=1"}
WAITING_CHUNKS = 2
"""How many chunks may wait for the encoder; then `write` waits, and memory stays bounded."""
# The matrix of BT.601: players that ignore the tags assume it for small clips, so all agree on the colours.
BT601, BT709, LIMITED = 6, 1, 1


class ClipWriter:
    """Writes one file under a temporary name; owns it until `finish`. A context manager: leaving early removes it."""

    def __init__(self, part: Path, *, width: int, height: int, fps: float, frames: int, recipe: Mapping[str, Any],
                 faithful: bool = False) -> None:
        """Raises `StorageBlocked` if nothing can be written there. `frames`: how many will come. `faithful`: some of them were given
        and shall come back as they were, for more time and bytes (`engine.video.chroma`)."""
        self.part, self.frames, self.size, self.fps = part, frames, (width, height), fps
        self.poster: bytes = b""
        self._recipe, self._signer = recipe, credentials()
        self._encoder = _Encoder(part, width, height, fps, recipe, faithful)
        self._health = FrameHealth()
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(WAITING_CHUNKS)
        self._failure: BaseException | None = None
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="clip-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.discard()

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 (n, height, width, 3). Returns before they are in the file; do not change them afterwards.

        Raises `StorageBlocked`, for these frames or earlier ones.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}, not uint8 (n, {self.size[1]}, {self.size[0]}, 3)")
        self._raise_failure()
        self._queue.put(frames)

    def finish(self) -> None:
        """Wait for the encoder, close the file, mark it as made by a machine and check it: frames look like a video, and the file
        gives all of them back.

        Raises `OutputRejected`, `StorageBlocked`, `InvalidRequest` (the operator's certificate cannot sign).
        """
        self._end()
        self._raise_failure()
        self._health.check()
        self.poster = seal(self.part, self.poster, self._recipe, self._signer)
        facts = probe(self.part)
        if (facts.frames, facts.width, facts.height) != (self.frames, *self.size):
            raise OutputRejected(f"the written file holds {facts.frames} frames of {facts.width} x {facts.height} instead of "
                                 f"{self.frames} of {self.size[0]} x {self.size[1]}. The disk may be failing; try again.")

    def discard(self) -> None:
        """Remove the unfinished file; what waits for the encoder is dropped."""
        self._dropped.set()
        self._end()
        self._encoder.abandon()
        self.part.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        """The thread. After a failure it goes on emptying the queue, so that nobody waits for it for ever."""
        while (chunk := self._queue.get()) is not None:
            self._attempt(partial(self._take, chunk))
        self._attempt(self._encoder.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Does it unless something failed before or the file is not wanted any more."""
        if self._failure is not None or self._dropped.is_set():
            return
        try:
            with storage_errors(self.part.parent):
                action()
        except BaseException as error:  # noqa: BLE001  (raised again where the writer is used)
            self._failure = error

    def _take(self, chunk: np.ndarray) -> None:
        middle = self.frames // 2 - self._health.frames
        self._health.add(chunk)
        if 0 <= middle < len(chunk):
            self.poster = poster(chunk[middle])
        for pixels in chunk:
            if self._dropped.is_set():
                return
            self._encoder.add(pixels)


class _Encoder:
    """One mp4 file being written, frame by frame."""

    def __init__(self, part: Path, width: int, height: int, fps: float, recipe: Mapping[str, Any], faithful: bool) -> None:
        with storage_errors(part.parent):
            part.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(part.absolute()), "w", format="mp4",
                                      options={"movflags": "faststart+use_metadata_tags"})
        self._container.metadata[METADATA_KEY] = json.dumps(recipe, ensure_ascii=False, sort_keys=True)
        self._container.metadata["comment"] = comment(recipe)
        stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=dict(ENCODER))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = BT601, BT709, BT709, LIMITED
        self._stream = stream
        self._reformatter = None if faithful else VideoReformatter()  # one for all frames: it keeps its tables

    def add(self, pixels: np.ndarray) -> None:
        """`pixels`: uint8 (height, width, 3)."""
        if self._reformatter is None:
            picture = halved(pixels)
        else:
            picture = self._reformatter.reformat(_borrowed(pixels), format="yuv420p", dst_colorspace=BT601, dst_color_range=LIMITED)
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def abandon(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # what broke the writing breaks the closing too
            self._container.close()


def _borrowed(pixels: np.ndarray) -> Any:
    """A frame over the same memory where rows are stored one after the other, else over a copy."""
    return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
