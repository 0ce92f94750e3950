"""What a finished file really holds, by decoding it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from engine.errors import OutputRejected


@dataclass(frozen=True, slots=True)
class VideoFacts:
    frames: int
    """Decoded, not read off the header."""
    width: int
    height: int
    fps: float
    codec: str
    pixel_format: str


def probe(path: Path) -> VideoFacts:
    """Decode the first video stream of `path` to its end. Raises `OutputRejected` if it cannot be."""
    try:
        with av.open(str(path.absolute()), format="mp4", options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            context = stream.codec_context
            return VideoFacts(frames, context.width, context.height, float(stream.average_rate or 0),
                              context.name, context.pix_fmt or "")
    except (av.error.FFmpegError, IndexError) as error:
        raise OutputRejected(f"the written file cannot be read back ({error}). The disk may be failing; try again.") from error
