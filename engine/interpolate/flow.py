"""The frames between two frames, by moving their pixels: DIS optical flow both ways, blended with regard to what is hidden.

    changed part -> flow a->b and b->a (DIS) -> for each time: motion there, from either flow, whichever explains the
    pixel better -> both frames warped along it (bicubic) -> blended by time and by who really saw the pixel

Flow: Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search", as in OpenCV. That a pixel was hidden in one of
the frames shows in flows that do not lead back (Sundaram et al. 2010, section 3.1). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

CHANGED = 2
"""Levels of 255 by which a channel must differ to count: less is the noise of an encoder."""
CONTEXT = 24
"""Pixels around what changed that the flow is computed on, for its coarse scales."""
MARGIN = 2
"""Pixels around what changed that are made anew; bicubic weights reach so far."""
STRIDE = 6
"""Distance of DIS's patches of 8 x 8. OpenCV's presets have 3 and 4: half a decibel better, half as fast."""
LEAST_SIDE = 48
"""Pixels; DIS needs a few patches at its coarsest scale. Smaller frames are blended."""
WINDOW = 5
"""Pixels square over which two motions are compared."""
DOUBT = 0.5
"""Pixels that flows may miss their start by and still count as leading back."""
CUT_LEVELS, CUT_SHARE = 24, 0.25
"""A cut: in more than this share of the frame no motion explains the other frame to within so many levels."""


class Pair:
    """Two neighbouring frames, uint8 (height, width, 3), and how one moves into the other."""

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        """Raises ValueError for frames that differ in shape."""
        if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8 or a.ndim != 3:
            raise ValueError(f"frames are {a.dtype} {a.shape} and {b.dtype} {b.shape}, not two of uint8 (height, width, 3)")
        self.a, self.b = a, b
        self._changed = _changed(a, b)
        self.cut = False
        """Nothing of the first frame goes on in the second, so there is no motion to follow."""
        if self._changed is not None and min(a.shape[:2]) >= LEAST_SIDE:
            self._prepare(self._changed)

    def _prepare(self, changed: tuple[int, int, int, int]) -> None:
        """Flows around what changed, and where they do not lead back."""
        top, bottom, left, right = _grown(changed, CONTEXT, self.a.shape)
        y0, y1, x0, x1 = _grown(changed, MARGIN, self.a.shape)
        around = slice(top, bottom), slice(left, right)
        self._made = slice(y0, y1), slice(x0, x1)
        inner = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        first, second = self._grays = [cv2.cvtColor(frame[around], cv2.COLOR_RGB2GRAY) for frame in (self.a, self.b)]
        self._frames = tuple(frame[around].astype(np.float32) for frame in (self.a, self.b))
        flow = _dis(min(self.a.shape[:2]))
        self._flows = [flow.calc(first, second, None), flow.calc(second, first, None)]
        self._grid = _grid(*first.shape[:2])[inner]
        self._offset = np.array([inner[1].start, inner[0].start], np.float32)
        self._astray = tuple(_astray(self._grid, there[inner], back) for there, back in (self._flows, self._flows[::-1]))
        self._starts = tuple(flow[inner] for flow in self._flows)
        _motion, misfit = self._motion(0.5)
        self.cut = int(np.count_nonzero(misfit > CUT_LEVELS)) > CUT_SHARE * self.a.shape[0] * self.a.shape[1]

    def _motion(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """At `time` between the frames: (pixels moved from the first frame to the second, float32 (height, width, 2);
        levels by which the two frames still differ along it, uint8 (height, width))."""
        grid = self._grid
        # A flow is known where it starts; one step of the fixed point x = y + time * flow(y) finds it at y's place in between.
        onward = _remap(self._flows[0], grid - time * self._starts[0])
        backward = -_remap(self._flows[1], grid - (1 - time) * self._starts[1])
        misfit, other = (self._misfit(flow, time) for flow in (onward, backward))
        motion = cv2.copyTo(backward, cv2.compare(other, misfit, cv2.CMP_LT), onward)
        return motion, cv2.min(misfit, other)

    def _misfit(self, motion: np.ndarray, time: float) -> np.ndarray:
        seen = _remap(self._grays[0], self._grid - time * motion), _remap(self._grays[1], self._grid + (1 - time) * motion)
        return cv2.blur(cv2.absdiff(*seen), (WINDOW, WINDOW))

    def at(self, time: float) -> np.ndarray:
        """The frame at `time`, above 0 and below 1: uint8 (height, width, 3), a new array.

        After a cut it is the first frame: it stays until the second one comes.
        """
        if not 0 < time < 1:
            raise ValueError(f"time is {time}, not between 0 and 1")
        if self._changed is None or self.cut:
            return self.a.copy()
        if min(self.a.shape[:2]) < LEAST_SIDE:
            return cv2.addWeighted(self.a, 1 - time, self.b, time, 0)
        motion, _misfit = self._motion(time)
        from_a, from_b = self._grid - time * motion, self._grid + (1 - time) * motion
        # What one frame hides, its flow cannot lead to and back; then the other one counts.
        lost_a, lost_b = (_remap(astray, place - self._offset) for astray, place in zip(self._astray, (from_a, from_b), strict=True))
        weight_a, weight_b = (1 - time) * (DOUBT + lost_b), time * (DOUBT + lost_a)
        share = weight_b / (weight_a + weight_b)
        a, b = (_remap(frame, place, cv2.INTER_CUBIC) for frame, place in zip(self._frames, (from_a, from_b), strict=True))
        blended = cv2.blendLinear(a, b, 1 - share, share)
        made = self.a.copy()
        made[self._made] = np.clip(np.rint(blended), 0, 255)
        return made


def between(a: np.ndarray, b: np.ndarray, times: Sequence[float]) -> list[np.ndarray]:
    """The frames at `times` (above 0, below 1) between two frames, all uint8 (height, width, 3)."""
    pair = Pair(a, b)
    return [pair.at(time) for time in times]


def _changed(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of what differs; None where nothing does."""
    red, green, blue = cv2.split(cv2.absdiff(a, b))
    most = cv2.max(cv2.max(red, green), blue)
    left, top, width, height = cv2.boundingRect(cv2.compare(most, CHANGED, cv2.CMP_GT))
    return (top, top + height, left, left + width) if width else None


def _grown(box: tuple[int, int, int, int], by: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`box` with `by` pixels more on every side, and at least `LEAST_SIDE` where it is for the flow, within the frame."""
    return *_span(box[0] - by, box[1] + by, shape[0], by), *_span(box[2] - by, box[3] + by, shape[1], by)


def _span(low: int, high: int, size: int, by: int) -> tuple[int, int]:
    least = LEAST_SIDE if by >= CONTEXT else 0
    more = max(0, least - (high - low) + 1) // 2
    low, high = low - more, high + more
    if low < 0:
        low, high = 0, max(high, least)
    if high > size:
        low, high = min(low, size - least), size
    return max(0, low), min(size, high)


def _dis(side: int) -> Any:
    """For frames whose shorter side has `side` pixels: the flow is computed at half of it, of large frames at a quarter or eighth."""
    create = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]  # made at run time
    flow = create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(1 if side < 400 else 2 if side < 1200 else 3)
    flow.setPatchStride(STRIDE)
    flow.setVariationalRefinementIterations(0)
    return flow


def _astray(grid: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How far from its start a pixel ends that goes `there` and `back`, in pixels: float32 (height, width)."""
    return cv2.magnitude(*cv2.split(there + _remap(back, grid + there)))


def _remap(picture: np.ndarray, places: np.ndarray, how: int = cv2.INTER_LINEAR) -> np.ndarray:
    return cv2.remap(picture, places, None, how, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    """Every pixel's own place, float32 (height, width, 2)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.dstack([x, y])
