"""Small pictures and videos for the media tests, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RED, GREEN, BLUE, WHITE = (220, 30, 20), (20, 200, 40), (30, 40, 210), (235, 235, 235)


def quarters(width: int, height: int) -> np.ndarray:
    """Red and green above, blue and white below: any turn, flip or wrong matrix shows."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:height // 2, :width // 2], picture[:height // 2, width // 2:] = RED, GREEN
    picture[height // 2:, :width // 2], picture[height // 2:, width // 2:] = BLUE, WHITE
    return picture


def corners(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours of top left, top right, bottom left, bottom right, each to its nearest name's value."""
    height, width = picture.shape[:2]
    points = [(height // 8, width // 8), (height // 8, -width // 8), (-height // 8, width // 8), (-height // 8, -width // 8)]
    names = (RED, GREEN, BLUE, WHITE, (0, 0, 0))
    return [min(names, key=lambda name: int(np.abs(np.subtract(name, picture[at].astype(int))).sum())) for at in points]


def counting(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures whose brightness is ten times their number."""
    return [np.full((height, width, 3), 10 * number, np.uint8) for number in range(count)]


def numbers(frames: Iterable[np.ndarray]) -> list[int]:
    """The inverse of `counting`."""
    return [round(float(frame.mean()) / 10) for frame in frames]


def write_video(path: Path, pictures: Iterable[np.ndarray], *, fps: int | Fraction = 30, codec: str = "libx264",
                pixel_format: str = "yuv420p", matrix: int = 5, full: bool = False, tagged: bool = True, times: list[float] | None = None,
                prepare: Callable[[Any], None] = lambda stream: None, **opening: Any) -> Path:
    """`matrix`: libswscale's (1 is BT.709, 5 BT.601). `times`: seconds of each picture. `prepare` may change the stream."""
    with av.open(str(path), "w", **opening) as container:
        stream: Any = container.add_stream(codec, rate=fps, options={"crf": "1", "preset": "ultrafast"} if codec == "libx264" else {})
        stream.pix_fmt = pixel_format
        if tagged:
            stream.codec_context.colorspace = {1: 1, 5: 6}[matrix]
            stream.codec_context.color_range = 2 if full else 1
        for number, pixels in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                prepare(stream)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
