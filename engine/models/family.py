"""What the loop and the run need of a model family. One file a family implements it, such as `cogvideox`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from engine.models.lora import LoraStack


class Stepper(Protocol):
    """One scheduler set to a number of steps."""

    timesteps: Tensor
    """int64 (steps,), falling."""
    fresh_noise: bool
    """Whether a step draws noise of its own."""

    def step(self, velocity: Tensor, index: int, latents: Tensor, clean_before: Tensor | None,
             generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(less noisy latents, predicted clean latents) after step `index`."""

    def signal(self, index: int) -> tuple[float, float]:
        """(a, s): the clean latents of step `index` are  a latents - s prediction."""

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """`latents` with as much noise as there is before the first step."""


class VideoModel(Protocol):
    """One loaded checkpoint."""

    loras: LoraStack
    """The LoRAs that change its predictions."""
    transformer: Any
    """With `transformer_blocks`, which a cache may pass over."""

    def encode(self, prompt: str, negative: str | None) -> Tensor:
        """(1 or 2, tokens, width): the prompt, after the negative prompt where one is given."""

    def initial_latents(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...

    def encode_frames(self, frames: np.ndarray, tile: tuple[int, int], how: str) -> Iterator[tuple[int, Tensor]]:
        """(frames read so far, moments) of uint8 (F, height, width, 3), in chunks."""

    def image_beside(self, moments: list[Tensor], shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...

    def shown_beside(self, moments: list[list[Tensor]], known: Sequence[int], frames: int, shape: tuple[int, ...],
                     generator: torch.Generator) -> Tensor:
        """What stands beside latents of `shape` where the model is shown frames `known` of `frames`; moments: of each of
        `engine.interpolate.community.shown_parts`."""

    def video_latents(self, moments: list[Tensor], shape: tuple[int, ...], stepper: Stepper,
                      generator: torch.Generator) -> Tensor: ...

    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor, beside: Tensor | None) -> Tensor:
        """float32, one prediction for each row of `text`."""

    def scheduler(self, name: str, steps: int, *, run: int | None, eta: float) -> Stepper: ...

    def decode(self, latents: Tensor, tile: tuple[int, int], how: str) -> Iterator[Tensor]:
        """Chunks (frames, height, width, 3) uint8, in order, as they are done; some may be empty. `how`: `Placement.decode`."""
