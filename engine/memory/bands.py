"""The exact banded decoder (`engine.models.band_decode`): how it cuts its work, and the memory it takes. Pure.

The encoder is made of the same layers; `engine.memory.encoder` adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from engine.memory.decoder_walk import Block, Net, blocks, chunks

BAND_BYTES = 128 * 2**20
"""What a convolution reads at once, and what one slice of a norm takes, at most (a single row or group may be larger)."""
BEFORE = 2
"""Frames a causal convolution keeps."""
PICTURE = 3
"""Channels of a frame."""
GROUPS = 32
"""Of the norms of every published checkpoint. A model with fewer is small."""


def band_rows(high: int, row_bytes: int, limit: int) -> int:
    """Rows of each band (the last may have fewer) of a picture of `high` rows: as even as bands of at most `limit` bytes get."""
    most = max(1, limit // max(row_bytes, 1))
    return -(-high // -(-high // most))


def slice_groups(groups: int, group_bytes: int, limit: int) -> int:
    """Groups of channels that are normalised at once."""
    return max(1, min(groups, limit // max(group_bytes, 1)))


@dataclass(frozen=True, slots=True)
class Banded:
    """Bytes of a banded decode."""

    working: int
    """Highest, without what is kept between chunks."""
    kept: int
    """For the next chunk."""
    together: int
    """Highest of both in one memory; less than their sum, as the longer first chunk begins with nothing kept."""


@lru_cache(maxsize=1024)
def banded_bytes(net: Net, frames: int, high: int, wide: int, number: int, limit: int = BAND_BYTES, pinned: bool = False) -> Banded:
    """For `frames` latent frames of `high` x `wide` latents, in numbers of `number` bytes. `pinned`: as for `kept_bytes`."""
    first = chunks(frames)[0]
    later = (frames - first) // 2
    total = _all_kept(net, first, high, wide, number, limit, pinned) if later else 0
    working = together = 0
    # The first chunk begins with nothing kept, the last one lets go of it layer by layer.
    turns = [(first, 0, min(later, 1)), *[(2, total, 0)] * (later > 1), *[(2, total, -1)] * (later > 0)]
    for latent, kept, change in turns:
        for block, enlarged in blocks(net, latent, high, wide):
            own = sum(kept_bytes(channels, block, number, limit, pinned) for channels in (block.before, block.after))
            kept += own * max(change, 0)
            now = max(number * (maps(block) + _modulation(block, latent, high)) + norm_slice_bytes(block, number, limit),
                      number * maps(block) + band_bytes(block.before, block.after, block, number, limit))
            if enlarged:
                size, large = block.after * block.area * block.frames, 4 * block.after * block.area * enlarged
                now = max(now, number * (size + large) + 2 * min(limit, 4 * number * size))  # a band padded, and before or after
            working, together, last = max(working, now), max(together, kept + now), block
            kept += own * min(change, 0)
        now = number * (last.after + PICTURE) * last.area * last.frames + band_bytes(last.after, PICTURE, last, number, limit)
        working, together = max(working, now), max(together, kept + now)
    return Banded(working, total, together)


def maps(block: Block) -> int:
    """Numbers of a block's input and of what is worked on beside it."""
    return (block.before + max(block.before if block.before == block.after else 0, block.after)) * block.area * block.frames


def _modulation(block: Block, latent: int, high: int) -> int:
    """Scale and shift of a norm, repeated along the rows only."""
    return 2 * block.before * latent * high * (block.area // block.high)


def norm_slice_bytes(block: Block, number: int, limit: int = BAND_BYTES) -> int:
    """What a norm works on at once."""
    size = block.before * block.area * block.frames * number
    return max(min(limit, size), size // GROUPS)


def band_bytes(before: int, after: int, block: Block, number: int, limit: int = BAND_BYTES) -> int:
    """What a convolution reads and makes at once."""
    wide = block.area // block.high
    row = before * (block.frames + BEFORE) * wide * number
    rows = band_rows(block.high, row, limit)
    return (rows + 2) * row + rows * after * block.frames * wide * number


def kept_bytes(channels: int, block: Block, number: int, limit: int = BAND_BYTES, pinned: bool = False) -> int:
    """Two frames of what a convolution of the first chunk reads, as bands with a row above and below.

    `pinned`: each band in page-locked memory, which torch hands out in powers of two.
    """
    wide = block.area // block.high
    rows = band_rows(block.high, channels * (block.frames + BEFORE) * wide * number, limit)
    row = BEFORE * channels * wide * number
    bands = [min(rows, block.high - top) + 2 for top in range(0, block.high, rows)]
    return sum(_power_of_two(band * row) if pinned else band * row for band in bands)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _all_kept(net: Net, latent: int, high: int, wide: int, number: int, limit: int, pinned: bool) -> int:
    total = BEFORE * net.latent * (high + 2) * wide * number
    for block, _ in blocks(net, latent, high, wide):
        total += sum(kept_bytes(channels, block, number, limit, pinned) for channels in (block.before, block.after))
        last = block
    return total + kept_bytes(last.after, last, number, limit, pinned)
