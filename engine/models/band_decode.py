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

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.memory.bands import BAND_BYTES, band_rows, slice_groups
from engine.models.vae_decode import chunk_bounds

Room = Callable[[Tensor], Tensor]


def host_room(like: Tensor) -> Tensor:
    """An uninitialised tensor for what `like` holds until the next chunk: in pinned memory of the computer, if `like` is on a GPU."""
    if like.device.type == "cuda":
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def decode_banded(vae: Any, latents: Tensor, *, limit: int = BAND_BYTES, room: Room = host_room) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled.

    `limit`: bytes of a band. `room`: makes the place where convolutions keep frames for the next chunk.
    """
    decoder = BandDecoder(vae, limit=limit, room=room)
    for begin, end in chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size):
        yield decoder.next(latents[:, :, begin:end], last=end == latents.shape[2])


class BandDecoder:
    """One clip's or tile's decoder. Owns what the convolutions keep between two chunks; `close()` lets it go."""

    def __init__(self, vae: Any, *, limit: int = BAND_BYTES, room: Room = host_room) -> None:
        self.vae, self.limit, self.room = vae, limit, room
        self._kept: dict[Any, list[Tensor]] = {}
        self._last = False

    def close(self) -> None:
        """Forget the clip."""
        self._kept.clear()

    def next(self, part: Tensor, *, last: bool) -> Tensor:
        """Frames (1, 3, frames, height, width) of the next latents (1, channels, frames, height, width). `last`: none follow."""
        self._last = last
        if self.vae.post_quant_conv is not None:
            part = self.vae.post_quant_conv(part)
        decoder = self.vae.decoder
        hidden = self._convolve(decoder.conv_in, part)
        for block in decoder.mid_block.resnets:
            hidden = self._resnet(block, hidden, part)
        for level in decoder.up_blocks:
            for block in level.resnets:
                hidden = self._resnet(block, hidden, part)
            for upsampler in level.upsamplers or ():
                hidden = self._enlarged(upsampler, hidden)
        self._normalise(decoder.norm_out, hidden, part, hidden)
        frames = self._convolve(decoder.conv_out, hidden)
        if last:
            self.close()
        return frames

    def _resnet(self, block: Any, hidden: Tensor, latents: Tensor) -> Tensor:
        """As the stock block without time embedding; overwrites `hidden`."""
        if block.in_channels == block.out_channels:
            residual, work = hidden, torch.empty_like(hidden)
        else:
            residual, work = self._pointwise(block.conv_shortcut, hidden), hidden
        self._normalise(block.norm1, hidden, latents, work)
        work = self._convolve(block.conv1, work, overwrite=True)
        self._normalise(block.norm2, work, latents, work)
        return self._convolve(block.conv2, work, onto=residual)

    def _normalise(self, norm: Any, hidden: Tensor, latents: Tensor, into: Tensor) -> None:
        """silu(norm(hidden) * scale + shift) into `into`, which may be `hidden`, a few groups of channels at a time.

        Scale and shift are 1x1x1 convolutions of the latents, repeated to the size of `hidden` (Zheng et al., MoVQ,
        https://arxiv.org/abs/2209.09002); they are computed before they are repeated.
        """
        layer, across = norm.norm_layer, hidden.shape[4] // latents.shape[4]
        scale, shift = (conv.conv(latents).repeat_interleave(across, dim=4) for conv in (norm.conv_y, norm.conv_b))
        width = hidden.shape[1] // layer.num_groups
        group_bytes = hidden[:, :width].numel() * hidden.element_size()
        step = width * slice_groups(layer.num_groups, group_bytes, self.limit)
        for first in range(0, hidden.shape[1], step):
            some = slice(first, first + step)
            part = hidden[:, some]
            part = F.group_norm(part, part.shape[1] // width, layer.weight[some], layer.bias[some], layer.eps)
            _modulate(part, scale[:, some], shift[:, some])
            into[:, some] = F.silu(part, inplace=True)
            del part

    def _convolve(self, conv: Any, hidden: Tensor, *, overwrite: bool = False, onto: Tensor | None = None) -> Tensor:
        """A causal 3x3x3 convolution. The result is new, or takes the place of `hidden`, or is added to `onto`."""
        channels, frames, high, wide = hidden.shape[1:]
        made = conv.conv.out_channels
        if onto is not None:
            out = onto
        else:
            out = hidden[:, :made] if overwrite and made <= channels else hidden.new_empty(1, made, frames, high, wide)
        before, kept = conv.time_kernel_size - 1, self._kept.get(conv)
        row_bytes = channels * (frames + before) * wide * hidden.element_size()
        # Later chunks have fewer frames; their bands stay those of the first, whose frames are kept by band.
        rows = kept[0].shape[3] - 2 if kept else band_rows(high, row_bytes, self.limit)
        above = None
        for index, top in enumerate(range(0, high, rows)):
            bottom = min(top + rows, high)
            band = hidden.new_empty(1, channels, before + frames, bottom - top + 2, wide)
            _fill(band[:, :, before:], hidden, top, bottom, above)
            band[:, :, :before] = kept[index] if kept else band[:, :, before:before + 1]
            self._keep(conv, index, band[:, :, frames:])
            above = hidden[:, :, :, bottom - 1:bottom].clone() if overwrite else None
            result = F.conv3d(band, conv.conv.weight, conv.conv.bias, padding=(0, 0, 1))
            del band
            place = out[:, :, :, top:bottom]
            _ = place.add_(result) if onto is not None else place.copy_(result)
            del result, place
        if self._last:
            self._kept.pop(conv, None)
        return out

    def _keep(self, conv: Any, index: int, frames: Tensor) -> None:
        """Remember the last `frames` of a band for the next chunk."""
        if self._last:
            return
        bands = self._kept.setdefault(conv, [])
        if index == len(bands):
            bands.append(self.room(frames))
        bands[index].copy_(frames, non_blocking=True)

    def _pointwise(self, conv: Any, hidden: Tensor) -> Tensor:
        """A 1x1x1 convolution."""
        channels, frames, high, wide = hidden.shape[1:]
        out = hidden.new_empty(1, conv.out_channels, frames, high, wide)
        rows = band_rows(high, channels * frames * wide * hidden.element_size(), self.limit)
        for top in range(0, high, rows):
            out[:, :, :, top:top + rows] = F.conv3d(hidden[:, :, :, top:top + rows], conv.weight, conv.bias)
        return out

    def _enlarged(self, upsampler: Any, hidden: Tensor) -> Tensor:
        """Twice the size by repetition, a 2D convolution of each frame, and each frame twice where time is compressed."""
        channels, frames, high, wide = hidden.shape[1:]
        twice = upsampler.compress_time and frames > 1
        single = frames % 2 if twice else frames  # with an odd number of frames the first one is not repeated
        out = hidden.new_empty(1, upsampler.conv.out_channels, single + 2 * (frames - single), 2 * high, 2 * wide)
        rows = band_rows(high, 4 * channels * frames * wide * hidden.element_size(), self.limit)
        for top in range(0, high, rows):
            bottom = min(top + rows, high)
            source = hidden[0, :, :, max(top - 1, 0):bottom + 1].transpose(0, 1)
            # Around the rows wanted: zeros at the picture's edge, else the nearer one of the two rows a source row becomes.
            edges = (0, 0, 1 if top == 0 else -1, 1 if bottom == high else -1)
            band = F.pad(F.interpolate(source, scale_factor=2.0), edges)
            result = F.conv2d(band, upsampler.conv.weight, upsampler.conv.bias, padding=(0, 1)).transpose(0, 1)
            del band
            place = out[0, :, :, 2 * top:2 * bottom]
            place[:, :single] = result[:, :single]
            for copy in range(2):
                place[:, single + copy::2] = result[:, single:]
            del result, place
        return out


def _fill(band: Tensor, hidden: Tensor, top: int, bottom: int, above: Tensor | None) -> None:
    """Rows `top - 1` to `bottom` (included) of `hidden` into `band`; `above`: the first of them, where it has been overwritten."""
    high = hidden.shape[3]
    first, end = (top if above is not None or top == 0 else top - 1), min(bottom + 1, high)
    band[:, :, :, first - top + 1:end - top + 1] = hidden[:, :, :, first:end]
    if top == 0:
        band[:, :, :, :1] = 0
    elif above is not None:
        band[:, :, :, :1] = above
    if bottom == high:
        band[:, :, :, -1:] = 0


def _modulate(normed: Tensor, scale: Tensor, shift: Tensor) -> None:
    """normed * scale + shift in place. `scale` and `shift` are as wide as `normed`; each of their rows and frames counts for several."""
    # With an odd number of frames the first one has a latent of its own.
    odd = normed.shape[2] > 1 and normed.shape[2] % 2 == 1
    for here, there in ([(slice(0, 1), slice(0, 1)), (slice(1, None), slice(1, None))] if odd else [(slice(None),) * 2]):
        out, by, plus = normed[:, :, here], scale[:, :, there], shift[:, :, there]
        repeat_t, repeat_h = out.shape[2] // by.shape[2], out.shape[3] // by.shape[3]
        blocks = out.unflatten(3, (-1, repeat_h)).unflatten(2, (-1, repeat_t))
        blocks.mul_(by[:, :, :, None, :, None]).add_(plus[:, :, :, None, :, None])
