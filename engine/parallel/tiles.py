"""Decoding in tiles that are dealt out in turn: rank r has the tiles r, r + N, r + 2N, ... of N ranks, and nothing is exchanged while
they are decoded. The cheap way, for clips that are decoded in tiles anyway: the picture is that of the same tiles on one device.

    round k:  every rank decodes its tile, chunk of frames by chunk; each finished chunk goes to the first rank
    then      the first rank fades the tiles into each other, as `engine.models.tile_decode` does
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from engine.models.bands import Room, host_room
from engine.models.tile_decode import Grid, grid_of, joined, no_frames
from engine.models.vae_decode import chunk_bounds
from engine.parallel.mesh import Mesh

Chunks = Callable[[Tensor], Iterator[Tensor]]
"""The latents of one tile -> its frames, chunk by chunk."""


def decode_tiles(vae: Any, latents: Tensor, tile: tuple[int, int], mesh: Mesh, chunks: Chunks, *, room: Room = host_room
                 ) -> Iterator[tuple[int, Tensor | None]]:
    """(frames, chunk (1, 3, frames, height, width) on the first rank, None on others), at the same moments on all ranks.

    First, while tiles are worked on, chunks of no frames. `latents`: (1, channels, frames, height, width), the same on every rank.
    """
    grid = grid_of(vae, latents, tile)
    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    nothing = no_frames(vae, latents, grid)
    held: list[list[list[Tensor]]] = [[[] for _ in range(grid.columns)] for _ in range(grid.rows)]
    count = len(chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size))
    lengths: list[int] = []
    for begin in range(0, len(places), mesh.degrees.ranks):
        turn = places[begin:begin + mesh.degrees.ranks]
        own = chunks(grid.cut(latents, *turn[mesh.rank])) if mesh.rank < len(turn) else iter(())
        for _ in range(count):
            chunk = next(own, None)
            _hand_over(mesh, turn, grid, chunk, held, room)
            if begin == 0 and chunk is not None:
                lengths.append(chunk.shape[2])
            del chunk
            yield 0, nothing if mesh.leads else None
    lengths = mesh.tell(lengths)
    for index in range(count):
        yield lengths[index], joined(vae, held, index, grid) if mesh.leads else None
        for line in held if mesh.leads else ():
            for made in line:
                made[index] = nothing


def _hand_over(mesh: Mesh, turn: list[tuple[int, int]], grid: Grid, chunk: Tensor | None, held: list[list[list[Tensor]]],
               room: Room) -> None:
    """The chunks of one turn to the first rank, in the order of ranks."""
    for source, (row, column) in enumerate(turn):
        if mesh.leads:
            if chunk is None:
                raise RuntimeError("the first rank has a tile in every turn")
            shape = (1, chunk.shape[1], chunk.shape[2], *grid.made(row, column))
            got = chunk if source == 0 else mesh.taken(chunk.new_empty(shape), source)
            held[row][column].append(room(got).copy_(got))
        elif source == mesh.rank and chunk is not None:
            mesh.given(chunk)
