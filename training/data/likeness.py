"""Whether two clips look the same, from what was noted of three pictures of each. Pure."""

from __future__ import annotations

from training.data.records import Looks

ALIKE_BITS, ALIKE_LEVELS = 6, 10
"""Pictures look the same that differ in at most so many of 64 bits, and nowhere by more levels of 255."""


def alike(first: Looks, second: Looks) -> bool:
    """Whether two clips look the same: first, middle and last picture in gradients and in colours."""
    same = all(distance(one, other) <= ALIKE_BITS for one, other in zip(first.hashes, second.hashes, strict=True))
    return same and all(_apart(one, other) <= ALIKE_LEVELS for one, other in zip(first.colours, second.colours, strict=True))


def _apart(first: str, second: str) -> int:
    return max(abs(one - other) for one, other in zip(bytes.fromhex(first), bytes.fromhex(second), strict=True))


def distance(first: str, second: str) -> int:
    """Bits in which two hashes differ, 0 to 64."""
    return (int(first, 16) ^ int(second, 16)).bit_count()
