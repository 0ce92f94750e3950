"""The sound of the source beside new pictures: copied as it is where mp4 can hold it, else packed as AAC; in step with the frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from engine.media.probe import VideoFacts

COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""Codecs whose packets go into an mp4 as they are."""


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
        """Adds its stream to `target`, which has not begun yet."""
        if self._stream.codec_context.codec.canonical_name in COPIED:  # its decoder may be called otherwise
            stream = target.add_stream_from_template(self._stream)
            return _Heard(target, self._copied(stream))
        stream = target.add_stream("aac", rate=self._stream.rate or 48000)
        stream.layout = "mono" if self._stream.channels == 1 else "stereo"
        return _Heard(target, self._packed(stream))

    def _copied(self, stream: Any) -> Iterator[Any]:
        for packet in self._source.demux(self._stream):
            if packet.pts is None or packet.dts is None:
                continue
            back = round(self._origin / packet.time_base)
            if packet.pts - back < 0:  # heard before the first picture
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - back, packet.dts - back, stream
            yield packet

    def _packed(self, stream: Any) -> Iterator[Any]:
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        for frame in self._source.decode(self._stream):
            if frame.pts is None or frame.time_base is None or frame.pts * frame.time_base < self._origin:
                continue
            frame.pts = frame.pts - round(self._origin / frame.time_base)
            for samples in resampler.resample(frame):
                yield from stream.encode(samples)
        for samples in resampler.resample(None):
            yield from stream.encode(samples)
        yield from stream.encode()


class _Heard:
    """Packets of sound on their way into a file, a little ahead of the pictures, so that players need not jump."""

    def __init__(self, target: Any, packets: Iterator[Any]) -> None:
        self._target, self._packets = target, packets
        self._next = next(packets, None)

    def until(self, seconds: float) -> None:
        """All that is heard before `seconds`."""
        while self._next is not None and float(self._next.pts * self._next.time_base) < seconds:
            self._target.mux(self._next)
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Sound that outlasts the pictures is cut off with them."""
        self._next = None
