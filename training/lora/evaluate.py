"""Held-out loss that means the same at every step: the same clips, noise and times, for ever.

Raw training loss hardly falls, as its spread over times is far larger than what is learned; this falls, and rises when the run begins
to learn its clips by heart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from training.lora.objective import Batches, squared_error
from training.lora.samples import Sample

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
RISES = 3
"""So many looks one after the other with a higher held-out loss are called over-fitting."""


@dataclass(frozen=True, slots=True)
class Look:
    """Loss at each of `QUANTILES`, over the held-out clips and as many of the training set."""

    held_out: tuple[float, ...]
    train: tuple[float, ...]


def look(batches: Batches, predict: Callable[..., torch.Tensor], held_out: Sequence[Sample], train: Sequence[Sample], clips: int) -> Look:
    """At most `clips` of each. Draws nothing from any generator that training uses."""
    with torch.no_grad():
        as_many = train[:min(clips, len(held_out) or clips)]
        return Look(_losses(batches, predict, held_out[:clips], 0), _losses(batches, predict, as_many, 1000))


def _losses(batches: Batches, predict: Callable[..., torch.Tensor], samples: Sequence[Sample], first: int) -> tuple[float, ...]:
    if not samples:
        return ()
    found = []
    for quantile in QUANTILES:
        time = int(quantile * (batches.noise.times - 1))
        losses = []
        for number, sample in enumerate(samples):
            batch = batches.fixed(sample, first + number, time)
            losses.append(float(squared_error(predict(batch), batch)[0]))
        found.append(sum(losses) / len(losses))
    return tuple(found)


def overfits(means: Sequence[float]) -> bool:
    """Of the held-out means so far, in order: the last `RISES` each above the one before."""
    last = list(means)[-(RISES + 1):]
    return len(last) == RISES + 1 and all(after > before for before, after in itertools.pairwise(last))
