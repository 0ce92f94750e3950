"""One training stage: step, average, log, checkpoint; resumed exactly after a kill at any point.

A stage's randomness is a pure function of its step (`loss_at(step)` draws everything from
`(seed, step)`), so weights, optimizer state, averaged weights and the step number are all
there is to keep. They live in one safetensors file that is replaced atomically.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .optimizer import MuonAdam


@dataclass(frozen=True)
class Schedule:
    """lr over steps: linear warm-up, flat, then linear down to zero over the last `cooldown` share."""

    steps: int
    lr: float
    warmup: int = 50
    cooldown: float = 0.4
    ema: float = 0.998
    begin: int = 0
    """The step training starts at: 0, or later where it goes on from released weights with a new optimizer."""

    def at(self, step: int) -> float:
        left = (self.steps - step) / max(1.0, self.cooldown * (self.steps - self.begin))
        return self.lr * min(1.0, (step - self.begin + 1) / self.warmup, left)


@dataclass(frozen=True)
class Progress:
    """What `train` reports after a step."""

    step: int
    steps: int
    loss: float
    extra: dict[str, float]
    seconds: float


class TrainState:
    """Weights being trained, their running average and the optimizer; owns one checkpoint file."""

    def __init__(self, model: nn.Module, path: Path, adam_only: tuple[str, ...] = ()):
        self.model, self.path, self.step = model, path, 0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = MuonAdam(self.named, adam_only)
        self.average = {name: p.detach().clone() for name, p in self.named.items()}
        if path.exists():
            self._load()

    def update_average(self, decay: float) -> None:
        # A young average forgets faster, so that it is never dominated by the random start.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.named.items():
                self.average[name].lerp_(p, 1 - decay)

    def save(self) -> None:
        tensors = {f"model/{k}": p.detach() for k, p in self.named.items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        tensors |= {f"optimizer/{k}": v for k, v in self.optimizer.state.items()}
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        part = self.path.with_suffix(".part")
        save_file(tensors, part, metadata={"step": str(self.step), "count": str(self.optimizer.count)})
        part.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file, torch.no_grad():
            self.step = int(file.metadata()["step"])
            self.optimizer.count = int(file.metadata()["count"])
            for name, p in self.named.items():
                p.copy_(file.get_tensor(f"model/{name}"))
                self.average[name].copy_(file.get_tensor(f"average/{name}"))
            for name, value in self.optimizer.state.items():
                value.copy_(file.get_tensor(f"optimizer/{name}"))

    def use_average(self) -> None:
        """Put the averaged weights into the model: the end of training."""
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(self.average[name])


def load_average(model: nn.Module, path: Path) -> int:
    """Fill what is trained of a model with the averaged weights of a checkpoint; returns its step."""
    with safe_open(path, "pt") as file, torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(file.get_tensor(f"average/{name}"))
        return int(file.metadata()["step"])


def train(
    state: TrainState,
    schedule: Schedule,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    save_every: float = 90.0,
    until: int | None = None,
) -> Iterator[Progress]:
    """Run the stage to its end (or to step `until`), yielding after every step.

    Raises FloatingPointError when the loss stops being a number, before the weights are touched.
    """
    last_save = time.monotonic()
    end = schedule.steps if until is None else min(until, schedule.steps)
    while state.step < end:
        begun = time.monotonic()
        loss, extra = loss_at(state.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {state.step}; the checkpoint before it is intact")
        loss.backward()
        nn.utils.clip_grad_norm_(state.named.values(), 1.0)
        state.optimizer.step(schedule.at(state.step))
        state.step += 1
        state.update_average(schedule.ema)
        if time.monotonic() - last_save > save_every or state.step == end:
            state.save()
            last_save = time.monotonic()
        yield Progress(state.step, schedule.steps, value, extra, time.monotonic() - begun)


class Curve:
    """Appends progress to a JSON-lines file and prints a line now and then."""

    def __init__(self, path: Path, every: int):
        self.path, self.every = path, every
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, progress: Progress) -> None:
        values = {"loss": progress.loss, "seconds": progress.seconds, **progress.extra}
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1
        if progress.step % self.every and progress.step != progress.steps:
            return
        means = {key: round(value / self.count, 5) for key, value in self.sums.items()}
        self.sums, self.count = {}, 0
        line = {"step": progress.step, **means}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{self.path.stem} {progress.step}/{progress.steps} {means}", flush=True)
