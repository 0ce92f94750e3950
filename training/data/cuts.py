"""Where a new scene begins, with PySceneDetect's adaptive detector (https://www.scenedetect.com), fed picture by picture."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST_SCENE_SECONDS = 0.5
"""Shorter scenes are flashes."""


class CutFinder:
    """Takes the pictures of one clip at `fps`, in order; `cuts()` at the end."""

    def __init__(self, fps: float) -> None:
        from scenedetect.detectors import AdaptiveDetector  # with OpenCV 0.3 s

        self._fps, self._count = fps, 0
        self._detector: Any = AdaptiveDetector(min_scene_len=max(1, round(LEAST_SCENE_SECONDS * fps)))
        self._found: list[int] = []

    def add(self, picture: np.ndarray) -> None:
        """uint8 (height, width, 3), RGB."""
        from scenedetect import FrameTimecode

        at = FrameTimecode(self._count, self._fps)
        self._found += [int(cut.frame_num) for cut in self._detector.process_frame(at, np.ascontiguousarray(picture[..., ::-1]))]
        self._count += 1

    def cuts(self) -> tuple[float, ...]:
        """Seconds from the first picture on, halfway between the last picture of a scene and the first of the next, so that no
        rounding puts either on the wrong side."""
        return tuple(round((number - 0.5) / self._fps, 4) for number in self._found)
