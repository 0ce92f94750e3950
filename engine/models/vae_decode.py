"""Decoding CogVideoX latents: streaming, and without arithmetic that is thrown away.

`decode_chunks` gives the frames of `vae.decode` bit for bit, a few at a time: the causal convolutions carry their last
two input frames from chunk to chunk (`conv_cache`), so nothing is computed twice.

`speed_up` replaces parts of a decoder by cheaper ones with the same result:
  - the spatial norm's two 1x1x1 convolutions run on the latents instead of on their nearest-neighbour enlargement, and
    their results are spread by broadcasting (up to 256 times fewer convolutions, no full-size copies);
  - a 2D convolution after doubling the frames runs once per distinct frame;
  - activations and residual sums happen in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXResnetBlock3D, CogVideoXSpatialNorm3D
from diffusers.models.upsampling import CogVideoXUpsample3D
from torch import Tensor

Cache = dict[str, Any]
ROUNDING = 0.02
"""Share of the largest value by which two decodes in bf16, or in fp32 with TF32 products, may differ through rounding."""


def chunk_bounds(latent_frames: int, size: int = 2) -> list[tuple[int, int]]:
    """First and last + 1 latent frame of every chunk: pairs, and the odd frame goes with the first (3, 2, 2, ...)."""
    odd = latent_frames % size
    count = max(latent_frames // size, 1)
    return [(size * i + (odd if i else 0), min(size * (i + 1) + odd, latent_frames)) for i in range(count)]


def decode_chunks(vae: Any, latents: Tensor, tile: tuple[int, int]) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) in -1..1 of `latents` (1, channels, frames, height, width), unscaled.

    Pixels `tile` (height, width) smaller than the clip: as `vae.tiled_decode` with tiles of that size, again bit for bit.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    high, wide = tile[0] // scale, tile[1] // scale
    tiled = latents.shape[3] > high or latents.shape[4] > wide
    cuts = Tiles(vae, _decode_part, (high, wide), (high * scale, wide * scale)) if tiled else None
    cache: Any = None
    for begin, end in chunk_bounds(latents.shape[2], vae.num_latent_frames_batch_size):
        part = latents[:, :, begin:end]
        if cuts is not None:
            yield cuts.next(part)
            continue
        frames, cache = _decode_part(vae, part, cache)
        yield frames


def _decode_part(vae: Any, part: Tensor, cache: Any) -> tuple[Tensor, Any]:
    if vae.post_quant_conv is not None:
        part = vae.post_quant_conv(part)
    return vae.decoder(part, conv_cache=cache)


class Tiles:
    """Overlapping tiles of one clip, each with its own convolution cache, blended as diffusers does.

    `work(vae, part, cache)` turns a tile of `size` (height, width) into one of `made` (height, width), and gives its cache.
    """

    def __init__(self, vae: Any, work: Callable[[Any, Tensor, Any], tuple[Tensor, Any]], size: tuple[int, int],
                 made: tuple[int, int]) -> None:
        self.vae, self.work, self.size = vae, work, size
        shares = (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width)
        self.step = [int(side * (1 - share)) for side, share in zip(size, shares, strict=True)]
        self.blend = [int(side * share) for side, share in zip(made, shares, strict=True)]
        self.keep = [side - over for side, over in zip(made, self.blend, strict=True)]
        self.caches: dict[tuple[int, int], Any] = {}

    def next(self, part: Tensor) -> Tensor:
        """The result for the next `part` (1, channels, frames, height, width) in time."""
        rows: list[list[Tensor]] = []
        for top in range(0, part.shape[3], self.step[0]):
            rows.append([])
            for left in range(0, part.shape[4], self.step[1]):
                cut = part[:, :, :, top:top + self.size[0], left:left + self.size[1]]
                tile, self.caches[top, left] = self.work(self.vae, cut, self.caches.get((top, left)))
                rows[-1].append(tile)
        joined = []
        for i, row in enumerate(rows):
            line = []
            for j, tile in enumerate(row):
                if i > 0:
                    tile = self.vae.blend_v(rows[i - 1][j], tile, self.blend[0])
                if j > 0:
                    tile = self.vae.blend_h(row[j - 1], tile, self.blend[1])
                line.append(tile[:, :, :, :self.keep[0], :self.keep[1]])
            joined.append(torch.cat(line, dim=4))
        return torch.cat(joined, dim=3)


@torch.inference_mode()
def speed_up(vae: Any, channels: int) -> bool:
    """Make the decoder of `vae` faster and leaner, if that gives the same picture on this machine; says whether it does.

    The same means the very same bits on a processor. Which kernel a convolution runs in depends on the processor and on torch, so
    equality is tried, not assumed. On a GPU kernels are chosen by size and speed and differ in their last bits anyway; there the
    difference must be one of rounding.
    """
    weight = next(vae.parameters())
    noise = torch.randn(1, channels, 5, 4, 6, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    whole = (8 * 4, 8 * 6)
    expected = torch.cat(list(decode_chunks(vae, noise, whole)), dim=2)
    _patch(vae.decoder)
    if same_picture(torch.cat(list(decode_chunks(vae, noise, whole)), dim=2), expected):
        return True
    for module in vae.decoder.modules():
        module.__dict__.pop("forward", None)
    return False


def same_picture(given: Tensor, expected: Tensor) -> bool:
    """Whether two decodes are equal: to the last bit on a processor, but for rounding elsewhere."""
    if given.device.type == "cpu":
        return torch.equal(given, expected)
    furthest = (given.float() - expected.float()).abs().max()
    return bool(furthest <= ROUNDING * expected.float().abs().max())


def _patch(decoder: Any) -> None:
    for module in decoder.modules():
        if isinstance(module, CogVideoXSpatialNorm3D):
            module.forward = MethodType(_spatial_norm, module)
        elif isinstance(module, CogVideoXResnetBlock3D) and isinstance(module.norm1, CogVideoXSpatialNorm3D):
            module.forward = MethodType(_resnet, module)
        elif isinstance(module, CogVideoXUpsample3D):
            module.forward = MethodType(_upsample, module)


def _spatial_norm(self: Any, f: Tensor, zq: Tensor, conv_cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """norm(f) * conv_y(up(zq)) + conv_b(up(zq)), where `up` repeats pixels; conv(up(z)) = up(conv(z)) for 1x1x1."""
    normed = self.norm_layer(f)
    scale, shift = (conv.conv(zq).repeat_interleave(f.shape[4] // zq.shape[4], dim=4) for conv in (self.conv_y, self.conv_b))
    # With an odd number of frames the first one has a latent of its own.
    odd = f.shape[2] > 1 and f.shape[2] % 2 == 1
    for here, there in ([(slice(0, 1), slice(0, 1)), (slice(1, None), slice(1, None))] if odd else [(slice(None),) * 2]):
        out, by, plus = normed[:, :, here], scale[:, :, there], shift[:, :, there]
        repeat_t, repeat_h = out.shape[2] // by.shape[2], out.shape[3] // by.shape[3]
        blocks = out.unflatten(3, (-1, repeat_h)).unflatten(2, (-1, repeat_t))
        blocks.mul_(by[:, :, :, None, :, None]).add_(plus[:, :, :, None, :, None])
    return normed, {}


def _resnet(self: Any, inputs: Tensor, temb: Tensor | None = None, zq: Tensor | None = None,
            conv_cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """As the stock block without time embedding (decoders have none), every full-size sum and activation in place."""
    cache, new = conv_cache or {}, {}
    hidden = F.silu(self.norm1(inputs, zq)[0], inplace=True)
    hidden, new["conv1"] = self.conv1(hidden, conv_cache=cache.get("conv1"))
    hidden = F.silu(self.norm2(hidden, zq)[0], inplace=True)
    hidden, new["conv2"] = self.conv2(hidden, conv_cache=cache.get("conv2"))
    if self.in_channels != self.out_channels:
        inputs = self.conv_shortcut(inputs)
    return hidden.add_(inputs), new


def _upsample(self: Any, inputs: Tensor) -> Tensor:
    """Twice the size by repetition, twice the frames where time is compressed, then a 2D convolution of each frame."""
    frames = inputs[0].transpose(0, 1).contiguous()
    enlarged = self.conv(F.interpolate(frames, scale_factor=2.0)).transpose(0, 1)
    if self.compress_time and len(frames) > 1:
        odd = len(frames) % 2
        twice = enlarged[:, odd:].repeat_interleave(2, dim=1)
        enlarged = torch.cat([enlarged[:, :odd], twice], dim=1)
    return enlarged[None].contiguous()
