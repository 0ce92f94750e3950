"""The learning rate of a step, as diffusers' schedulers have it (`diffusers.optimization`), as a pure function: no state to restore."""

from __future__ import annotations

import math


def factor(schedule: str, step: int, *, warmup: int, steps: int, cycles: float = 1.0, power: float = 1.0,
           rate: float = 1e-3) -> float:
    """What the learning rate `rate` is multiplied by at update `step` (from 0) of `steps`."""
    if schedule == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant_with_warmup":
        return 1.0
    if schedule == "linear":
        return max(0.0, (steps - step) / max(1, steps - warmup))
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))  # half a wave
    if schedule == "cosine_with_restarts":
        return 0.0 if done >= 1 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * done) % 1.0))))
    if schedule == "polynomial":
        return _polynomial(step, warmup, steps, power, rate)
    raise ValueError(f"{schedule!r} is no schedule")


def _polynomial(step: int, warmup: int, steps: int, power: float, start: float, end: float = 1e-7) -> float:
    if step > steps or start <= end:
        return end / start
    return ((start - end) * (1 - (step - warmup) / max(1, steps - warmup)) ** power + end) / start
