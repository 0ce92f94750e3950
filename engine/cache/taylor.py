"""TaylorSeer (https://arxiv.org/abs/2503.06923): features run along smooth curves from step to step, so the next ones are predicted.

    D_0 = F(t),   D_i = (D_(i-1)(t) - D_(i-1)(t')) / (t - t')        finite differences over the last full steps
    F(t + k)  =  sum over i of  D_i k^i / i!

The paper predicts attention and feed-forward of every block by themselves. Here one feature stands for all of them, the clean latents
that the step predicts: a 42-block model would otherwise keep 84 features and their differences, tens of gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Number = Any
"""A number or a tensor."""


@dataclass(frozen=True, slots=True)
class Taylor:
    """Decides in a fixed rhythm."""

    every: float = 0.12
    """Share of the steps from one full step to the next: 6 of 50; at least 1."""
    order: int = 1
    """Of the highest difference used; 0 takes the last feature as it is, which is done wherever the solver draws fresh noise."""
    retained: float = 0.28
    """Share of the steps at the start that are always run in full."""
    last: int = 1
    """Steps at the end that are always run in full."""

    def schedule(self, steps: int) -> tuple[bool, ...]:
        """For each step: True where it is run in full."""
        every, first = max(1, round(self.every * steps)), max(1, round(self.retained * steps))
        made, since = [], every
        for step in range(steps):
            full = step < first or step >= steps - self.last or since >= every
            since = 1 if full else since + 1
            made.append(full)
        return tuple(made)


def differences(before: Sequence[Number], feature: Number, gap: int, order: int) -> list[Number]:
    """D_0 .. D_order (fewer at the start) after a full step that gave `feature`, `gap` steps after the one of `before`."""
    made = [feature]
    for lower in before[:order]:
        made.append((made[-1] - lower) / gap)
    return made


def predicted(terms: Sequence[Number], ahead: int) -> Number:
    """The feature `ahead` steps after the last full one."""
    total = terms[0]
    for power, term in enumerate(terms[1:], start=1):
        total = total + term * (ahead**power / math.factorial(power))
    return total
