"""A tiny base, a set of random latents, and a trainer over both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny
from training.lora.base import load_base
from training.lora.config import TrainConfig
from training.lora.loop import Trainer, World
from training.lora.rundir import RunDir
from training.lora.samples import HeldSample, HeldSet

SETTINGS: dict[str, Any] = {"dataset": "made", "name": "made", "rank": 4, "steps": 6, "warmup": 2, "learning_rate": 1e-2,
                            "precision": "fp32",
                            "threads": 1, "batch": 2, "accumulate": 2, "device": "cpu"}


@contextmanager
def kept_for_the_gradient(own: set[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What autograd keeps of the work inside, by address; `own`: addresses that do not count."""
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def config(folder: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"model": str(folder)} | changes))


def random_set(count: int = 5, held_out: int = 2, *, channels: int = 4, frames: int = 3, seed: int = 0) -> HeldSet:
    """Latents of 8 x 12, in two buckets."""
    draw = torch.Generator().manual_seed(seed)
    entries = []
    for number in range(count + held_out):
        long = frames + (1 if number % 3 == 2 else 0)
        mean, std = (torch.randn(channels, long, 8, 12, generator=draw) for _ in range(2))
        first = tuple(torch.randn(channels, 1, 8, 12, generator=draw) for _ in range(2))
        split = "held-out" if number >= count else "train"
        entries.append(HeldSample(f"{seed:032x}{number:032x}", split, (4 * long - 3, 64, 96), f"clip {number}", (mean, std.abs()),
                                  (first[0], first[1].abs()), torch.randn(16, 32, generator=draw),
                                  torch.randint(0, 256, (64, 96, 3), generator=draw, dtype=torch.uint8)))
    return HeldSet(tuple(entries), torch.randn(16, 32, generator=draw))


def trainer(base: Path, run: Path, *, samples: HeldSet | None = None, policy: tuple[str, ...] = (), world: World | None = None,
            stored: str = "same", streamed: str = "", **changes: Any) -> Trainer:
    wanted = config(base, base=stored, **changes)
    model = load_base(read_spec(base), wanted, CPU, streamed)
    return Trainer(model, wanted, samples or random_set(), RunDir(run), CPU, policy=policy, world=world)


def base_of(folder: Path, kind: str = "rope") -> Path:
    return save_tiny(folder / kind, kind)
