"""The VAE over pictures whose rows lie on several ranks, exactly.

Every rank has a band of rows from the latents to the pixels. A convolution needs one row of each neighbour, which they exchange
before it; what causal convolutions keep for the next frames has these rows already. A group norm needs the mean and the variance over
the whole picture: every rank's own (count, mean, variance) are joined by

    n = sum n_i,    m = sum n_i m_i / n,    v = sum n_i (v_i + (m_i - m)^2) / n           (Chan et al. 1979)

Within a rank, bands and slices are those of `engine.models.bands`. In time it streams as on one device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.memory.bands import BAND_BYTES
from engine.models.band_decode import decode_part
from engine.models.band_encode import encode_part
from engine.models.bands import Bands, Room, host_room
from engine.models.vae_decode import chunk_bounds
from engine.models.vae_encode import pixels
from engine.parallel.attend import token_part
from engine.parallel.degrees import starts
from engine.parallel.mesh import Mesh

TINY = 1e-12
"""Beside a variance, so that a group of equal numbers divides by something."""


class RowBands(Bands):
    """Layers over this rank's rows of a picture."""

    def __init__(self, mesh: Mesh, *, limit: int = BAND_BYTES, room: Room = host_room) -> None:
        super().__init__(limit=limit, room=room)
        self._mesh = mesh

    def edges(self, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return self._mesh.edges(hidden[:, :, :, :1].contiguous(), hidden[:, :, :, -1:].contiguous())

    def moments(self, hidden: Tensor, groups: int, step: int) -> Tensor:
        width, own = hidden.shape[1] // groups, []
        for part in hidden[0].split(step):
            own.append(_moments(part.float(), width))
        count, mean, variance = self._mesh.stacked(torch.cat(own).double()).unbind(2)  # each (ranks, groups)
        total = count.sum(0)
        middle = (count * mean).sum(0) / total
        spread = (count * (variance + (mean - middle).square())).sum(0) / total
        return torch.stack([middle, spread], dim=1).float()


def _moments(part: Tensor, width: int) -> Tensor:
    """(groups, 3): count, mean and variance of every `width` channels of `part` (channels, ...), in float32.

    Out of torch's group norm, whose one pass is ten times as fast as `torch.var_mean` on a processor; what it normalises is dropped.
    """
    groups, each = len(part) // width, part[0].numel()
    _, mean, scale = torch.native_group_norm(part.contiguous(), None, None, 1, len(part), each, groups, TINY)
    return torch.stack([torch.full_like(mean[0], float(each * width)), mean[0], scale[0].double().pow(-2).sub(TINY).float()], dim=1)


def decode_rows(vae: Any, latents: Tensor, mesh: Mesh, sizes: tuple[int, ...], *, limit: int = BAND_BYTES,
                room: Room = host_room) -> Iterator[Tensor]:
    """This rank's rows (1, 3, frames, my rows, width) of the chunks of `band_decode.decode_banded`. `sizes`: rows of latents by rank."""
    bands = RowBands(mesh, limit=limit, room=room)
    mine = token_part(latents, sizes, mesh.rank, 3)
    for begin, end in chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size):
        bands.last = end == latents.shape[2]
        yield decode_part(vae, mine[:, :, begin:end], bands)


def encode_rows(vae: Any, frames: np.ndarray, mesh: Mesh, sizes: tuple[int, ...], *, limit: int = BAND_BYTES,
                room: Room = host_room) -> Iterator[tuple[int, Tensor]]:
    """As `band_encode.encode_banded`, on every rank; each encodes its rows. `sizes`: rows of the moments by rank."""
    bands = RowBands(mesh, limit=limit, room=room)
    scale = frames.shape[1] // sum(sizes)
    top = scale * starts(sizes)[mesh.rank]
    mine = np.ascontiguousarray(frames[:, top:top + scale * sizes[mesh.rank]])
    for begin, end in chunk_bounds(len(frames), vae.num_sample_frames_batch_size):
        bands.last = end == len(frames)
        part = pixels(mine[begin:end], single=len(frames) == 1).to(vae.device, vae.dtype)
        yield end, mesh.rows(encode_part(vae, part, bands), sizes, 3)
