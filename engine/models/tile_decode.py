"""Decoding in tiles with the memory of one tile: each tile through all of time before the next begins.

The picture is bit for bit `vae.tiled_decode`'s, and so that of `vae_decode.decode_chunks` with the same tile. That one works
on all tiles a few frames at a time, so frames come early, but it keeps the convolution caches of every tile: 5.1 GiB for
49 x 480 x 720 in bf16. Here the frames come at the end and the caches are one tile's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from engine.models.vae_decode import chunk_bounds


def decode_by_tile(vae: Any, latents: Tensor, tile: tuple[int, int]) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled.

    `tile`: pixels (height, width), smaller than the clip in at least one of them.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    shares = (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width)
    size = [side // scale for side in tile]
    step = [int(side * (1 - share)) for side, share in zip(size, shares, strict=True)]
    blend = [int(side * scale * share) for side, share in zip(size, shares, strict=True)]
    keep = [side * scale - over for side, over in zip(size, blend, strict=True)]
    bounds = chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size)
    rows = [[_decode_one(vae, latents[:, :, :, top:top + size[0], left:left + size[1]], bounds)
             for left in range(0, latents.shape[4], step[1])] for top in range(0, latents.shape[3], step[0])]
    begin = 0
    for length in _lengths(latents.shape[2], rows[0][0].shape[2], bounds):
        part = [[tile_frames[:, :, begin:begin + length].clone() for tile_frames in row] for row in rows]
        yield torch.cat([torch.cat([_blended(vae, part, i, j, blend)[:, :, :, :keep[0], :keep[1]] for j in range(len(row))], dim=4)
                         for i, row in enumerate(part)], dim=3)
        begin += length


def _decode_one(vae: Any, latents: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
    """All frames of one tile."""
    made, cache = [], None
    for begin, end in bounds:
        part = latents[:, :, begin:end]
        if vae.post_quant_conv is not None:
            part = vae.post_quant_conv(part)
        frames, cache = vae.decoder(part, conv_cache=cache)
        made.append(frames)
    return torch.cat(made, dim=2)


def _lengths(latent_frames: int, frames: int, bounds: list[tuple[int, int]]) -> list[int]:
    """Frames of each chunk: the first has what the others leave."""
    later = [(end - begin) * (frames // latent_frames if len(bounds) == 1 else 4) for begin, end in bounds[1:]]
    return [frames - sum(later), *later]


def _blended(vae: Any, part: list[list[Tensor]], i: int, j: int, blend: list[int]) -> Tensor:
    """Tile (i, j) faded into the one above and the one to the left, which are done; in place, as diffusers does it."""
    tile = part[i][j]
    if i > 0:
        tile = vae.blend_v(part[i - 1][j], tile, blend[0])
    if j > 0:
        tile = vae.blend_h(part[i][j - 1], tile, blend[1])
    return tile
