"""Which frames a stage-two window is made of, and which of them are known. Pure, no torch."""

from __future__ import annotations

import numpy as np

from engine.errors import InvalidRequest

SLOTS = 7
STRIDES = (1, 2, 4, 8)
"""Frames from one slot to the next, at the model's rate."""


def strides_of(frames: int) -> tuple[int, ...]:
    """Those of `STRIDES` at which a clip of `frames` frames has a window. Raises `InvalidRequest` for none."""
    found = tuple(stride for stride in STRIDES if (SLOTS - 1) * stride < frames)
    if not found:
        raise InvalidRequest("dataset", f"has a clip of {frames} frames; a stage-two window has {SLOTS}. Leave it out.")
    return found


def rates_of(fps: float) -> tuple[float, ...]:
    """Frames a second of windows at each of `STRIDES`."""
    return tuple(fps / stride for stride in STRIDES)


def draw_known(rng: np.random.Generator, slots: int) -> list[int]:
    """Which slots are known: every second one most often (the rounds), both ends, every third, the first, any, or none."""
    kind = rng.choice(("second", "ends", "third", "first", "any", "none"), p=(0.5, 0.1, 0.1, 0.08, 0.14, 0.08))
    if kind == "second":
        return list(range(0, slots, 2))
    if kind == "ends":
        return [0, slots - 1]
    if kind == "third":
        return list(range(0, slots, 3))
    if kind == "any":
        return [i for i in range(slots) if rng.random() < 0.5]
    return [0] if kind == "first" else []
