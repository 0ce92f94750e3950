"""Exact decoding of CogVideoX latents in bounded memory: in time chunk by chunk, in space band by band.

A chunk of frames goes through the decoder layer by layer, and each layer over the picture in horizontal bands, with the rows
above and below that its kernel needs. The norms see whole frames, as in `vae.decode`: a group norm needs only the channels of its
groups, so it runs on a few groups at a time over the whole picture. That is why this equals the untiled decode, and tiles do not.

Results take the place of what is no longer needed: a convolution's output overwrites its input (each band reads the one row
that the band above has overwritten from a copy), the second one of a residual block is added to the block's input. At most one
and a half maps of the widest level are alive (a map: its channels before the first block, every frame and pixel); stock code
has seven.

Between chunks every causal convolution keeps the last two frames it read: at 49 x 480 x 720 together 2.6 GiB in bf16. They lie as
bands, with their halo, are overwritten in place, and on a GPU rest in the computer's own memory (pinned; 2.6 GiB each way and
chunk). Nothing waits for them: copies and convolutions stand in one stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.memory.bands import BAND_BYTES, band_rows
from engine.models.bands import Bands, Room, host_room
from engine.models.vae_decode import chunk_bounds


def decode_banded(vae: Any, latents: Tensor, *, limit: int = BAND_BYTES, room: Room = host_room) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled.

    `limit`: bytes of a band. `room`: makes the place where convolutions keep frames for the next chunk.
    """
    bands = Bands(limit=limit, room=room)
    for begin, end in chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size):
        bands.last = end == latents.shape[2]
        yield decode_part(vae, latents[:, :, begin:end], bands)


def decode_part(vae: Any, part: Tensor, bands: Bands) -> Tensor:
    """Frames (1, 3, frames, height, width) of the next latents (1, channels, frames, height, width)."""
    if vae.post_quant_conv is not None:
        part = vae.post_quant_conv(part)
    decoder = vae.decoder
    hidden = bands.convolve(decoder.conv_in, part)
    for block in decoder.mid_block.resnets:
        hidden = bands.resnet(block, hidden, part)
    for level in decoder.up_blocks:
        for block in level.resnets:
            hidden = bands.resnet(block, hidden, part)
        for upsampler in level.upsamplers or ():
            hidden = _enlarged(upsampler, hidden, bands)
    bands.normalise(decoder.norm_out, hidden, hidden, part)
    return bands.convolve(decoder.conv_out, hidden)


def _enlarged(upsampler: Any, hidden: Tensor, bands: Bands) -> Tensor:
    """Twice the size by repetition, a 2D convolution of each frame, and each frame twice where time is compressed."""
    channels, frames, high, wide = hidden.shape[1:]
    twice = upsampler.compress_time and frames > 1
    single = frames % 2 if twice else frames  # with an odd number of frames the first one is not repeated
    out = hidden.new_empty(1, upsampler.conv.out_channels, single + 2 * (frames - single), 2 * high, 2 * wide)
    rows = band_rows(high, 4 * channels * frames * wide * hidden.element_size(), bands.limit)
    above, below = bands.edges(hidden)
    for top in range(0, high, rows):
        bottom = min(top + rows, high)
        beyond = (above if top == 0 else None, below if bottom == high else None)
        parts = [beyond[0], hidden[:, :, :, max(top - 1, 0):bottom + 1], beyond[1]]
        given = [part[0].transpose(0, 1) for part in parts if part is not None]
        source = given[0] if len(given) == 1 else torch.cat(given, dim=2)
        # Around the rows wanted: zeros at the picture's edge, else the nearer one of the two rows a source row becomes.
        edges = (0, 0, 1 if top == 0 and above is None else -1, 1 if bottom == high and below is None else -1)
        band = F.pad(F.interpolate(source, scale_factor=2.0), edges)
        result = F.conv2d(band, upsampler.conv.weight, upsampler.conv.bias, padding=(0, 1)).transpose(0, 1)
        del band
        place = out[0, :, :, 2 * top:2 * bottom]
        place[:, :single] = result[:, :single]
        for copy in range(2):
            place[:, single + copy::2] = result[:, single:]
        del result, place
    return out
