"""One training run from its folder: prepare, step, save, look, show, export; and on from the newest sound checkpoint.

A step is a function of (settings, data, base, weights, step number): everything random is drawn from the run's streams at the number of
the visit. So a run that was killed anywhere ends with the bytes of one that never was (same machine and precision, deterministic
kernels), and several processes see the data and noise that one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.models.cogvideox import CogVideoX
from engine.parallel.backward import GradientMesh
from engine.spec import ModelSpec
from training.lora import checkpoint, evaluate
from training.lora.adapter import Adapter
from training.lora.base import Velocity, first_frames
from training.lora.config import TrainConfig
from training.lora.full import FullWeights
from training.lora.memory import use_policy
from training.lora.objective import Batch, Batches, Noise, squared_error
from training.lora.optimizers import make_optimizer, restore, set_rate, state_of
from training.lora.order import Order, first_visit, share
from training.lora.processes import check_division
from training.lora.rundir import RunDir
from training.lora.samples import Sample, SampleSet
from training.lora.schedules import factor
from training.lora.sequence import Sequence
from training.lora.sharding import whole
from training.lora.stage_two import StageTwoWeights, Windows
from training.lora.streams import seed_of
from training.lora.trained import Trained

FP16_SCALE = 2.0**10
"""The loss is so much larger while fp16 carries it back: a power of two, so nothing is rounded."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run. `add` sums a tensor over all of them, in place."""

    rank: int = 0
    size: int = 1
    add: Callable[[torch.Tensor], None] = lambda tensor: None
    mesh: GradientMesh | None = None
    """Of the team that divides the tokens of its clips; None where each process has whole clips."""

    @property
    def parts(self) -> int:
        """Processes of a team."""
        return 1 if self.mesh is None else self.mesh.degrees.ranks

    @property
    def teams(self) -> int:
        return self.size // self.parts

    @property
    def team(self) -> int:
        """Number of this process's team."""
        return self.rank // self.parts

    @property
    def speaks(self) -> bool:
        """True for the one process of each team whose loss counts: the others have the same."""
        return self.rank % self.parts == 0


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one update did."""

    loss: float
    norm: float
    rate: float
    skipped: bool
    times: tuple[int, ...]
    clips: tuple[str, ...]


class Trainer:
    """Owns the model, the LoRA and the optimizer of one run."""

    def __init__(self, model: CogVideoX, config: TrainConfig, samples: SampleSet, run: RunDir, machine: Hardware, *,
                 policy: tuple[str, ...] = (), world: World | None = None) -> None:
        self.model, self.config, self.samples, self.run, self.machine = model, config, samples, run, machine
        self.world = world or World()
        if not samples.train:
            raise InvalidRequest("dataset", "has no clip to train on: all are held out or left out.")
        self.spec: ModelSpec = model.spec
        check_division(config, self.spec, self.world.size)
        self.adapter = trained_by(model.transformer, config, self.spec)
        self.sharded = config.sharding == "fsdp" and self.world.size > 1
        """Every pass through the model takes all processes."""
        if self.sharded:
            self.adapter.share_out(model.device)
        mesh = self.world.mesh
        self.sequence = None if mesh is None else Sequence(model.transformer, self.spec, mesh)
        use_policy(model.transformer, policy or ("keep",) * self.spec.layers)
        self.optimizer = make_optimizer(config, self.adapter.parameters.values())
        self.velocity = Velocity(model)
        self.noise = Noise(self.spec.path)
        kind = Windows if config.method == "stage-two" else Batches
        self.batches = kind(self.spec, config, self.noise, samples.empty_text(), model.device, first_frames(model))
        self.order = Order(tuple(sample.bucket for sample in samples.train), config.batch, config.seed)
        self.dropouts = [module for name, module in model.transformer.named_modules()
                         if "lora_dropout" in name and isinstance(module, torch.nn.Dropout)]
        self.exact = model.device.type == "cuda"
        """Passes allow exact kernels alone; until an operation has none."""
        self.step = self.bad_steps = 0
        self.seconds = 0.0

    # ---- states

    def resume(self) -> tuple[str, ...]:
        """On from the newest sound checkpoint; what was wrong with newer ones."""
        state, wrong = checkpoint.newest_state(self.run.checkpoints)
        if state is not None:
            self.adapter.load(state.adapter, state.average)
            restore(self.optimizer, state.optimizer, state.rest)
            self.step, self.bad_steps, self.seconds = state.step, state.bad_steps, state.seconds
        return wrong

    def save(self) -> None:
        """By the first process; the others only help to gather what is shared out. Raises `StorageBlocked`."""
        if self.world.rank and not self.adapter.shared_out:
            return
        tensors, rest = state_of(self.optimizer)
        average = None if self.adapter.average is None else self.adapter.final()
        state = checkpoint.State(self.step, self.adapter.tensors(), average, tensors, rest, self.bad_steps, self.seconds)
        if not self.world.rank:
            checkpoint.save_state(self.run.checkpoints, state, self.config.keep)

    # ---- one update

    def update(self) -> Stepped:
        """Step number `self.step`, then one more. Weights stay as they are where loss or gradient is not finite."""
        begun, config = time.monotonic(), self.config
        passes = range(self.step * config.accumulate, (self.step + 1) * config.accumulate)
        chosen = {at: [self.samples.train[index] for index in self.order.at(at)] for at in passes}
        total = sum(map(len, chosen.values()))
        rate = config.learning_rate * factor(config.schedule, self.step, warmup=config.warmup, steps=config.steps, cycles=config.cycles,
                                             power=config.power, rate=config.learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        mine = {at: chosen[at] for at in share(passes, self.world.team, self.world.teams)}
        try:
            loss, times = self._passes(mine, total)
        except RuntimeError as error:
            if not self.exact or "deterministic" not in str(error).lower():
                raise
            self.exact = False
            self.optimizer.zero_grad(set_to_none=True)
            if not self.world.rank:
                text = (f"step {self.step}: this GPU has no exact kernel for a part of the model. A run that is stopped and goes on "
                        f"may differ in last bits from one that never was ({str(error)[:120]}).")
                self.run.tell("warning", step=self.step, text=text)
            loss, times = self._passes(mine, total)
        norm = self._gather(loss)
        skipped = not math.isfinite(float(loss)) or not math.isfinite(norm)
        if not skipped:
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            self.adapter.update_average(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_steps = self.bad_steps + 1 if skipped else 0
        self.step += 1
        self.seconds += time.monotonic() - begun
        return Stepped(float(loss), norm, rate, skipped, tuple(times), tuple(sample.key[:12] for one in chosen.values() for sample in one))

    def _passes(self, chosen: dict[int, list[Sample]], total: int) -> tuple[torch.Tensor, list[int]]:
        """All passes of an update that this process makes: (its part of the loss, fp64; the times it saw)."""
        loss, times = torch.zeros((), dtype=torch.float64), []
        for at, samples in chosen.items():
            value, seen = self.backward(samples, at, total)
            loss += value
            times += seen
        return loss, times

    def backward(self, samples: list[Sample], position: int, total: int) -> tuple[float, list[int]]:
        """One pass: (its part of the loss, the times it saw); its gradients are added to the LoRA's."""
        config = self.config
        batch = self.batches.visit(samples, first_visit(position, config.batch))
        weights = self.noise.snr_weight(batch.times, config.min_snr) if config.min_snr else None
        scale = FP16_SCALE if self.model.dtype == torch.float16 else 1.0
        self.adapter.about_to_see(batch)
        with exact_gradients(self.exact), self._dropping(position), self._sharing(batch):
            velocity = self.velocity(batch.noisy, batch.times, batch.text, batch.beside)
            loss = squared_error(velocity, batch, weights).sum() / total
            (loss * scale).backward()
        return float(loss.detach()), batch.times.tolist()

    def _sharing(self, batch: Batch) -> Any:
        """Where a team divides the tokens of its clips: there and back."""
        return nullcontext() if self.sequence is None else self.sequence.sharing(tuple(batch.noisy.shape), batch.text.shape[1])

    def _dropping(self, position: int) -> Any:
        """LoRA dropout draws from torch's own generators: they are set by position for the pass, and are as before after it."""
        if not self.dropouts:
            return nullcontext()
        return _Dropping(self.dropouts, seed_of(self.config.seed, "dropout", position), self.model.device)

    def _gather(self, loss: torch.Tensor) -> float:
        """Sums loss and gradients over all processes, takes the fp16 factor out, clips; the norm before clipping."""
        gradients = []
        for parameter in self.adapter.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self.world.size > 1:
            self.world.add(loss if self.world.speaks else loss.zero_())
            for gradient in gradients:
                if self.adapter.shared_out:
                    gradient.mul_(self.world.size)  # FSDP summed them already, and took the mean
                else:
                    self.world.add(gradient)
        if self.model.dtype == torch.float16:
            for gradient in gradients:
                gradient.div_(FP16_SCALE)
        most = self.config.max_grad_norm or math.inf
        return float(whole(torch.nn.utils.clip_grad_norm_(self.adapter.parameters.values(), most)))

    # ---- looking

    @property
    def looks(self) -> bool:
        """Whether a look takes this process: the first alone, its team, or all where each has a share of the weights."""
        return self.world.team == 0 or self.sharded

    def look(self) -> evaluate.Look:
        """The held-out loss now, of what would be exported."""
        def predict(batch: Batch) -> torch.Tensor:
            self.adapter.about_to_see(batch)
            with self._sharing(batch):
                return self.velocity(batch.noisy, batch.times, batch.text, batch.beside)

        with self.adapter.showing():
            return evaluate.look(self.batches, predict, self.samples.held_out, self.samples.train, self.config.eval_clips)


def trained_by(transformer: Any, config: TrainConfig, spec: ModelSpec) -> Trained:
    """The weights that `config.method` trains."""
    if config.method == "full":
        return FullWeights(transformer, config, spec.path)
    return StageTwoWeights(transformer, config, spec) if config.method == "stage-two" else Adapter(transformer, config)


class _Dropping:
    """Dropout on, from a seed; off and the generators as they were afterwards."""

    def __init__(self, modules: list[torch.nn.Dropout], seed: int, device: torch.device) -> None:
        self._modules, self._seed = modules, seed
        self._fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)
        for module in self._modules:
            module.train()

    def __exit__(self, *error: Any) -> None:
        for module in self._modules:
            module.eval()
        self._fork.__exit__(*error)


def deterministic(threads: int) -> None:
    """Kernels that give the same bits again, and as many threads as the run began with: sums depend on both."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


@contextmanager
def exact_gradients(wanted: bool) -> Iterator[None]:
    """A pass there and back by kernels that give the same bits again. Raises RuntimeError where an operation has none.

    On a GPU torch's attention only does so where nothing less is allowed: with `warn_only` the gradients of its flash and efficient
    kernels are summed in any order, and cuDNN's kernel, which is never exact, may be chosen. Elsewhere in a run (previews, pictures)
    there may be operations without such a kernel. Never run on a GPU so far.
    """
    if not wanted:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


