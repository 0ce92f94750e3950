"""RGB to 4:2:0 with the least loss of colour that four pixels sharing one sample allow; for frames that shall come back as they were.

    brightness   as it is, pixel by pixel
    colour       not the mean of four pixels: the samples from which a player's enlarging makes the original again, as nearly as any can

Players enlarge colour linearly or by repeating it. The samples minimise |linear(c) - original|^2 + w |repeated(c) - original|^2, w =
`REPEATING`: a least-squares problem, the same at every place, so it is a filter. Sharp YUV as WebP makes it has the same aim.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import av
import cv2
import numpy as np

REPEATING = 0.3
"""Weight of players that repeat samples. 0 gives linear ones 0.5 dB more and takes 1.3 dB from the others (pocket world)."""
REACH = 8
"""Pixels to either side that count; beyond, the filter is below a thousandth."""
LUMA = np.array([0.299, 0.587, 0.114])
"""BT.601, as `engine.video.writer` tags its files."""
BLUE, RED = 1.772, 1.402


def halved(pixels: np.ndarray) -> Any:
    """uint8 (height, width, 3), even sides -> a frame in yuv420p, BT.601, limited range, colour in the middle of its four pixels."""
    planes = cv2.transform(pixels.astype(np.float32), _matrix())
    taps = _taps()
    colour = cv2.sepFilter2D(planes[..., 1:], -1, taps, taps, anchor=(REACH - 1, REACH - 1), borderType=cv2.BORDER_REFLECT)[::2, ::2]
    frame = av.VideoFrame(pixels.shape[1], pixels.shape[0], "yuv420p")
    for plane, values, high in zip(frame.planes, (planes[..., 0], colour[..., 0], colour[..., 1]), (235, 240, 240), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = np.rint(values).clip(16, high)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = 6, 1
    return frame


@cache
def _matrix() -> np.ndarray:
    """(3, 4): RGB and 1 to brightness, blue and red difference, in the units of the file."""
    blue, red = (np.eye(3)[channel] - LUMA for channel in (2, 0))
    rows = np.stack([LUMA * 219, blue / BLUE * 224, red / RED * 224]) / 255
    return np.hstack([rows, [[16], [128], [128]]]).astype(np.float32)


@cache
def _taps() -> np.ndarray:
    """The filter along one axis, symmetric about the middle of two pixels: float32 (2 REACH,), its sum 1."""
    samples = 8 * REACH
    repeated = np.repeat(np.eye(samples), 2, axis=0)
    linear = 0.75 * repeated
    for pixel in range(2 * samples):
        other = min(max(pixel // 2 + (1 if pixel % 2 else -1), 0), samples - 1)
        linear[pixel, other] += 0.25
    wanted = linear.T + REPEATING * repeated.T
    row = np.linalg.solve(linear.T @ linear + REPEATING * repeated.T @ repeated, wanted)[samples // 2]
    taps = row[samples - REACH + 1 : samples + REACH + 1]
    return (taps / taps.sum()).astype(np.float32)
