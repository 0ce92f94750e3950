"""Pyramid attention broadcast (https://arxiv.org/abs/2408.12588): attention barely changes in the middle of the noise, so it is kept.

CogVideoX has one kind of attention, joint over text, space and time; the paper's figures for it are every second step,
for timesteps from 850 down to 100. Everything else of a block is run. Keeps one output of attention for every block and row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Decides by timestep alone."""

    every: int = 2
    """Attention is run in one of so many steps within the range, at least 1."""
    high: int = 850
    low: int = 100
    """Timesteps, of 1000, between which it is kept; both excluded."""

    def schedule(self, timesteps: Sequence[int]) -> tuple[bool, ...]:
        """For each of the falling `timesteps`: True where attention is run."""
        made, since = [], self.every
        for index, time in enumerate(timesteps):
            run = index == 0 or since >= self.every or not self.low < time < self.high
            since = 1 if run else since + 1
            made.append(run)
        return tuple(made)
