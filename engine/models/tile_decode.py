"""Decoding in tiles with the memory of one tile: each tile through all of time before the next begins.

The picture is `vae.tiled_decode`'s, and so that of `vae_decode.decode_chunks` with the same tile. That one works on all tiles
a few frames at a time, so frames come early, but it keeps the convolution caches of every tile: 5.1 GiB for 49 x 480 x 720 in
bf16. Here the frames come at the end; a tile is decoded by `engine.models.band_decode`, and what is finished lies in the computer's
own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.memory.bands import BAND_BYTES
from engine.models.band_decode import decode_banded
from engine.models.bands import Room, host_room
from engine.models.vae_decode import chunk_bounds


@dataclass(frozen=True, slots=True)
class Grid:
    """Overlapping tiles of one clip. Pairs are (height, width)."""

    size: tuple[int, int]
    """Of a tile, in latents."""
    step: tuple[int, int]
    blend: tuple[int, int]
    """Pixels in which a tile fades into the one before."""
    keep: tuple[int, int]
    """Pixels of a tile that are its own."""
    scale: int
    whole: tuple[int, int]
    """Of the clip, in latents."""

    @property
    def rows(self) -> int:
        return len(range(0, self.whole[0], self.step[0]))

    @property
    def columns(self) -> int:
        return len(range(0, self.whole[1], self.step[1]))

    def cut(self, latents: Tensor, row: int, column: int) -> Tensor:
        """The latents (1, channels, frames, height, width) of a tile; those at the ends are smaller."""
        top, left = row * self.step[0], column * self.step[1]
        return latents[:, :, :, top:top + self.size[0], left:left + self.size[1]]

    def made(self, row: int, column: int) -> tuple[int, int]:
        """Pixels of a tile."""
        high, wide = (min(size, whole - at * step) * self.scale for size, whole, at, step in
                      zip(self.size, self.whole, (row, column), self.step, strict=True))
        return high, wide


def grid_of(vae: Any, latents: Tensor, tile: tuple[int, int]) -> Grid:
    """`tile`: pixels (height, width)."""
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    shares = (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width)
    high, wide = (_sides(side // scale, share, scale) for side, share in zip(tile, shares, strict=True))
    size, step, blend, keep = zip(high, wide, strict=True)
    return Grid(size, step, blend, keep, scale, (latents.shape[3], latents.shape[4]))


def _sides(size: int, share: float, scale: int) -> tuple[int, int, int, int]:
    over = int(size * scale * share)
    return size, int(size * (1 - share)), over, size * scale - over


def decode_by_tile(vae: Any, latents: Tensor, tile: tuple[int, int], *, limit: int = BAND_BYTES,
                   room: Room = host_room) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled, on the CPU.

    First, while tiles are worked on, chunks of no frames, so that the caller can stop. `tile`: pixels (height, width), smaller than
    the clip in at least one of them. `limit`, `room`: see `decode_banded`.
    """
    grid = grid_of(vae, latents, tile)
    nothing = no_frames(vae, latents, grid)
    held: list[list[list[Tensor]]] = [[[] for _ in range(grid.columns)] for _ in range(grid.rows)]
    for row in range(grid.rows):
        for column in range(grid.columns):
            for chunk in decode_banded(vae, grid.cut(latents, row, column), limit=limit, room=room):
                held[row][column].append(room(chunk).copy_(chunk))
                del chunk  # not together with the next one
                yield nothing
    for index in range(len(chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size))):
        yield joined(vae, held, index, grid)
        for line in held:
            for made in line:
                made[index] = nothing


def no_frames(vae: Any, latents: Tensor, grid: Grid) -> Tensor:
    return latents.new_empty(1, vae.config.out_channels, 0, *(side * grid.scale for side in grid.whole))


def joined(vae: Any, held: list[list[list[Tensor]]], index: int, grid: Grid) -> Tensor:
    """Chunk `index` of all tiles as one picture; tiles are faded into each other in place, as diffusers does it."""
    part = [[made[index] for made in row] for row in held]
    return torch.cat([torch.cat([_blended(vae, part, i, j, grid.blend)[:, :, :, :grid.keep[0], :grid.keep[1]] for j in range(len(row))],
                                dim=4) for i, row in enumerate(part)], dim=3)


def _blended(vae: Any, part: list[list[Tensor]], i: int, j: int, blend: tuple[int, int]) -> Tensor:
    """Tile (i, j) faded into the one above and the one to the left, which are done."""
    tile = part[i][j]
    if i > 0:
        tile = vae.blend_v(part[i - 1][j], tile, blend[0])
    if j > 0:
        tile = vae.blend_h(part[i][j - 1], tile, blend[1])
    return tile
