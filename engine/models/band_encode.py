"""Exact encoding of pictures and videos in bounded memory: the counterpart of `engine.models.band_decode`.

The moments are those of `vae.encode`: chunk by chunk in time, band by band in space, norms over whole frames. At 49 x 480 x 720 the
stock encoder takes 6.1 GiB in bf16; here two maps of the first level are alive, and what is kept for the next chunk rests beside the
GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.memory.bands import BAND_BYTES, band_rows
from engine.models.bands import Bands, Room, host_room
from engine.models.vae_decode import chunk_bounds
from engine.models.vae_encode import pixels


def encode_banded(vae: Any, frames: np.ndarray, *, limit: int = BAND_BYTES, room: Room = host_room) -> Iterator[tuple[int, Tensor]]:
    """As `vae_encode.encode_chunks`, untiled. `limit`, `room`: see `decode_banded`."""
    bands = Bands(limit=limit, room=room)
    for begin, end in chunk_bounds(len(frames), vae.num_sample_frames_batch_size):
        bands.last = end == len(frames)
        part = pixels(frames[begin:end], single=len(frames) == 1).to(vae.device, vae.dtype)
        yield end, encode_part(vae, part, bands)


def encode_picture_banded(vae: Any, picture: Tensor, *, limit: int = BAND_BYTES, room: Room = host_room) -> Tensor:
    """As `vae_encode.encode_picture`."""
    bands = Bands(limit=limit, room=room)
    bands.last = True
    return encode_part(vae, picture[None, :, None].to(vae.device, vae.dtype), bands)


def encode_part(vae: Any, part: Tensor, bands: Bands) -> Tensor:
    """Moments (1, 2 x channels, latent frames, height, width) of the next pixels (1, 3, frames, height, width)."""
    encoder = vae.encoder
    hidden = bands.convolve(encoder.conv_in, part)
    for level in encoder.down_blocks:
        for block in level.resnets:
            hidden = bands.resnet(block, hidden)
        for downsampler in level.downsamplers or ():
            hidden = _halved(downsampler, hidden, bands)
    for block in encoder.mid_block.resnets:
        hidden = bands.resnet(block, hidden)
    bands.normalise(encoder.norm_out, hidden, hidden)
    moments = bands.convolve(encoder.conv_out, hidden)
    return moments if vae.quant_conv is None else vae.quant_conv(moments)


def _halved(downsampler: Any, hidden: Tensor, bands: Bands) -> Tensor:
    """Half the size, and half the frames where time is compressed. `hidden` has an even number of rows.

    The stock layer appends a row of zeros and takes every second one of three: given the band's rows and the one below, it does
    not come to read its zeros; at the picture's end it has to.
    """
    channels, frames, high, wide = hidden.shape[1:]
    rows = band_rows(high // 2, 2 * channels * frames * wide * hidden.element_size(), bands.limit)
    out, below = None, bands.edges(hidden)[1]
    for top in range(0, high // 2, rows):
        source = hidden[:, :, :, 2 * top:2 * (top + rows) + 1]
        if top + rows >= high // 2 and below is not None:  # one row too many is read by no product
            source = torch.cat([source, below], 3)
        part = downsampler(source)
        if out is None:
            out = hidden.new_empty(*part.shape[:3], high // 2, part.shape[4])
        out[:, :, :, top:top + rows] = part
        del part
    assert out is not None
    return out
