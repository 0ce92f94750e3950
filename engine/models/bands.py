"""Layers of the VAE over a picture in horizontal bands, exactly and in place; what both its decoder and its encoder are made of.

A convolution reads a band with the rows above and below that its kernel needs. A group norm needs only the channels of its groups,
so it runs over the whole picture a few groups at a time. Results take the place of what is no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.memory.bands import BAND_BYTES, band_rows, slice_groups
from engine.models.convolution import conv3d

T = TypeVar("T")
Room = Callable[[Tensor], Tensor]


def host_room(like: Tensor) -> Tensor:
    """An uninitialised tensor for what `like` holds until the next chunk: in pinned memory of the computer, if `like` is on a GPU."""
    if like.device.type == "cuda":
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def give_host_memory_back(device: torch.device) -> None:
    """To the computer, what of `host_room` nobody uses any more: torch would keep it for this process."""
    empty = getattr(torch._C, "_host_emptyCache", None)  # not in builds without CUDA
    if device.type == "cuda" and empty is not None:
        torch.cuda.current_stream(device).synchronize()  # what a copy still reads or writes would stay
        empty()


def giving_back(chunks: Iterator[T], device: torch.device) -> Iterator[T]:
    """`chunks`; after the last one, or where nobody asks for the rest, they are closed and what they had of `host_room` goes back."""
    try:
        yield from chunks
    finally:
        give_host_memory_back(device)


class Bands:
    """Layers in bands of at most `limit` bytes. Owns what the causal convolutions keep between two chunks; `close()` lets it go."""

    def __init__(self, *, limit: int = BAND_BYTES, room: Room = host_room) -> None:
        self.limit, self.room, self.last = limit, room, False
        """`last`: no chunk follows, so nothing need be kept."""
        self._kept: dict[Any, list[Tensor]] = {}

    def close(self) -> None:
        """Forget the clip."""
        self._kept.clear()

    def resnet(self, block: Any, hidden: Tensor, latents: Tensor | None = None) -> Tensor:
        """As the stock block without time embedding; overwrites `hidden`. `latents`: for the decoder's norms."""
        if block.in_channels == block.out_channels:
            residual, work = hidden, torch.empty_like(hidden)
        else:
            residual, work = self.pointwise(block.conv_shortcut, hidden), hidden
        self.normalise(block.norm1, hidden, work, latents)
        work = self.convolve(block.conv1, work, overwrite=True)
        self.normalise(block.norm2, work, work, latents)
        return self.convolve(block.conv2, work, onto=residual)

    def edges(self, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The rows above and below `hidden` (1, channels, frames, 1, width); None beyond the picture, where a kernel reads zeros.

        Here `hidden` is the picture. Where it is a part of one (`engine.parallel.bands`), others have these rows.
        """
        return None, None

    def moments(self, hidden: Tensor, groups: int, step: int) -> Tensor | None:
        """Mean and variance (groups, 2) of a picture that `hidden` is a part of; None: those of `hidden`. `step` channels at a time."""
        return None

    def normalise(self, norm: Any, hidden: Tensor, into: Tensor, latents: Tensor | None = None) -> None:
        """silu(norm(hidden)) into `into`, which may be `hidden`, a few groups of channels at a time.

        With `latents` the norm is spatial: norm(hidden) * scale + shift. These are 1x1x1 convolutions of the latents, repeated to the
        size of `hidden` (Zheng et al., MoVQ, https://arxiv.org/abs/2209.09002), and computed before they are repeated.
        """
        layer = norm if latents is None else norm.norm_layer
        scale = shift = None
        if latents is not None:
            across = hidden.shape[4] // latents.shape[4]
            scale, shift = (conv.conv(latents).repeat_interleave(across, dim=4) for conv in (norm.conv_y, norm.conv_b))
        width = hidden.shape[1] // layer.num_groups
        group_bytes = hidden[:, :width].numel() * hidden.element_size()
        step = width * slice_groups(layer.num_groups, group_bytes, self.limit)
        moments = self.moments(hidden, layer.num_groups, step)
        for first in range(0, hidden.shape[1], step):
            some = slice(first, first + step)
            part = hidden[:, some]
            if moments is None:
                part = F.group_norm(part, part.shape[1] // width, layer.weight[some], layer.bias[some], layer.eps)
            else:
                part = _normed(part, moments[first // width:(first + step) // width], layer.weight[some], layer.bias[some], layer.eps)
            if scale is not None and shift is not None:
                _modulate(part, scale[:, some], shift[:, some])
            into[:, some] = F.silu(part, inplace=True)
            del part

    def convolve(self, conv: Any, hidden: Tensor, *, overwrite: bool = False, onto: Tensor | None = None) -> Tensor:
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
        above, edges = None, self.edges(hidden)
        for index, top in enumerate(range(0, high, rows)):
            bottom = min(top + rows, high)
            band = hidden.new_empty(1, channels, before + frames, bottom - top + 2, wide)
            _fill(band[:, :, before:], hidden, top, bottom, above, edges)
            band[:, :, :before].copy_(kept[index] if kept else band[:, :, before:before + 1], non_blocking=True)
            self._keep(conv, index, band[:, :, frames:])
            above = hidden[:, :, :, bottom - 1:bottom].clone() if overwrite else None
            result = conv3d(band, conv.conv.weight, conv.conv.bias, padding=(0, 0, 1))
            del band
            place = out[:, :, :, top:bottom]
            _ = place.add_(result) if onto is not None else place.copy_(result)
            del result, place
        if self.last:
            self._kept.pop(conv, None)
        return out

    def _keep(self, conv: Any, index: int, frames: Tensor) -> None:
        """Remember the last `frames` of a band for the next chunk."""
        if self.last:
            return
        bands = self._kept.setdefault(conv, [])
        if index == len(bands):
            bands.append(self.room(frames))
        bands[index].copy_(frames, non_blocking=True)

    def pointwise(self, conv: Any, hidden: Tensor) -> Tensor:
        """A 1x1x1 convolution."""
        channels, frames, high, wide = hidden.shape[1:]
        out = hidden.new_empty(1, conv.out_channels, frames, high, wide)
        rows = band_rows(high, channels * frames * wide * hidden.element_size(), self.limit)
        for top in range(0, high, rows):
            out[:, :, :, top:top + rows] = F.conv3d(hidden[:, :, :, top:top + rows], conv.weight, conv.bias)
        return out


def _fill(band: Tensor, hidden: Tensor, top: int, bottom: int, above: Tensor | None,
          edges: tuple[Tensor | None, Tensor | None]) -> None:
    """Rows `top - 1` to `bottom` (included) of `hidden` into `band`; `above`: the first of them, where it has been overwritten.

    `edges`: what is beyond `hidden`; None for zeros.
    """
    high = hidden.shape[3]
    first, end = (top if above is not None or top == 0 else top - 1), min(bottom + 1, high)
    band[:, :, :, first - top + 1:end - top + 1] = hidden[:, :, :, first:end]
    if top == 0:
        band[:, :, :, :1] = 0 if edges[0] is None else edges[0]
    elif above is not None:
        band[:, :, :, :1] = above
    if bottom == high:
        band[:, :, :, -1:] = 0 if edges[1] is None else edges[1]


def _normed(part: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of `part` (1, channels, ...) with given `moments` (groups, 2), as one factor and one summand a channel."""
    channels = part.shape[1] // len(moments)
    mean, deviation = (one.repeat_interleave(channels) for one in (moments[:, 0], (moments[:, 1] + eps).rsqrt()))
    by = weight.float() * deviation
    plus = bias.float() - mean * by
    by, plus = by[None, :, None, None, None], plus[None, :, None, None, None]
    if part.dtype == torch.float32:
        return torch.addcmul(plus, part, by)
    return (part * by).add_(plus).to(part.dtype)  # rounded once


def _modulate(normed: Tensor, scale: Tensor, shift: Tensor) -> None:
    """normed * scale + shift in place. `scale` and `shift` are as wide as `normed`; each of their rows and frames counts for several."""
    # With an odd number of frames the first one has a latent of its own.
    odd = normed.shape[2] > 1 and normed.shape[2] % 2 == 1
    for here, there in ([(slice(0, 1), slice(0, 1)), (slice(1, None), slice(1, None))] if odd else [(slice(None),) * 2]):
        out, by, plus = normed[:, :, here], scale[:, :, there], shift[:, :, there]
        repeat_t, repeat_h = out.shape[2] // by.shape[2], out.shape[3] // by.shape[3]
        blocks = out.unflatten(3, (-1, repeat_h)).unflatten(2, (-1, repeat_t))
        blocks.mul_(by[:, :, :, None, :, None]).add_(plus[:, :, :, None, :, None])
