"""How strongly each step follows the words: one weight w a step for  u + w (v - u)  (classifier-free guidance). Pure.

    constant        w                                                                     https://arxiv.org/abs/2207.12598
    cosine          rises from 1 at the first step to w at the last, along half a cosine  https://arxiv.org/abs/2404.13040
    as-published    1 + w (1 - cos(pi ((n - t) / n)^5)) / 2                               diffusers' `use_dynamic_cfg`

The published formula was meant as a ramp over step numbers, but is fed the timestep t (999 .. 0) beside the number of
steps n, so it swings up and down between 1 and 1 + w. It is kept, number for number, because clips that others made with
it can be made again no other way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def guidance_weights(kind: str, scale: float, timesteps: Sequence[int]) -> tuple[float, ...]:
    """One weight for each of `timesteps` (falling). `kind`: one of `engine.request.GUIDANCE_KINDS`; raises ValueError for another."""
    count = len(timesteps)
    if kind == "constant":
        return (scale,) * count
    if kind == "cosine":
        return tuple(1 + (scale - 1) * _rise(index / (count - 1) if count > 1 else 1.0) for index in range(count))
    if kind == "as-published":
        return tuple(1 + scale * ((1 - math.cos(math.pi * ((count - t) / count) ** 5.0)) / 2) for t in timesteps)
    raise ValueError(f"{kind!r} is no kind of guidance")


def _rise(part: float) -> float:
    """0 .. 1 -> 0 .. 1, slow at both ends."""
    return (1 - math.cos(math.pi * part)) / 2
