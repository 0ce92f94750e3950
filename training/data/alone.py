"""A set for stage two: every frame encoded alone, as an image, and every caption at each frame rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.interpolate.levels import rate_words
from training.data.cache import Encoding


class FramesAlone:
    """Encoders that give `moments` (2 x channels, F, height, width) with a latent for each of F frames, and `text` (rates, tokens, width):
    the words after those of each rate."""

    def __init__(self, encoders: Encoding, rates: Sequence[float]) -> None:
        self._encoders, self.rates = encoders, tuple(rates)

    @property
    def way(self) -> str:
        """What sets this apart from the usual encoding, for keys."""
        return f"frames alone, {' '.join(f'{rate:g}' for rate in self.rates)} fps"

    def text(self, words: str) -> Tensor:
        return torch.stack([self._encoders.text(rate_words(rate) + words) for rate in self.rates])

    def moments(self, frames: np.ndarray) -> Tensor:
        return torch.cat([self._encoders.moments(frames[index:index + 1]) for index in range(len(frames))], dim=1)
