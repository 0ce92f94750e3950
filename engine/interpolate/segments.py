"""The result as pieces on the disk, so that a job that was killed goes on after the last whole one, and ends with the same bytes.

    workspace/seg-00000.mp4 + .json   each a closed group of frames, encoded by itself   --join--> one mp4, packets copied

A piece counts once its .json is there, which names the job it belongs to and the checksum of its bytes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from engine.digest import file_sha256
from engine.interpolate.sound import Sound
from engine.video.publish import storage_errors, sync_dir, write_atomic
from engine.video.recipe import METADATA_KEY
from engine.video.writer import BT601, BT709, ENCODER, LIMITED

log = logging.getLogger(__name__)
MOST_DENOMINATOR = 1001
"""Of frame rates as fractions: 24, 30000/1001, 12.5 are exact."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of the result."""

    number: int
    start: int
    """Its first frame, counted in the result."""
    frames: int
    cuts: tuple[float, ...]
    """Scene cuts found while it was made, seconds of the source."""
    sha256: str
    mark: str
    """Of the job and the versions that made it."""
    last: bool
    """The result ends with it."""


class SegmentWriter:
    """Encodes the frames of one piece; leaving early removes the unfinished file."""

    def __init__(self, folder: Path, number: int, start: int, *, width: int, height: int, fps: float, mark: str) -> None:
        self._path = _file(folder, number)
        self._part = self._path.with_suffix(".part")
        self._number, self._start, self._mark = number, start, mark
        self.frames = 0
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._part.absolute()), "w", format="mp4")
        stream = self._container.add_stream("libx264", rate=rate_of(fps), options=dict(ENCODER))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = BT601, BT709, BT709, LIMITED
        self._stream, self._reformatter = stream, VideoReformatter()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is not None:
                with suppress(OSError, ValueError):  # what broke the writing breaks the closing too, and must not hide it
                    self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, pixels: np.ndarray) -> None:
        """uint8 (height, width, 3). Raises StorageBlocked."""
        picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
        picture = self._reformatter.reformat(picture, format="yuv420p", dst_colorspace=BT601, dst_color_range=LIMITED)
        with storage_errors(self._part.parent):
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def finish(self, cuts: tuple[float, ...], last: bool) -> Segment:
        """The piece is whole and on the disk when this returns. `last`: no frame follows it."""
        with storage_errors(self._part.parent):
            self._container.mux(self._stream.encode())
            self._container.close()
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
            digest = file_sha256(self._part)
            self._part.replace(self._path)
            sync_dir(self._path.parent)
        segment = Segment(self._number, self._start, self.frames, cuts, digest, self._mark, last)
        write_atomic(self._path.with_suffix(".json"), json.dumps(asdict(segment)).encode())
        return segment


def whole_segments(folder: Path, mark: str, frames_each: int) -> list[Segment]:
    """The pieces from the first one on that are whole and of this job. Never raises for a bad file; the rest is made again."""
    found: list[Segment] = []
    while (note := _file(folder, len(found)).with_suffix(".json")).is_file():
        try:
            values = json.loads(note.read_text())
            segment = Segment(**{**values, "cuts": tuple(values["cuts"])})
            sound = (segment.number == len(found) and segment.start == frames_each * len(found) and segment.mark == mark
                     and (segment.last or segment.frames == frames_each) and segment.sha256 == file_sha256(_file(folder, segment.number)))
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is passed over: %s", note.name, error)
            break
        if not sound:
            log.warning("%s is passed over: it is of another job, or damaged", note.name)
            break
        found.append(segment)
    return found


def join(part: Path, folder: Path, segments: list[Segment], fps: float, recipe: Mapping[str, Any], comment: str,
         sound: Sound | None) -> None:
    """One mp4 of all pieces, packets copied as they are, with the recipe in its metadata and `sound` beside it.

    Raises Unheard where the sound is at fault, StorageBlocked."""
    with storage_errors(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(part.absolute()), "w", format="mp4", options={"movflags": "faststart+use_metadata_tags"}) as target:
            target.metadata[METADATA_KEY] = json.dumps(recipe, ensure_ascii=False, sort_keys=True)
            target.metadata["comment"] = comment
            with av.open(str(_file(folder, 0)), format="mp4") as first:
                stream = target.add_stream_from_template(first.streams.video[0])
                stream.time_base = first.streams.video[0].time_base
            heard = None if sound is None else sound.into(target)
            target.start_encoding()
            for segment in segments:
                _copy(folder, segment, target, stream, rate_of(fps))
                if heard is not None:
                    heard.until(float((segment.start + segment.frames) / rate_of(fps)))
            if heard is not None:
                heard.finish()


def _copy(folder: Path, segment: Segment, target: Any, stream: Any, rate: Fraction) -> None:
    with av.open(str(_file(folder, segment.number)), format="mp4") as source:
        picture = source.streams.video[0]
        start = round(segment.start / rate / picture.time_base)
        for packet in source.demux(picture):
            if packet.dts is None:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, stream
            target.mux(packet)


def rate_of(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(MOST_DENOMINATOR)


def _file(folder: Path, number: int) -> Path:
    return folder / f"seg-{number:05d}.mp4"
