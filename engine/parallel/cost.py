"""What dividing a clip costs and gains: arithmetic, bytes on the wire, and the seconds they foretell. Pure; a prediction.

With n tokens, width d, L layers, B rows of the batch in each half's devices, X = B n d numbers, U ulysses, R ring:

    linear layers      24 B n d^2 L / (U R)                   by the rank with most tokens
    attention           4 B n^2 d L / (U R)                   by the rank with most heads
    ulysses            4 X (U - 1) / (U^2 R)  a layer         nothing is computed meanwhile
    ring               2 X (R - 1) / (U R)    a layer         behind a quarter of the attention before the last station (`HIDDEN`)
    guidance           the latents, once a step

Formulas of traffic: USP, https://arxiv.org/abs/2405.07719, table 2. `bench/parallel_prediction.py` prints these beside what xDiT measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.memory.shapes import Shape, latent_frames, tokens
from engine.parallel.degrees import Degrees, every_degrees, share_of
from engine.spec import ModelSpec

CALLS_ULYSSES = 2
"""All-to-alls of a layer."""
LEAST_WORK = 2e12
"""Multiplications and additions of a decode from which on rows are dealt out. Less is done in seconds by one rank, to the very bit of what
a clip on one device has; over several ranks a norm's sums are added in another order, which in bf16 may move a pixel by a step or two."""
HIDDEN = 0.25
"""Share of the attention that could hide a ring's traffic which does: in xDiT's tables a ring of 2 is no faster than ulysses."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of several equal devices, and the way between two of them."""

    flops: float
    """Multiplications and additions a second, as the model reaches them."""
    link: float
    """Bytes a second that a device sends while it receives as many."""
    latency: float = 30e-6
    """Seconds of any exchange, however small."""
    shared: bool = False
    """All of them are one processor, whose cores a process that is alone has to itself: its ranks get each their part of `flops`."""


GPU = Machine(3.3e14, 1.5e11)
"""An H100 with NVLink, where nothing is measured."""
PCIE = 2e10
"""Bytes a second between two GPUs on a 4th-generation bus."""
PROCESSOR = Machine(5e10, 6e8, 2e-4, shared=True)
"""Processes on one computer, over gloo."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one denoising step, on the slowest rank."""

    compute: float
    exchange: float
    """Of what is sent, the time nothing else is done."""
    sent_bytes: float
    """By one rank."""

    @property
    def seconds(self) -> float:
        return self.compute + self.exchange


def step_cost(spec: ModelSpec, shape: Shape, degrees: Degrees, machine: Machine, number_bytes: int = 2) -> StepCost:
    """Of a clip of `shape` divided by `degrees` over devices like `machine`, in numbers of `number_bytes` bytes."""
    n, d, text = tokens(spec, shape), spec.width, spec.max_text_tokens
    rows = (2 if shape.guided else 1) / degrees.cfg
    share = share_of(degrees, text, n - text, spec.heads)
    linear = 24.0 * rows * max(share.tokens) * d * d * spec.layers
    attention = 4.0 * rows * max(share.stations()) * n * d * max(share.heads) / spec.heads * spec.layers
    flops = machine.flops / (degrees.ranks if machine.shared else 1)
    compute = (linear + attention) / flops
    ulysses, ring = (number_bytes * rows * spec.layers * max(share.sent(part, 1, d // spec.heads)[kind] for part in range(degrees.sequence))
                     for kind in range(2))
    hidden = HIDDEN * attention / flops * (degrees.ring - 1) / degrees.ring
    passing = ring / machine.link + machine.latency * spec.layers * (degrees.ring - 1)
    exchange = max(0.0, passing - hidden) + ulysses / machine.link
    if degrees.ulysses > 1:
        exchange += machine.latency * spec.layers * CALLS_ULYSSES
    latents = 0.0
    if degrees.cfg > 1:
        frames, _ = latent_frames(spec, shape.frames)
        latents = 4.0 * frames * spec.latent_channels * math.prod(side // spec.spatial_scale for side in (shape.height, shape.width))
        exchange += latents / machine.link + machine.latency
    return StepCost(compute, exchange, ulysses + ring + latents)


@dataclass(frozen=True, slots=True)
class Choice:
    """A legal way to divide, and what it promises."""

    degrees: Degrees
    speed_up: float
    """Of a step, against one device; predicted."""
    cost: StepCost


def choices(spec: ModelSpec, shape: Shape, ranks: int, machine: Machine, number_bytes: int = 2) -> tuple[Choice, ...]:
    """Every legal way over exactly `ranks` devices, the fastest first."""
    single = step_cost(spec, shape, Degrees(), machine, number_bytes).seconds
    video = tokens(spec, shape) - spec.max_text_tokens
    found = []
    for degrees in every_degrees(ranks, guided=shape.guided, heads=spec.heads, video=video):
        cost = step_cost(spec, shape, degrees, machine, number_bytes)
        found.append(Choice(degrees, single / cost.seconds, cost))
    return tuple(sorted(found, key=lambda one: (-round(one.speed_up, 3), -one.degrees.cfg, one.degrees.ring)))
