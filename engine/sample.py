"""The denoising loop: one for all models, bit-equal to diffusers' pipelines (held by a test).

    x_T ~ N(0, 1)
    for t in T .. 1:                                        classifier-free guidance, https://arxiv.org/abs/2207.12598
        v = predict(x_t, t, prompt)      u = predict(x_t, t, negative)
        x_0, x_(t-1) = scheduler step of  u + w (v - u)      DDIM https://arxiv.org/abs/2010.02502 or DPM-Solver++ (SDE)
    video = decode(x_0)

The state after each step is a value: whoever drives the loop shows it, saves it, goes on from it, or stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stepper(Protocol):
    """One scheduler set to a number of steps."""

    timesteps: Tensor
    """int64 (steps,), falling."""

    def step(self, velocity: Tensor, index: int, latents: Tensor, clean_before: Tensor | None,
             generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(less noisy latents, predicted clean latents) after step `index`."""


class VideoModel(Protocol):
    """What the loop and the run need of a model family."""

    def encode(self, prompt: str, negative: str | None) -> Tensor:
        """(1 or 2, tokens, width): the prompt, after the negative prompt where one is given."""

    def initial_latents(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...

    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """float32, one prediction for each row of `text`."""

    def scheduler(self, name: str, steps: int) -> Stepper: ...

    def decode(self, latents: Tensor, tile: tuple[int, int]) -> Iterator[Tensor]:
        """Chunks (frames, height, width, 3) uint8, in order, as they are done."""


@dataclass(frozen=True, slots=True)
class SampleState:
    """Everything the next step needs, besides the generator."""

    step: int
    """Steps done; also the index of the next one."""
    latents: Tensor
    """(1, frames, channels, height, width), scaled, in the model's dtype."""
    clean: Tensor | None
    """Clean latents predicted by the last step: DPM-Solver++'s history, and what a preview shows."""


@torch.inference_mode()
def sample(model: VideoModel, stepper: Stepper, text: Tensor, start: SampleState, guidance: float,
           generator: torch.Generator) -> Iterator[SampleState]:
    """Yields the state after every remaining step. `text` with two rows turns guidance on."""
    latents, clean = start.latents, start.clean
    for index in range(start.step, len(stepper.timesteps)):
        velocity = model.predict(latents, stepper.timesteps[index], text)
        if len(text) == 2:
            without, given = velocity.chunk(2)
            velocity = without + guidance * (given - without)
        stepped, clean = stepper.step(velocity, index, latents, clean, generator)
        latents = stepped.to(text.dtype)
        yield SampleState(index + 1, latents, clean)
