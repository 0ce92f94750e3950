"""Memory of the VAE decoder beside its weights: a walk through CogVideoXDecoder3D that adds up what is alive.

The decoder works through time in chunks (3, 2, 2, ... latent frames) and keeps the last two input frames of every causal
convolution for the next chunk: at 480 x 720 these caches are 2.6 GiB in bf16, and while a chunk is decoded the old and the
new ones are both there. On top comes the widest residual block at full size. `lean` decoders are those changed by
`engine.models.vae_decode.speed_up`: sums and activations in place, no full-size copies of the latents. The banded decoder has a
page of its own, `engine.memory.bands`; tiles are decoded with it one after the other.
Source: diffusers' autoencoder_kl_cogvideox.py and upsampling.py.
"""

from __future__ import annotations

from functools import lru_cache

from engine.memory.bands import Banded, banded_bytes
from engine.memory.decoder_walk import Block, Net, blocks, chunks
from engine.memory.placement import NUMBER_BYTES, Placement
from engine.memory.shapes import Shape, latent_frames
from engine.spec import ModelSpec

OVERLAP = (1 / 6, 1 / 5)
"""Shares of a tile's height and width that overlap the next; diffusers' own."""
KERNEL = 3
SPLIT_BYTES = 2 * 2**30
"""Inputs above this are convolved in parts (CogVideoXSafeConv3d counts 2 bytes a number, whatever the precision)."""


def decode_bytes(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str = "cuda:0") -> int:
    """Highest live bytes of decoding the clip on `device`, weights apart."""
    return _decoding(spec, shape, compute, placement, device)[0]


def decode_ram_bytes(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str) -> int:
    """What decoding on a GPU keeps in the computer's own memory: frames of convolutions between chunks, and finished tiles."""
    return _decoding(spec, shape, compute, placement, device)[1]


def _decoding(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str) -> tuple[int, int]:
    """Bytes on the device, and in the computer's own memory where that is another."""
    lean, how = placement.decoder == "lean", placement.decode
    net = Net(spec.vae_channels[::-1], spec.vae_layers, spec.latent_channels, spec.temporal_scale.bit_length() - 1)
    unit, number = spec.spatial_scale, NUMBER_BYTES[compute]
    sampled, padding = latent_frames(spec, shape.frames)
    frames, high, wide = sampled - padding, shape.height // unit, shape.width // unit
    latents = 3 * number * frames * spec.latent_channels * high * wide
    pinned = device.startswith("cuda")
    if how == "whole":
        return number * _streamed(net, frames, high, wide, lean) + latents, 0
    if how == "banded":
        return _apart(banded_bytes(net, frames, high, wide, number, pinned=pinned), 0, latents, device)
    tile = (placement.tile[0] // unit, placement.tile[1] // unit)
    sizes = [(h, w) for h in cuts(high, tile[0], OVERLAP[0]) for w in cuts(wide, tile[1], OVERLAP[1])]
    pixels = 3 * sum(h * w for h, w in sizes) * unit**2
    if how == "by-tile":
        largest = max((banded_bytes(net, frames, h, w, number, pinned=pinned) for h, w in set(sizes)), key=lambda banded: banded.together)
        return _apart(largest, number * shape.frames * pixels, latents, device)
    widest = max(_streamed(net, frames, h, w, lean) for h, w in sizes)
    chunk = chunks(frames)[-1]
    caches = [_cache(net, chunk, h, w, lean) for h, w in sizes]
    return number * (widest + sum(caches) - max(caches) + 2 * 9 * pixels) + latents, 0


def _apart(banded: Banded, finished: int, latents: int, device: str) -> tuple[int, int]:
    """Beside a GPU rests what is kept between chunks, and what is `finished`."""
    if device.startswith("cuda"):
        return banded.working + latents, banded.kept + finished
    return banded.together + finished + latents, 0


def tile_area(spec: ModelSpec, shape: Shape, tile: tuple[int, int]) -> float:
    """Pixels decoded in tiles of `tile` pixels over the clip's own: 1.0 and more, for the overlaps."""
    unit = spec.spatial_scale
    sides = [sum(cuts(side // unit, cut // unit, share)) * unit / side
             for side, cut, share in zip((shape.height, shape.width), tile, OVERLAP, strict=True)]
    return sides[0] * sides[1]


def cuts(side: int, tile: int, share: float) -> list[int]:
    """Lengths of the tiles along one side, in latents (or pixels)."""
    return [min(tile, side - begin) for begin in range(0, side, int(tile * (1 - share)))] if side > tile else [side]


def _kept(net: Net, block: Block, lean: bool) -> int:
    """Numbers one block keeps for the next chunk; diffusers' norms also keep the enlarged latents, unused, twice each."""
    norms = 0 if lean else 4 * net.latent * block.frames
    return ((KERNEL - 1) * (block.before + block.after) + norms) * block.area


@lru_cache(maxsize=1024)
def _cache(net: Net, latent: int, high: int, wide: int, lean: bool) -> int:
    """Numbers kept between two chunks."""
    all_blocks = [block for block, _ in blocks(net, latent, high, wide)]
    last = all_blocks[-1]
    ends = (KERNEL - 1) * (net.latent * high * wide + last.after * last.area)
    norm_out = 0 if lean else 2 * net.latent * last.frames * last.area
    return sum(_kept(net, block, lean) for block in all_blocks) + ends + norm_out


@lru_cache(maxsize=1024)
def _streamed(net: Net, frames: int, high: int, wide: int, lean: bool) -> int:
    """Highest number count alive while `frames` latent frames of one size are decoded chunk after chunk."""
    highest, old = 0, 0
    for latent in chunks(frames):
        kept, pixels = 0, 0
        for block, enlarged in blocks(net, latent, high, wide):
            highest = max(highest, old + kept + inside_block(net, block, lean))
            kept += _kept(net, block, lean)
            if enlarged:
                highest = max(highest, old + kept + _enlarging(block, enlarged, lean))
            pixels = 3 * block.frames * block.area
        size = block.after * block.area * block.frames
        highest = max(highest, old + kept + (4 if lean else 6) * size)
        old = _cache(net, latent, high, wide, lean) + pixels
    return highest


def inside_block(net: Net, block: Block, lean: bool) -> int:
    """Numbers alive at the worst moment of a residual block, with its input."""
    into, out = block.before * block.area * block.frames, block.after * block.area * block.frames
    norm = 0 if lean else max(into + 5 * into, into + 6 * out) + 2 * net.latent * block.area * block.frames
    first = 2 * into + _convolving(block.before, block.after, block)
    second = into + out + (KERNEL - 1) * block.before * block.area + _convolving(block.after, block.after, block)
    ending = into + (2 if lean else 3) * out + (KERNEL - 1) * (block.before + block.after) * block.area
    return max(norm, first, second, ending)


def _convolving(before: int, after: int, block: Block) -> int:
    """Input with the kept frames before it, those frames for the next chunk, and the output; parts twice if it is split."""
    frames = block.frames + KERNEL - 1
    joined, out = before * frames * block.area, after * block.frames * block.area
    total = joined + (KERNEL - 1) * before * block.area + out
    if 2 * joined <= SPLIT_BYTES:
        return total
    parts = 2 * joined // SPLIT_BYTES + 1
    length = -(-frames // parts)
    copies = frames - length + (KERNEL - 1) * (-(-frames // length) - 1)
    return total + copies * before * block.area + out


def _enlarging(block: Block, frames: int, lean: bool) -> int:
    """Numbers alive at the worst moment of doubling the size, and where time is compressed the number of frames."""
    size, large = block.after * block.area * block.frames, 4 * block.after * block.area * frames
    if lean:  # first the doubled size at the old frames, convolved; then each frame twice, and all joined
        return 2 * size + max(8 * size, 4 * size + 2 * large if frames > block.frames else 8 * size)
    return size + 2 * large
