"""Which clips look the same, from what was noted of three pictures of each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.records import Looks

ALIKE_BITS, ALIKE_LEVELS = 6, 10
"""Pictures look the same that differ in at most so many of 64 bits, and nowhere by more levels of 255."""
BLOCK = 256
"""So many clips are compared with all before them at once."""
PART = 16
"""So many colours are compared at once: most clips that differ do so in the first of them."""


def first_alike(looks: Sequence[Looks]) -> dict[int, int]:
    """Index -> the first one before it that looks the same: first, middle and last picture in gradients and in colours.

    Every two are compared, 12.5 million pairs of a set of 5,000, and a page asks after each change.
    """
    if not looks:
        return {}
    hashes = [_signs([one.hashes[at] for one in looks]) for at in range(len(looks[0].hashes))]
    colours = np.array([list(bytes.fromhex("".join(one.colours))) for one in looks], np.uint8)
    parts = [colours[:, at:at + PART].copy() for at in range(0, colours.shape[1], PART)]
    found = {}
    for begin in range(0, len(looks), BLOCK):
        end = begin + BLOCK
        near = np.logical_and.reduce([each[begin:end] @ each[:end].T >= 64 - 2 * ALIKE_BITS for each in hashes])
        for index, row in enumerate(near, begin):
            same = np.flatnonzero(row[:index])
            for part in parts:
                if not len(same):
                    break
                same = same[_apart(part[same], part[index]) <= ALIKE_LEVELS]
            if len(same):
                found[index] = int(same[0])
    return found


def _signs(hashes: Sequence[str]) -> np.ndarray:
    """float32 (n, 64), 1 for a bit that is set, else -1: the product of two is 64, less two for each bit in which they differ."""
    numbers = np.array([int(each, 16) for each in hashes], np.uint64)
    return (2.0 * np.unpackbits(numbers.view(np.uint8)).reshape(-1, 64) - 1).astype(np.float32)


def _apart(some: np.ndarray, one: np.ndarray) -> np.ndarray:
    """By how many levels each row of uint8 differs from one at most."""
    return (np.maximum(some, one) - np.minimum(some, one)).max(axis=1)
