"""The denoising loop: one for all models, bit-equal to diffusers' pipelines (held by a test).

    x_T ~ N(0, 1)
    for t in T .. 1:                                        classifier-free guidance, https://arxiv.org/abs/2207.12598
        v = predict(x_t, t, prompt)      u = predict(x_t, t, negative)
        x_0, x_(t-1) = scheduler step of  u + w (v - u)      DDIM https://arxiv.org/abs/2010.02502 or DPM-Solver++ (SDE)
    video = decode(x_0)

    An image stands beside x_t in `predict`; a video starts at a smaller t. The weight w may differ from step to step.

The state after each step is a value: whoever drives the loop shows it, saves it, goes on from it, or stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.cache.shortcut import Shortcut
from engine.models.family import Stepper, VideoModel


@dataclass(frozen=True, slots=True)
class SampleState:
    """Everything the next step needs, besides the generator."""

    step: int
    """Steps done; also the index of the next one."""
    latents: Tensor
    """(1, frames, channels, height, width), scaled, in the model's dtype."""
    clean: Tensor | None
    """Clean latents predicted by the last step: DPM-Solver++'s history, and what a preview shows."""
    anchors: tuple[tuple[int, Tensor], ...] = ()
    """(step, latents before it) of the full steps that a cache predicts the next ones from; none without a cache."""


@torch.inference_mode()
def sample(model: VideoModel, stepper: Stepper, text: Tensor, start: SampleState, weights: Sequence[float],
           generator: torch.Generator, beside: Tensor | None = None, shortcut: Shortcut | None = None) -> Iterator[SampleState]:
    """Yields the state after every remaining step. `text` with two rows turns guidance on, with `weights[step]`.

    `shortcut`: fresh, of this run alone; it then predicts in the model's place, and `start.anchors` bring it up to `start.step`.
    """
    latents, clean = start.latents, start.clean
    if shortcut is not None and start.step < len(stepper.timesteps):
        shortcut.replay(start.anchors)
    for index in range(start.step, len(stepper.timesteps)):
        if shortcut is not None:
            velocity = shortcut.velocity(index, latents)
        else:
            velocity = model.predict(latents, stepper.timesteps[index], text, beside)
            if len(text) == 2:
                without, given = velocity.chunk(2)
                velocity = without + weights[index] * (given - without)
        stepped, clean = stepper.step(velocity, index, latents, clean, generator)
        latents = stepped.to(text.dtype)
        yield SampleState(index + 1, latents, clean, () if shortcut is None else shortcut.anchors)
