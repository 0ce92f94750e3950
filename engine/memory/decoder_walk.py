"""The VAE decoder as a list of residual blocks with their sizes, for those who add up its memory.

Source: diffusers' autoencoder_kl_cogvideox.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Net:
    """What of the decoder the walk needs."""

    channels: tuple[int, ...]
    """By level, the smallest picture first."""
    layers: int
    latent: int
    """Channels of the latents."""
    time_levels: int


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block at one level."""

    before: int
    after: int
    """Channels in and out."""
    high: int
    area: int
    """Height times width."""
    frames: int


def chunks(frames: int) -> list[int]:
    """Latent frames of the first chunk, and of the later ones if there are any."""
    first = min(frames, 2 + frames % 2 if frames > 1 else 1)
    return [first] if frames == first else [first, 2]


def blocks(net: Net, latent: int, high: int, wide: int) -> Iterator[tuple[Block, int]]:
    """Every residual block in order, and the frames it is enlarged to after it, 0 where it is not."""
    channels, time_levels = net.channels, net.time_levels
    frames, area, rows = latent, high * wide, high
    for _ in range(2):
        yield Block(channels[0], channels[0], rows, area, frames), 0
    before = channels[0]
    for level, width in enumerate(channels):
        later = frames if level >= time_levels else 2 * frames - frames % 2 if frames > 1 else 1
        for layer in range(net.layers + 1):
            last = layer == net.layers and level + 1 < len(channels)
            yield Block(before, width, rows, area, frames), later if last else 0
            before = width
        area, frames, rows = 4 * area, later, 2 * rows
