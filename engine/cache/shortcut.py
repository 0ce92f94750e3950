"""One run's caches: predicts a step in full, in part, or from the steps before. See `engine.cache` for what there is.

The caches that pass over whole steps (magcache, taylorseer, first-block) keep the predicted clean latents of both halves of guidance,

    x_0 = a x_t - s v,      a = sqrt(alpha_t), s = sqrt(1 - alpha_t)       (v-prediction, https://arxiv.org/abs/2202.00512)

and give a skipped step the velocity that leads there from its own x_t. Their papers keep what the blocks added to the hidden
states; but CogVideoX's solver draws fresh noise at every step, which the hidden states follow and the clean latents do not: on the
pocket model, 2.5 times less work gave 24 dB with the former and 33 dB with the latter. It also makes a skipped step free: no block
is run, no weight is moved.

A run that goes on from a checkpoint is the same as one that was never stopped: the checkpoint holds the latents of the last full steps
(`anchors`), and these steps are predicted again first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from engine.cache.acts import BroadcastAct, FirstBlockAct, RhythmAct
from engine.cache.broadcast import Broadcast
from engine.cache.clean import CleanLatents
from engine.cache.first_block import FirstBlock
from engine.cache.gate import first_gated
from engine.cache.magnitude import Magnitude
from engine.cache.measured import skipped_share
from engine.cache.taylor import Taylor
from engine.models.family import Stepper, VideoModel

WITHOUT, GIVEN = 0, 1
"""Rows of guidance: without the words, with them."""


POLICIES: dict[str, Any] = {"first-block": FirstBlock(), "pab": Broadcast(), "magcache": Magnitude(), "taylorseer": Taylor()}


class Shortcut:
    """The caches and the gate of one run. Made when sampling starts, dropped with it: nothing of it is anywhere else."""

    def __init__(self, model: VideoModel, stepper: Stepper, text: Tensor, weights: Sequence[float], *, cache: str = "off",
                 gate: float = 1.0, beside: Tensor | None = None, changes: Sequence[float] | None = None,
                 policy: Any = None, added: Callable[[Tensor], Tensor] | None = None) -> None:
        """`text`, `weights`, `beside`: as `engine.sample.sample` takes them. `cache`, `gate`: as in the plan.

        `changes`: MagCache's, one for each step that is run; None: every step is run in full, and they are measured (`changes`).
        `policy`: other settings of the cache than its own (`POLICIES`). `added`: the sum of a tensor over ranks that have parts of the
        tokens or rows each, so that all decide alike; None for one rank.
        """
        self.model, self.stepper, self.text, self.weights, self.beside = model, stepper, text, weights, beside
        times = stepper.timesteps.tolist()
        self.steps = len(times)
        self.gate = first_gated(gate, self.steps) if len(text) == 2 else self.steps
        self.cache, policy = cache, policy or POLICIES.get(cache)
        self.act = _act(cache, policy, times, changes, added)
        # Under fresh noise the clean latents walk at random, and differences foretell nothing.
        self.kept = CleanLatents(0 if stepper.fresh_noise else getattr(policy, "order", 0))
        self.depth = 1 + self.kept.order if self.act else 0
        self.calibrating = cache == "magcache" and changes is None
        self._changes: dict[int, float] = {}
        self.full_steps = 0
        self._anchors: dict[int, Tensor] = {}
        self._difference: Tensor | None = None

    @property
    def anchors(self) -> tuple[tuple[int, Tensor], ...]:
        """(step, latents before it) of the full steps that the next ones are predicted from."""
        return tuple(sorted(self._anchors.items()))

    @property
    def changes(self) -> tuple[float, ...] | None:
        """Of a calibrating run that saw every step: MagCache's magnitudes."""
        if not self.calibrating or len(self._changes) < self.steps:
            return None
        return tuple(self._changes[step] for step in range(self.steps))

    @property
    def costs(self) -> tuple[list[float], list[float]]:
        """For each step: (its expected cost, that of all of it), in steps with both halves of guidance."""
        whole = [1.0 if index < self.gate else 0.5 for index in range(self.steps)]
        if isinstance(self.act, FirstBlockAct):
            full = [self.act.policy.decide(index, self.steps, 1, 0.0) for index in range(self.steps)]
        else:
            full = [True] * self.steps if self.act is None else list(self.act.schedule)
        share = skipped_share(self.cache)
        return [cost if runs else cost * share for cost, runs in zip(whole, full, strict=True)], whole

    def replay(self, anchors: Sequence[tuple[int, Tensor]]) -> None:
        """Come to the state after these full steps, in order."""
        for index, latents in anchors:
            self._rows(index, latents, forced=True)

    def velocity(self, index: int, latents: Tensor) -> Tensor:
        """float32 of the shape of `latents`: with guidance, if there is any."""
        rows = self._rows(index, latents, forced=False)
        if len(self.text) == 1:
            return rows
        weight = self.weights[index]
        if len(rows) == 2:
            without, given = rows.chunk(2)
            return without + weight * (given - without)
        assert self._difference is not None  # the gate is after the first step, which is run in full
        return rows + (weight - 1) * self._difference

    def _rows(self, index: int, latents: Tensor, *, forced: bool) -> Tensor:
        """The prediction for each row of guidance that this step has."""
        text = self.text if index < self.gate else self.text[-1:]
        time = self.stepper.timesteps[index]
        if self.act is None:
            rows, full = self.model.predict(latents, time, text, self.beside), True
        else:
            rows, full = self._cached(index, latents, text, forced)
        if full:
            self.full_steps += not forced
            if len(rows) == 2:
                self._difference = rows[1:] - rows[:1]
            self._remember(index, latents)
        return rows

    def _cached(self, index: int, latents: Tensor, text: Tensor, forced: bool) -> tuple[Tensor, bool]:
        """(prediction, whether the step was run in full)."""
        act, time = self.act, self.stepper.timesteps[index]
        last = max(self._anchors, default=None)
        forced, since = forced or last is None, 1 if last is None else index - last
        rows = [WITHOUT, GIVEN][-len(text):]
        with act.step(self.model.transformer, index, since, rows, forced):
            if act.full or not isinstance(act, RhythmAct):
                made = self.model.predict(latents, time, text, self.beside)
        if isinstance(act, BroadcastAct):
            return made, act.full
        signal, noise = self.stepper.signal(index)
        if act.full:
            clean = signal * latents.float() - noise * made
            if self.calibrating:
                self._changes[index] = self.kept.distance(clean)
            self.kept.learn(clean, since)
            return made, True
        return (signal * latents.float() - self.kept.guess(since, len(text))) / noise, False

    def _remember(self, index: int, latents: Tensor) -> None:
        """Keep what `replay` needs: the last full steps, and the last one that saw both halves."""
        self._anchors[index] = latents
        kept = sorted(self._anchors)[-self.depth:] if self.depth else []
        if self.gate < self.steps:
            kept.append(max(step for step in self._anchors if step < self.gate))
        self._anchors = {step: self._anchors[step] for step in sorted(set(kept))}


def _act(cache: str, policy: Any, times: Sequence[int], changes: Sequence[float] | None,
         added: Callable[[Tensor], Tensor] | None) -> Any:
    """What acts for `cache`; None for 'off'."""
    if cache == "first-block":
        return FirstBlockAct(policy, len(times), added)
    if cache == "pab":
        return BroadcastAct(policy.schedule(times))
    if cache == "magcache":
        return RhythmAct((True,) * len(times) if changes is None else policy.schedule(changes))
    if cache == "taylorseer":
        return RhythmAct(policy.schedule(len(times)))
    return None
