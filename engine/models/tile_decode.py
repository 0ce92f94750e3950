"""Decoding in tiles with the memory of one tile: each tile through all of time before the next begins.

The picture is `vae.tiled_decode`'s, and so that of `vae_decode.decode_chunks` with the same tile. That one works on all tiles
a few frames at a time, so frames come early, but it keeps the convolution caches of every tile: 5.1 GiB for 49 x 480 x 720 in
bf16. Here the frames come at the end; a tile is decoded by `engine.models.band_decode`, and what is finished lies in the computer's
own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from engine.memory.bands import BAND_BYTES
from engine.models.band_decode import decode_banded
from engine.models.bands import Room, host_room
from engine.models.vae_decode import chunk_bounds


def decode_by_tile(vae: Any, latents: Tensor, tile: tuple[int, int], *, limit: int = BAND_BYTES,
                   room: Room = host_room) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled, on the CPU.

    First, while tiles are worked on, chunks of no frames, so that the caller can stop. `tile`: pixels (height, width), smaller than
    the clip in at least one of them. `limit`, `room`: see `decode_banded`.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    shares = (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width)
    size = [side // scale for side in tile]
    step = [int(side * (1 - share)) for side, share in zip(size, shares, strict=True)]
    blend = [int(side * scale * share) for side, share in zip(size, shares, strict=True)]
    keep = [side * scale - over for side, over in zip(size, blend, strict=True)]
    nothing = latents.new_empty(1, vae.config.out_channels, 0, latents.shape[3] * scale, latents.shape[4] * scale)
    rows: list[list[list[Tensor]]] = []
    for top in range(0, latents.shape[3], step[0]):
        rows.append([])
        for left in range(0, latents.shape[4], step[1]):
            rows[-1].append([])
            cut = latents[:, :, :, top:top + size[0], left:left + size[1]]
            for chunk in decode_banded(vae, cut, limit=limit, room=room):
                rows[-1][-1].append(room(chunk).copy_(chunk))
                del chunk  # not together with the next one
                yield nothing
    for index in range(len(chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size))):
        part = [[made[index] for made in row] for row in rows]
        yield torch.cat([torch.cat([_blended(vae, part, i, j, blend)[:, :, :, :keep[0], :keep[1]] for j in range(len(row))], dim=4)
                         for i, row in enumerate(part)], dim=3)
        for row in rows:
            for made in row:
                made[index] = nothing


def _blended(vae: Any, part: list[list[Tensor]], i: int, j: int, blend: list[int]) -> Tensor:
    """Tile (i, j) faded into the one above and the one to the left, which are done; in place, as diffusers does it."""
    tile = part[i][j]
    if i > 0:
        tile = vae.blend_v(part[i - 1][j], tile, blend[0])
    if j > 0:
        tile = vae.blend_h(part[i][j - 1], tile, blend[1])
    return tile
