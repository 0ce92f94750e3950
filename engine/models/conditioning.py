"""What a clip starts from besides its words, as latents. Follows diffusers' pipelines number for number.

    words           x_T = noise                                                     CogVideoXPipeline
    words + image   x_T = noise; z(image) and zeros stand beside x_t at every step  CogVideoXImageToVideoPipeline
    words + video   x_t = sqrt(a_t) z(video) + sqrt(1 - a_t) noise, from step t on  CogVideoXVideoToVideoPipeline

The generator is used in this order: z is drawn from the encoder's distribution, then the noise.
"""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from engine.spec import ModelSpec

Shape = tuple[int, ...]
"""(1, latent frames with padding, channels, height, width)."""


class Noising(Protocol):
    """The one thing needed of a scheduler."""

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """`latents` as they would be before the first step."""


def from_noise(shape: Shape, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Pure noise (1, frames, channels, height, width); both schedulers start at standard deviation 1."""
    return randn_tensor(shape, generator=generator, device=device, dtype=dtype)


def beside_noise(image: Tensor, spec: ModelSpec, shape: Shape) -> Tensor:
    """What stands beside the noise in channels, of `shape`: the image's latents at the first frame, then zeros.

    `image`: (1, channels, 1, height, width), as drawn. 1.5 was trained with latents divided by the scaling factor, so
    its configs say `invert_scale_latents`. With padding frames the image stands at the first of them, as in diffusers.
    """
    latents = image.permute(0, 2, 1, 3, 4)
    scaled = 1 / spec.scaling_factor * latents if spec.invert_scale_latents else spec.scaling_factor * latents
    return torch.cat([scaled, scaled.new_zeros((1, shape[1] - 1, *shape[2:]))], dim=1)


def from_video(video: Tensor, spec: ModelSpec, shape: Shape, stepper: Noising, generator: torch.Generator) -> Tensor:
    """The latents of a video, noised for the first step that is run, of `shape`.

    `video`: (1, channels, latent frames, height, width), as drawn. CogVideoX 1.5 wants whole patches in time: the first
    latent frame is repeated in front, where text to video has its padding too, and is dropped before decoding.
    (diffusers' pipeline refuses such lengths.)
    """
    latents = spec.scaling_factor * video.permute(0, 2, 1, 3, 4)
    padding = shape[1] - latents.shape[1]
    if padding:
        latents = torch.cat([latents[:, :1]] * padding + [latents], dim=1)
    noise = randn_tensor(shape, generator=generator, device=latents.device, dtype=latents.dtype)
    return stepper.noised(latents, noise)
