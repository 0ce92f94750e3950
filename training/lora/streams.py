"""Randomness as a pure function of (seed, stream, position), so that nothing has to be saved to go on exactly, and any number of GPUs
sees the same noise."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STREAMS = ("order", "time", "strata", "posterior", "noise", "caption", "image", "image-posterior", "image-noise", "image-pixels",
           "stride", "start", "known", "dropout", "init", "held-out")


def seed_of(seed: int, stream: str, *position: int) -> int:
    """63 bits by BLAKE2b; `stream` is one of `STREAMS`."""
    if stream not in STREAMS:
        raise ValueError(f"{stream!r} is no stream of randomness")
    text = f"{seed}|{stream}|{'|'.join(map(str, position))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def uniform(seed: int, stream: str, *position: int) -> float:
    """In [0, 1), 53 bits."""
    return (seed_of(seed, stream, *position) >> 10) / 2**53


@lru_cache(maxsize=64)
def shuffled(count: int, seed: int, stream: str, *position: int) -> tuple[int, ...]:
    """0..count-1 in an order of its own."""
    return tuple(map(int, np.random.Generator(np.random.PCG64(seed_of(seed, stream, *position))).permutation(count)))


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """On the processor, whatever the device: the same numbers everywhere."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_of(seed, stream, *position))


def normal(shape: tuple[int, ...], seed: int, stream: str, *position: int) -> torch.Tensor:
    """float32 noise."""
    import torch

    return torch.randn(shape, generator=generator(seed, stream, *position), dtype=torch.float32)
