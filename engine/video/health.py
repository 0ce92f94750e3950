"""Is it a video? Running statistics over the frames as they are written; no frame is kept but the first.

The thresholds are where no eye sees anything: a plain background with a small subject passes, a clip without any picture
or without any motion does not.
"""

from __future__ import annotations

import numpy as np

from engine.errors import OutputRejected

FLAT_LEVELS = 2
"""A frame whose darkest and brightest values (of 255) differ by no more is one flat colour."""
FROZEN_LEVELS = 0
"""Frames that differ nowhere by more are the same frame."""


class FrameHealth:
    """Feed chunks with `add`, ask with `check`."""

    def __init__(self) -> None:
        self.frames = 0
        self._first: np.ndarray | None = None
        self._largest_range = 0
        self._largest_change = 0
        self._mean = 0.0

    def add(self, frames: np.ndarray) -> None:
        """`frames`: uint8 (n, height, width, 3)."""
        if self._first is None:
            self._first = frames[0].copy()
        for frame in frames:  # each question is asked only until it is answered: usually by the first two frames
            if self._largest_range <= FLAT_LEVELS:
                low, high = frame.min(axis=(0, 1)).astype(int), frame.max(axis=(0, 1)).astype(int)
                self._largest_range = max(self._largest_range, int((high - low).max()))
                self._mean += float(frame.mean())
            if self._largest_change <= FROZEN_LEVELS and not np.array_equal(frame, self._first):
                change = np.abs(frame.astype(np.int16) - self._first).max()
                self._largest_change = max(self._largest_change, int(change))
        self.frames += len(frames)

    def check(self) -> None:
        """Raises `OutputRejected` with the likely cause."""
        if self.frames == 0:
            raise OutputRejected("the decoder made no frames at all. This is a fault of the model's files.")
        if self._largest_range <= FLAT_LEVELS:
            mean = self._mean / self.frames
            shade = "black" if mean < 8 else "white" if mean > 247 else f"one flat colour (brightness {mean:.0f} of 255)"
            raise OutputRejected(f"all {self.frames} frames are {shade}. Likely cause: guidance far too high or too few "
                                 "steps for this model, or damaged weights. Try the model's own settings.")
        if self.frames > 1 and self._largest_change <= FROZEN_LEVELS:
            raise OutputRejected(f"all {self.frames} frames are exactly equal, so nothing moves. Likely cause: damaged or "
                                 "untrained weights. Try the model's own settings, or another seed.")
