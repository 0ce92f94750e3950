"""Encoding pictures and videos to CogVideoX latents, a few frames at a time.

`encode_chunks` gives the moments of `vae.encode` bit for bit: as in decoding, the causal convolutions carry their last
two input frames from chunk to chunk. So a long video is read with progress, and stops when it is told to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from engine.models.vae_decode import Tiles, chunk_bounds


def encode_chunks(vae: Any, frames: np.ndarray, tile: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """(frames read so far, moments (1, 2 x channels, latent frames, height, width)) of uint8 `frames` (F, height, width, 3).

    Pixels `tile` (height, width) smaller than the clip: as `vae.tiled_encode` with tiles of that size, again bit for bit.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    tiled = frames.shape[1] > tile[0] or frames.shape[2] > tile[1]
    cuts = Tiles(vae, _encode_part, tile, (tile[0] // scale, tile[1] // scale)) if tiled else None
    cache: Any = None
    for begin, end in chunk_bounds(len(frames), vae.num_sample_frames_batch_size):
        part = pixels(frames[begin:end], single=len(frames) == 1).to(vae.device, vae.dtype)
        if cuts is not None:
            yield end, cuts.next(part)
            continue
        moments, cache = _encode_part(vae, part, cache)
        yield end, moments


def encode_picture(vae: Any, picture: Tensor) -> Tensor:
    """Moments (1, 2 x channels, 1, height, width) of one `picture` (3, height, width) in -1..1, which need not be whole 8-bit levels."""
    part = picture[None, :, None].to(vae.device, vae.dtype)
    return _encode_part(vae, part, None)[0]


def drawn(moments: list[Tensor], generator: torch.Generator) -> Tensor:
    """Latents (1, channels, latent frames, height, width), unscaled: drawn from what `encode_chunks` gave, all of it."""
    return DiagonalGaussianDistribution(torch.cat(moments, dim=2)).sample(generator)


def pixels(frames: np.ndarray, *, single: bool) -> Tensor:
    """float32 (1, 3, F, height, width) in -1..1 from uint8 (F, height, width, 3).

    The strides are those diffusers' image processor (`single`) or video processor and its pipelines' loops over the batch
    leave, that of the batch included: which kernel a convolution runs in, and so its last bits in bf16, depends on them.
    """
    planes = 2.0 * torch.from_numpy((frames.astype(np.float32) / 255.0).transpose(0, 3, 1, 2)) - 1.0
    batch = planes.unsqueeze(2) if single else torch.stack([planes]).permute(0, 2, 1, 3, 4)
    return batch[0].unsqueeze(0)


def _encode_part(vae: Any, part: Tensor, cache: Any) -> tuple[Tensor, Any]:
    moments, cache = vae.encoder(part, conv_cache=cache)
    return (moments if vae.quant_conv is None else vae.quant_conv(moments)), cache
