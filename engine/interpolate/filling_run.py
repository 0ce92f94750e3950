"""Two videos and the frames between them by optical flow: the same events, pieces and checks as of one video (`run`). No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from engine.inputs import input_file
from engine.interpolate.flow import Pair
from engine.interpolate.run import Frame, Interpolation, unchanged
from engine.interpolate.timing import Between
from engine.media.clip import iter_timed
from engine.media.probe import VideoFacts


class Filling(Interpolation):
    """The state of one run whose plan names a second video."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.second = input_file(self.inputs, self.plan.then, "then")

    def source(self) -> VideoFacts:
        self.second_facts = unchanged(self.second, "then")
        return super().source()

    def frames(self, facts: VideoFacts, done: int) -> Iterator[Between[Frame]]:
        """All frames of the result; memory holds the one before the gap and the one after it."""
        plan = self.plan
        last: Frame | None = None
        width, height = plan.width, plan.height
        begun = iter_timed(self.path, width=width, height=height, fit="crop", facts=facts, unpainted=done)
        number = -1
        for number, (_now, _length, pixels) in enumerate(begun):
            last = Frame(number, number / plan.fps, pixels)
            yield Between(last, None, 0.0)
        start = number + 1 + plan.between
        rest = iter_timed(self.second, width=width, height=height, fit="crop", facts=self.second_facts, unpainted=max(0, done - start))
        for number, (_now, _length, pixels) in enumerate(rest, start):
            frame = Frame(number, number / plan.fps, pixels)
            if number == start and last is not None:
                for place in range(1, plan.between + 1):
                    yield Between(last, frame, place / (plan.between + 1))
            yield Between(frame, None, 0.0)

    def made(self, pair: Pair, place: float) -> np.ndarray:
        """Where no motion leads from one to the other, one fades into the other: somebody asked for frames between them."""
        return cv2.addWeighted(pair.a, 1 - place, pair.b, place, 0) if pair.cut else super().made(pair, place)
