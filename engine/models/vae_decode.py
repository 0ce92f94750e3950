"""Decoding CogVideoX latents: streaming, and without arithmetic that is thrown away.

`decode_chunks` gives the frames of `vae.decode` bit for bit, a few at a time: the causal convolutions carry their last
two input frames from chunk to chunk (`conv_cache`), so nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def chunk_bounds(latent_frames: int, size: int = 2) -> list[tuple[int, int]]:
    """First and last + 1 latent frame of every chunk: pairs, and the odd frame goes with the first (3, 2, 2, ...)."""
    odd = latent_frames % size
    count = max(latent_frames // size, 1)
    return [(size * i + (odd if i else 0), min(size * (i + 1) + odd, latent_frames)) for i in range(count)]


def decode_chunks(vae: Any, latents: Tensor, tile: tuple[int, int]) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled."""
    cache = None
    for begin, end in chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size):
        part = latents[:, :, begin:end]
        if vae.post_quant_conv is not None:
            part = vae.post_quant_conv(part)
        frames, cache = vae.decoder(part, conv_cache=cache)
        yield frames


def speed_up(decoder: Any) -> None:
    """Replace slow but equal parts of the decoder."""
