"""Memory of the VAE encoder beside its weights: the image or video that a clip starts from.

As in decoding, the encoder works through time in chunks (9, 8, 8, ... frames, or a single one) and keeps the last two input frames
of every causal convolution; while a chunk is encoded the old and the new ones are both there. On top comes the widest residual
block. Where the decoder works on all tiles together, so does the encoder. Where it works in bands, or on one tile after the other,
the encoder works in bands, which are exact and take less than either.
Source: diffusers' autoencoder_kl_cogvideox.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from engine.memory.bands import band_bytes, kept_bytes, maps, norm_slice_bytes
from engine.memory.decoder import KERNEL, OVERLAP, cuts, inside_block
from engine.memory.decoder_walk import Block, Net
from engine.memory.placement import NUMBER_BYTES, Placement
from engine.memory.shapes import Shape
from engine.spec import ModelSpec

CHUNK = 8
"""Frames read at once; an odd one goes with the first."""
PICTURE = 3


def encode_frames_bytes(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str = "cuda:0") -> int:
    """Highest live bytes of encoding the `shape.given` frames of an image or video, weights apart; 0 where none is given."""
    return _encoding(spec, shape, compute, placement, device)[0]


def encode_frames_ram_bytes(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str) -> int:
    """What that keeps in the computer's own memory where it happens on a GPU."""
    return _encoding(spec, shape, compute, placement, device)[1]


def _encoding(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str) -> tuple[int, int]:
    if not shape.given:
        return 0, 0
    number = NUMBER_BYTES[compute]
    net = Net(spec.vae_channels, spec.vae_layers, spec.latent_channels, spec.temporal_scale.bit_length() - 1)
    first = shape.given if shape.given < CHUNK else CHUNK + shape.given % CHUNK
    pixels = PICTURE * first * shape.height * shape.width * number
    if placement.decode in ("banded", "by-tile"):
        working, kept = _banded(net, shape.given, first, shape.height, shape.width, number, device.startswith("cuda"))
        return (working + pixels, kept) if device.startswith("cuda") else (working + kept + pixels, 0)
    tile = (shape.height, shape.width) if placement.exact else placement.tile
    sizes = [(h, w) for h in cuts(shape.height, tile[0], OVERLAP[0]) for w in cuts(shape.width, tile[1], OVERLAP[1])]
    held = [_kept(net, h, w) for h, w in sizes]
    return number * (max(_streamed(net, shape.given, first, h, w) for h, w in sizes) + sum(held) - max(held)) + pixels, 0


@lru_cache(maxsize=1024)
def _banded(net: Net, given: int, first: int, high: int, wide: int, number: int, pinned: bool) -> tuple[int, int]:
    """(highest live bytes without what is kept, bytes kept for the next chunk) of the encoder in bands."""
    working = kept = 0
    for block, _ in _blocks(net, first, high, wide):
        at_once = max(norm_slice_bytes(block, number), band_bytes(block.before, block.after, block, number))
        working = max(working, number * maps(block) + at_once)
        kept += sum(kept_bytes(channels, block, number, pinned=pinned) for channels in (block.before, block.after))
    return working, kept if given > first else 0


def _blocks(net: Net, frames: int, high: int, wide: int) -> Iterator[tuple[Block, int]]:
    """Every residual block in order, and the numbers of its level's input, which is held while the level works."""
    before, area = net.channels[0], high * wide
    for level, width in enumerate(net.channels):
        held = before * area * frames
        for layer in range(net.layers):
            yield Block(before, width, high, area, frames), held if layer else 0
            before = width
        if level + 1 < len(net.channels):
            high, area = high // 2, area // 4
            frames = (frames + 1) // 2 if level < net.time_levels else frames
    for layer in range(2):
        yield Block(before, before, high, area, frames), before * area * frames * layer


@lru_cache(maxsize=1024)
def _kept(net: Net, high: int, wide: int) -> int:
    """Numbers kept between two chunks."""
    ends = PICTURE * high * wide + net.channels[-1] * high * wide // 4 ** (len(net.channels) - 1)
    return (KERNEL - 1) * (ends + sum((block.before + block.after) * block.area for block, _ in _blocks(net, 1, high, wide)))


@lru_cache(maxsize=1024)
def _streamed(net: Net, given: int, first: int, high: int, wide: int) -> int:
    """Highest number count alive while `given` frames of one size are encoded chunk after chunk."""
    highest, old = 0, 0
    for frames in [first, CHUNK] if given > first else [first]:
        kept = (KERNEL - 1) * PICTURE * high * wide
        for block, held in _blocks(net, frames, high, wide):
            highest = max(highest, old + kept + held + inside_block(net, block, lean=True))
            kept += (KERNEL - 1) * (block.before + block.after) * block.area
        old = _kept(net, high, wide)
    return highest
