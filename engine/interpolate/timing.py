"""Which two frames a frame of the result lies between, and where between them: by presentation time alone. Pure.

    source  |a        |b        |c     (seconds, whatever their distances)
    result  |   |   |   |   |   |      (a constant rate, from the first frame on)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

SNAP = 0.00105
"""Seconds of the source. Matroska rounds times to milliseconds; a frame so near to a given one is that one."""
SNAP_STEP = 0.25
"""The same in steps of the result, where those are so short: a slowed-down frame must not stand still for several."""
LEAST_SHOW = 0.25
"""A last frame that would be on display for less than this part of its time does not count."""


@dataclass(frozen=True, slots=True)
class Between(Generic[T]):
    """One frame of the result: `place` of the way from `before` to `after`."""

    before: T
    after: T | None
    """None: `before` itself is shown, because it is at this time, or because it is the last."""
    place: float
    """Above 0, below 1; 0 where `after` is None."""


def placed(shown: Iterable[tuple[float, float, T]], fps: float, slow: float = 1.0) -> Iterator[Between[T]]:
    """Frames of the result in order, for things on display at some times (seconds, duration, thing).

    Holds two things at a time. Every thing that stands at a time of the result is given as it is. The last one stays for
    as long as it is on display, so that the result lasts `slow` times what the source does.
    """
    count, rate = 0, fps * slow
    snap = min(SNAP, SNAP_STEP / rate)
    origin = 0.0
    last: tuple[float, float, T] | None = None
    for now, duration, thing in shown:
        if last is None:
            origin = now
        else:
            start, length = last[0] - origin, now - last[0]
            while (at := count / rate) < now - origin - snap:
                if at - start <= snap or length <= 0:
                    yield Between(last[2], None, 0.0)
                else:
                    yield Between(last[2], thing, (at - start) / length)
                count += 1
        last = now, duration, thing
    if last is None:
        return
    start = last[0] - origin
    total = max(math.floor((start + snap) * rate) + 1, math.ceil((start + last[1]) * rate - LEAST_SHOW))
    for _ in range(count, total):
        yield Between(last[2], None, 0.0)
