"""The sound of the source beside new pictures: copied as it is where mp4 can hold it, else packed as AAC; in step with the frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from engine.media.probe import VideoFacts
from engine.video.publish import STORAGE_ERRORS

COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""Codecs whose packets go into an mp4 as they are."""
RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""Samples a second that AAC has."""
GAP = Fraction(1, 10)
"""Seconds: sound that comes later than this after what was before it is put where its time stamp says; nearer, stamps are only rounded."""


class Unheard(Exception):
    """The sound can be neither copied nor packed."""


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with sound is `Unheard`, unless it is the disk."""
    try:
        yield
    except (av.error.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) in STORAGE_ERRORS:
            raise
        raise Unheard(str(error)) from error


class Sound:
    """The first sound of `path`; `into` a container that is being written. A context manager: it owns the open file."""

    def __init__(self, path: Path, facts: VideoFacts, origin: float) -> None:
        """`origin`: time of the first picture, seconds in the source; it is time 0 of the result."""
        self._source = av.open(str(path.absolute()), format=facts.reader, options={"protocol_whitelist": "file"}, metadata_errors="replace")
        self._stream = self._source.streams.audio[0]
        self._origin = origin

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def into(self, target: Any) -> _Heard:
        """Adds its stream to `target`, which has not begun yet. Raises Unheard."""
        if self._stream.codec_context is None:
            raise Unheard("nothing here can decode it")
        with _told():
            return self._into(target)

    def _into(self, target: Any) -> _Heard:
        if self._stream.codec_context.codec.canonical_name in COPIED:  # its decoder may be called otherwise
            stream = target.add_stream_from_template(self._stream)
            return _Heard(target, self._copied(stream))
        stream = target.add_stream("aac", rate=rate_for(self._stream.rate or 48000))
        stream.layout = "mono" if self._stream.channels == 1 else "stereo"
        return _Heard(target, self._packed(stream))

    def _copied(self, stream: Any) -> Iterator[Any]:
        for packet in self._demuxed():
            if packet.pts is None or packet.dts is None:
                continue
            back = round(self._origin / packet.time_base)
            if packet.pts - back < 0:  # heard before the first picture
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - back, packet.dts - back, stream
            yield packet

    def _packed(self, stream: Any) -> Iterator[Any]:
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        for frame in self._in_step():
            for samples in resampler.resample(frame):
                yield from stream.encode(samples)
        for samples in resampler.resample(None):
            yield from stream.encode(samples)
        yield from stream.encode()

    def _in_step(self) -> Iterator[Any]:
        """Decoded frames from the first picture on, stamped in samples without overlaps: stamps of some files are rounded coarsely."""
        follows: Fraction | None = None
        for frame in self._decoded():
            if frame.pts is None or frame.time_base is None or frame.pts * frame.time_base < self._origin:
                continue
            at = frame.pts * frame.time_base - Fraction(self._origin)
            now = at if follows is None or at > follows + GAP else follows
            frame.time_base, frame.pts = Fraction(1, frame.sample_rate), round(now * frame.sample_rate)
            follows = now + Fraction(frame.samples, frame.sample_rate)
            yield frame

    def _decoded(self) -> Iterator[Any]:
        """Without damaged packets."""
        for packet in self._demuxed():
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            yield from frames

    def _demuxed(self) -> Iterator[Any]:
        """Up to where the file breaks off, if it does."""
        packets = self._source.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return
            yield packet


def rate_for(rate: int) -> int:
    """The nearest that AAC has."""
    return min(RATES, key=lambda known: abs(known - rate))


class _Heard:
    """Packets of sound on their way into a file, a little ahead of the pictures, so that players need not jump."""

    def __init__(self, target: Any, packets: Iterator[Any]) -> None:
        self._target, self._packets = target, packets
        self._next = next(packets, None)

    def until(self, seconds: float) -> None:
        """All that is heard before `seconds`. Raises Unheard."""
        with _told():
            while self._next is not None and float(self._next.pts * self._next.time_base) < seconds:
                self._target.mux(self._next)
                self._next = next(self._packets, None)

    def finish(self) -> None:
        """Sound that outlasts the pictures is cut off with them."""
        self._next = None
