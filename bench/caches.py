"""Caches and the CFG gate on the pocket model: transformer arithmetic saved, against how far the clip moves from the exact one.

    python -m bench.caches [--clips 3] [--steps 50] [--frames N] [--only CACHE] [--settings] [--store]

Every clip is made exactly, then once with each option: same prompt, seed and noise. Arithmetic is counted, not timed
(`FlopCounterMode`), over all of sampling. PSNR is that of the decoded frames to the exact clip's. A skipped step's cost is its
arithmetic over that of a full step with as many rows. MagCache is calibrated on a prompt that is not measured.

`--settings` also tries other settings of each cache. `--store` writes what the app reads: `engine/facts/caches.json` and the
model's `magcache.json`; rows that were not measured this time stay where they were measured alike. Exit status 1 where no option
reaches 2.4 times less arithmetic at 32 dB with skipped steps of 1 % or less.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.cache.broadcast import Broadcast
from engine.cache.first_block import FirstBlock
from engine.cache.magnitude import SHIPPED, Magnitude, changes_key, with_changes
from engine.cache.measured import FILE
from engine.cache.shortcut import POLICIES, Shortcut
from engine.cache.taylor import Taylor
from engine.guidance import guidance_weights
from engine.hardware import detect
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.sample import SampleState, sample
from engine.spec import ModelSpec, read_spec

PROMPTS = ("a red ball rises slowly over the sea", "a blue star moves from left to right in the night sky",
           "a green heart grows on a meadow", "a yellow square turns round in a snowy landscape")
CALIBRATED_ON = ("a white triangle falls over a desert", 99)
RATIO, PSNR, SKIPPED = 2.4, 32.0, 0.01


@dataclass(frozen=True)
class Option:
    """One row of the table."""

    cache: str
    gate: float
    policy: Any = None
    """None: the cache's own."""

    @property
    def name(self) -> str:
        own = POLICIES.get(self.cache)
        changed = "" if self.policy is None or own is None else ", ".join(
            f"{f.name} {getattr(self.policy, f.name):g}" for f in dataclasses.fields(self.policy)
            if getattr(self.policy, f.name) != getattr(own, f.name))
        gate = f", gate {self.gate:g}" if self.gate < 1 else ""
        return f"{self.cache}{gate}{f' ({changed})' if changed else ''}"


OPTIONS = [Option("magcache", 1.0), Option("taylorseer", 1.0), Option("magcache", 0.8), Option("first-block", 1.0), Option("pab", 1.0),
           Option("off", 0.8), Option("off", 0.5)]
SETTINGS = [Option("magcache", 1.0, Magnitude(threshold=0.07)), Option("magcache", 1.0, Magnitude(threshold=0.15, most=9)),
            Option("magcache", 1.0, Magnitude(retained=0.2)), Option("taylorseer", 1.0, Taylor(every=0.06, retained=0.1)),
            Option("first-block", 1.0, FirstBlock(threshold=0.25)), Option("first-block", 1.0, FirstBlock(threshold=0.5)),
            Option("pab", 1.0, Broadcast(every=3)), Option("off", 0.9)]


@dataclass
class Seen:
    """What was counted over the clips of one option."""

    flops: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)


def sampled(model: Any, job: Plan, option: Option, changes: Any) -> tuple[torch.Tensor, list[int], Shortcut, list[int]]:
    """(latents, arithmetic of each step, the shortcut, which steps were run in full)."""
    generator = torch.Generator("cpu").manual_seed(job.seed)
    text = model.encode(job.prompt, "" if job.guided else None)
    stepper = model.scheduler(job.scheduler, job.steps)
    weights = guidance_weights(job.guidance_kind, job.guidance, stepper.timesteps.tolist())
    shortcut = Shortcut(model, stepper, text, weights, cache=option.cache, gate=option.gate, changes=changes, policy=option.policy)
    state = SampleState(0, model.initial_latents(job.latent_shape, generator), None)
    each, full, before, done = [], [], 0, 0
    with FlopCounterMode(display=False) as counter:
        for state in sample(model, stepper, text, state, weights, generator, None, shortcut):  # noqa: B020  (the last is wanted)
            total = counter.get_total_flops()
            each.append(total - before)
            if shortcut.full_steps > done:
                full.append(state.step - 1)
            before, done = total, shortcut.full_steps
    return state.latents, each, shortcut, full


def decoded(model: Any, job: Plan, latents: torch.Tensor) -> np.ndarray:
    return np.concatenate([chunk.numpy() for chunk in model.decode(latents[:, job.latent_padding:], job.tile)]).astype(np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB of uint8 values; 99 for equal ones."""
    error = float(np.mean((one - other) ** 2))
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


def skipped_cost(each: list[int], full: list[int], gate: int) -> list[float]:
    """Arithmetic of every skipped step over that of a full one with as many rows."""
    found = []
    for step, cost in enumerate(each):
        if step not in full:
            alike = [each[other] for other in full if (other < gate) == (step < gate)]
            found.append(cost / max(alike, default=each[0]))
    return found


def measure(model: Any, jobs: list[Plan], options: list[Option], changes: Any) -> Iterator[tuple[Option, Seen]]:
    """Yields each option after its last clip."""
    exact = []
    for job in jobs:
        latents, each, _, _ = sampled(model, job, Option("off", 1.0), None)
        exact.append((decoded(model, job, latents), sum(each)))
    for option in options:
        seen = Seen()
        for job, (frames, flops) in zip(jobs, exact, strict=True):
            latents, each, shortcut, full = sampled(model, job, option, changes)
            seen.flops.append(flops / sum(each))
            seen.psnr.append(psnr(decoded(model, job, latents), frames))
            seen.full.append(len(full))
            seen.skipped += skipped_cost(each, full, shortcut.gate)
        yield option, seen


def calibrated(model: Any, job: Plan) -> tuple[float, ...]:
    """MagCache's magnitudes, as the first clip of a model gives them."""
    _, _, shortcut, _ = sampled(model, job, Option("magcache", 1.0), None)
    assert shortcut.changes is not None
    return shortcut.changes


def row(option: Option, seen: Seen) -> dict[str, Any]:
    """One row as JSON values."""
    policy = option.policy or POLICIES.get(option.cache)
    return {"cache": option.cache, "cfg_gate": option.gate, "settings": {} if policy is None else dataclasses.asdict(policy),
            "flops_ratio": round(mean(seen.flops), 3), "psnr": round(mean(seen.psnr), 2), "psnr_least": round(min(seen.psnr), 2),
            "full_steps": round(mean(seen.full), 1), "skipped_cost": round(max(seen.skipped, default=0.0), 4)}


def store(spec: ModelSpec, job: Plan, clips: int, rows: list[dict[str, Any]], shipped: dict[str, tuple[float, ...]]) -> None:
    """Write the table of the app and the model's magnitudes."""
    about = {"model": spec.name, "fingerprint": spec.fingerprint, "steps": job.steps, "scheduler": job.scheduler, "guidance": job.guidance,
             "frames": job.frames, "height": job.height, "width": job.width, "dtype": job.dtype, "clips": clips}
    kept = json.loads(FILE.read_text())
    by_option = {(made["cache"], made["cfg_gate"]): made for made in (*(kept["rows"] if kept["about"] == about else ()), *rows)}
    lines = ",\n  ".join(json.dumps(by_option[option.cache, option.gate]) for option in OPTIONS if (option.cache, option.gate) in by_option)
    FILE.write_text(f'{{"about": {json.dumps(about)},\n "rows": [\n  {lines}\n ]}}\n')
    for key, changes in shipped.items():
        (spec.path / SHIPPED).write_text(with_changes(spec.path / SHIPPED, spec.fingerprint, key, changes))


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--clips", type=int, default=3)
    ask.add_argument("--steps", type=int, default=50)
    ask.add_argument("--frames", type=int)
    ask.add_argument("--only", action="append", choices=("off", *POLICIES), help="may be given several times")
    ask.add_argument("--settings", action="store_true")
    ask.add_argument("--store", action="store_true")
    wish = ask.parse_args()
    spec, hardware = read_spec(find("pocket"), "pocket"), detect()
    jobs = [plan(GenerationRequest(prompt=PROMPTS[i % len(PROMPTS)], seed=i, steps=wish.steps, frames=wish.frames), spec, hardware)
            for i in range(wish.clips)]
    models, begun = ModelCache(), time.monotonic()
    model = models.get(jobs[0])
    native = plan(GenerationRequest(prompt=CALIBRATED_ON[0], seed=CALIBRATED_ON[1], steps=wish.steps), spec, hardware)
    changes = calibrated(model, native)
    print(f"pocket: {wish.clips} clips of {jobs[0].frames} frames, {wish.steps} steps, {jobs[0].scheduler}, guidance "
          f"{jobs[0].guidance:g}, {jobs[0].dtype}")
    print(f"{'option':44} {'FLOPs':>7} {'PSNR':>6} {'worst':>6} {'full steps':>10} {'skipped':>8}")
    rows = []
    options = [option for option in OPTIONS + (SETTINGS if wish.settings else []) if not wish.only or option.cache in wish.only]
    for option, seen in measure(model, jobs, options, changes):
        made = row(option, seen)
        rows.append(made)
        print(f"{option.name:44} {made['flops_ratio']:6.2f}x {made['psnr']:6.1f} {made['psnr_least']:6.1f} {made['full_steps']:10.1f} "
              f"{made['skipped_cost']:8.2%}", flush=True)
    if wish.store:
        own = [made for made, option in zip(rows, options, strict=True) if option.policy is None]
        usual = dataclasses.replace(native, steps=spec.recommended_steps)
        shipped = {changes_key(job.scheduler, job.steps, job.steps): made
                   for job, made in ((native, changes), (usual, calibrated(model, usual)))}
        store(spec, jobs[0], wish.clips, own, shipped)
    models.close()
    good = [r for r in rows if r["flops_ratio"] >= RATIO and r["psnr"] >= PSNR and r["skipped_cost"] <= SKIPPED]
    print(f"{'OK' if good else 'NOT REACHED'}: {len(good)} options with {RATIO} times less arithmetic at {PSNR:g} dB and skipped steps of "
          f"{SKIPPED:.0%} or less ({time.monotonic() - begun:.0f} s)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
