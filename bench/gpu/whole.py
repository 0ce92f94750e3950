"""The whole 5B pipeline through the engine's own door, resident and in the least memory: highest allocated bytes, and time.

A checkpoint with random weights is written to a temporary folder, planned and run as any other, a few steps of it. What this
version of Sprocket cannot do is said by its own planner.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.device import GIB, Device
from bench.gpu.models import Case, save
from bench.gpu.report import STEPS, Findings
from engine.choices import Policy
from engine.errors import CannotFit, OutputRejected
from engine.events import ClipWritten, Stage, StepDone
from engine.hardware import Hardware
from engine.memory.peak import CONTEXT_BYTES
from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from engine.video.recipe import build_recipe

RUN_STEPS = 4
ALLOCATED = 2 * GIB
DISK = 21 * GIB


def run(case: Case, device: Device, found: Findings) -> None:
    """Puts 'whole peak' (GiB) and 'whole ratio'."""
    folder = Path(tempfile.mkdtemp(prefix="sprocket-bench-"))
    try:
        if device.real and shutil.disk_usage(folder).free < DISK + 4 * GIB:
            found.say(f"  left out: {folder} has {shutil.disk_usage(folder).free / GIB:.0f} GiB free, {DISK / GIB + 4:.0f} are needed")
            return
        begun = time.monotonic()
        save(case, folder / "model", device)
        found.say(f"  a checkpoint with random weights written in {time.monotonic() - begun:.0f} s")
        roomy, exact = _machine(device), Policy(profile="fast", quality="lossless")
        resident = _one("resident", _planned(case, folder, roomy, exact), folder, device, found)
        tight = dataclasses.replace(_machine(device), free_bytes=int((ALLOCATED + CONTEXT_BYTES) / 0.95) + 1 if device.real else GIB * 4)
        job = _planned(case, folder, tight, Policy(profile="fast"))  # exact if that fits
        if isinstance(job, str):
            job = _planned(case, folder, tight, Policy(profile="fast", quality="near-lossless"))
        least = _one("least memory", job, folder, device, found)
        if resident and least:
            found.put("whole ratio", least[0] / resident[0])
            found.put("whole peak", least[1] / GIB)
            found.say(f"  least memory takes {least[0] / resident[0]:.3f} of the resident time")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _machine(device: Device) -> Hardware:
    free = device.room() if device.real else 8 * GIB
    return dataclasses.replace(device.hardware, free_bytes=free, bf16=device.compute == "bf16")


def _planned(case: Case, folder: Path, hardware: Hardware, policy: Policy) -> Plan | str:
    wish = GenerationRequest(prompt="a red fox", steps=RUN_STEPS, frames=case.shape.frames, width=case.shape.width,
                             height=case.shape.height, seed=0, guidance=6.0, model=str(folder / "model"))
    try:
        return plan(wish, read_spec(folder / "model"), hardware, policy)
    except CannotFit as error:
        return str(error)


def _one(name: str, job: Plan | str, folder: Path, device: Device, found: Findings) -> tuple[float, int] | None:
    """(seconds of 50 steps, text and decode; highest bytes)."""
    from engine.run import run as run_plan

    if isinstance(job, str):
        found.say(f"  {name}: not in this version: {job}")
        return None
    homes = ", ".join(f"{part.replace('_', ' ')} {home.precision} {home.residency}" for part, home in job.placement.homes.items())
    place, forecast = job.placement, job.forecast.device_bytes / GIB
    found.say(f"  {name}: {homes}; {place.passes} pass(es), feed-forward {place.feed_forward}, decode {place.decode}, attention "
              f"{job.attention}; {forecast:.2f} GiB forecast, CUDA context included")
    models, marks, written = ModelCache(), [], None
    try:
        label = name.replace(" ", "-")
        events: Any = run_plan(job, part=folder / f"{label}.part", workspace=folder / "work" / label, recipe=build_recipe(job),
                               models=models, cancelled=lambda: False, checkpoint_seconds=1e9, preview_seconds=1e9)
        for event in events:
            if isinstance(event, StepDone) and event.stage is Stage.SAMPLE:
                device.sync()
                marks.append(time.perf_counter())
            if isinstance(event, ClipWritten):
                written = event
    except OutputRejected as error:  # random weights may well paint something that is no video
        found.say(f"  {name}: the frames of random weights were rejected ({error})")
    finally:
        models.close()
        device.free()
    if written is None or len(marks) < 2:
        return None
    step = median(b - a for a, b in pairwise(marks))
    text, decode = written.seconds["encode"], written.seconds["decode"]
    total = STEPS * step + text + decode
    found.say(f"  {name}: {step:.4f} s a step, text {text:.2f} s, decode and writing {decode:.2f} s, {STEPS} steps in all {total:.1f} s; "
              f"peak {written.peak_bytes / GIB:.2f} GiB {'allocated' if device.real else 'of the process'}")
    return total, written.peak_bytes
