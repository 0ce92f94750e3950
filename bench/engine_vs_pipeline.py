"""The engine against diffusers' own pipeline: same weights, same requests, one interleaved run, output compared.

    python bench/engine_vs_pipeline.py [--model DIR] [--runs 5] [--steps N] [--dtype bf16|fp32] [--max-ratio 0.95]

Both sides start from a loaded model and end with uint8 frames in memory: text encoding, all steps, decoding; the rounds
alternate who goes first. The pipeline is as diffusers documents it. Two more ratios are printed: sampling and decoding
alone. The verdict is on wall time, or on processor time where other programs kept this one from a full core (wall time then measures them).

In fp32 on a processor the engine's autoencoder convolves through oneDNN where torch would not (`engine.models.convolution`), which adds
in another order. So in each round pixels may differ by one level of 255, and when the clock has stopped the pipeline makes the first
clip once more with these convolutions: that must be the engine's bit for bit. In bf16 every round must be.

Then both make one clip of two steps under a meter that sees every tensor torch makes: the highest number of bytes alive at
once beside the weights. What a kernel takes inside itself, and pictures outside torch, it does not see.

Exit status 1 if an output differs by more, the ratio of medians is above `--max-ratio` or that of bytes above `--max-bytes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.meta_memory import Meter
from engine.hardware import detect
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.models.convolution import use_onednn
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.sample import SampleState, sample
from engine.spec import read_spec

FULL_CORE = 0.9
LEVEL = 1
"""Steps of 255 that a pixel in fp32 may differ by through rounding."""
PROMPTS = ("a red ball rises slowly over the sea", "a blue star spins in the night sky", "a green heart grows on a meadow")


def pipeline_side(folder: Path, dtype: torch.dtype) -> Any:
    """Diffusers' pipeline, loaded as its documentation says."""
    from diffusers import CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_frames(pipe: Any, job: Plan, marks: dict[str, float]) -> np.ndarray:
    """uint8 (frames, height, width, 3), the usual call."""
    first: list[float] = []

    def note(_pipe: Any, _index: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        first.append(time.perf_counter())
        return values

    images = pipe(prompt=job.prompt, negative_prompt=job.negative, height=job.height, width=job.width,
                  num_frames=job.frames, num_inference_steps=job.steps, guidance_scale=job.guidance,
                  generator=torch.Generator("cpu").manual_seed(job.seed), output_type="pil",
                  max_sequence_length=job.spec.max_text_tokens, callback_on_step_end=note).frames[0]
    marks["decode"] = time.perf_counter() - first[-1]
    return np.stack([np.asarray(image) for image in images])


def engine_frames(model: Any, job: Plan, marks: dict[str, float]) -> np.ndarray:
    """The same through the engine's encode, loop and streaming decoder."""
    generator = torch.Generator("cpu").manual_seed(job.seed)
    text = model.encode(job.prompt, job.negative if job.guided else None)
    state = SampleState(0, model.initial_latents(job.latent_shape, generator), None)
    for step in sample(model, model.scheduler(job.scheduler, job.steps), text, state, [job.guidance] * job.steps, generator):
        state = step
    begun = time.perf_counter()
    frames = np.concatenate([chunk.numpy() for chunk in model.decode(state.latents[:, job.latent_padding:], job.tile)])
    marks["decode"] = time.perf_counter() - begun
    return frames


def timed(side: Callable[[Plan, dict[str, float]], np.ndarray], job: Plan) -> tuple[np.ndarray, dict[str, float]]:
    marks: dict[str, float] = {}
    wall, busy = time.perf_counter(), time.process_time()
    frames = side(job, marks)
    marks["total"], marks["cpu"] = time.perf_counter() - wall, time.process_time() - busy
    marks["sample"] = marks["total"] - marks["decode"]
    return frames, marks


def compared(given: np.ndarray, expected: np.ndarray) -> tuple[int, str]:
    """(highest difference of a number, the same in words) of two clips, uint8."""
    apart = np.abs(given.astype(int) - expected)
    if not apart.any():
        return 0, "equal"
    return int(apart.max()), f"{np.count_nonzero(apart):,} of {apart.size:,} numbers apart, by {apart.max()} of 255 at most"


def live_peak(side: Callable[[Plan, dict[str, float]], np.ndarray], job: Plan, modules: tuple[Any, ...]) -> tuple[int, str]:
    """(highest live bytes of tensors beside the weights of `modules`, the operation that reached them)."""
    meter = Meter([tensor for module in modules for tensor in (*module.parameters(), *module.buffers())], "cpu")
    with meter:
        side(job, {})
    return meter.peak, meter.where


def report_bytes(sides: dict[str, Any], job: Plan, modules: dict[str, tuple[Any, ...]], limit: float) -> bool:
    """Print both peaks; True if their ratio is within `limit`."""
    short = dataclasses.replace(job, steps=2)
    found = {name: live_peak(sides[name], short, modules[name]) for name in ("pipeline", "engine")}
    for name, (peak, where) in found.items():
        print(f"peak live bytes, {name:9} {peak / 2**20:8.1f} MiB beside the weights, reached in {where}")
    ratio = found["engine"][0] / found["pipeline"][0]
    print(f"bytes ratio {ratio:.3f} (wanted <= {limit})")
    return ratio <= limit


def report(seen: dict[str, list[dict[str, float]]], limit: float) -> bool:
    """Print every ratio; True if the deciding one is within `limit`."""
    middle = {name: {what: median(m[what] for m in marks) for what in marks[0]} for name, marks in seen.items()}
    rows = {"total": "whole, wall", "cpu": "whole, processor time", "sample": "encode + sample, wall", "decode": "decode, wall"}
    for what, label in rows.items():
        ratios = [e[what] / p[what] for e, p in zip(seen["engine"], seen["pipeline"], strict=True)]
        print(f"{label:22} pipeline {middle['pipeline'][what]:7.3f} s   engine {middle['engine'][what]:7.3f} s   ratio of "
              f"medians {middle['engine'][what] / middle['pipeline'][what]:.3f}   median of ratios {median(ratios):.3f}")
    share = min(marks["cpu"] / marks["total"] for side in seen.values() for marks in side)
    what = "total" if share >= FULL_CORE else "cpu"
    if what == "cpu":
        print(f"other programs were running (as little as {share:.0%} of one core for this one): processor time decides")
    ratio = middle["engine"][what] / middle["pipeline"][what]
    print(f"time ratio {ratio:.3f} (wanted <= {limit})")
    return ratio <= limit


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--model", default="pocket", help="catalogue name or absolute folder")
    ask.add_argument("--runs", type=int, default=5)
    ask.add_argument("--steps", type=int, default=None)
    ask.add_argument("--dtype", choices=("bf16", "fp32"), default=None, help="default: what the plan chooses here")
    ask.add_argument("--max-ratio", type=float, default=0.95)
    ask.add_argument("--max-bytes", type=float, default=0.7)
    wish = ask.parse_args()

    spec, hardware = read_spec(find(wish.model), Path(wish.model).name), detect()
    if wish.dtype:
        hardware = dataclasses.replace(hardware, bf16=wish.dtype == "bf16")
    jobs = [plan(GenerationRequest(prompt=PROMPTS[i % len(PROMPTS)], seed=i, steps=wish.steps), spec, hardware)
            for i in range(wish.runs)]
    models = ModelCache()
    model = models.get(jobs[0])
    pipe = pipeline_side(spec.path, model.dtype).to(model.device)
    sides = {"pipeline": lambda job, marks: pipeline_frames(pipe, job, marks),
             "engine": lambda job, marks: engine_frames(model, job, marks)}
    print(f"{spec.name}: {jobs[0].frames} frames of {jobs[0].width} x {jobs[0].height}, {jobs[0].steps} steps, {jobs[0].dtype}, "
          f"{hardware.name}, {torch.get_num_threads()} thread(s), {wish.runs} rounds")
    warm = dataclasses.replace(jobs[0], steps=1)
    for side in sides.values():
        timed(side, warm)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    kept: dict[str, np.ndarray] = {}
    good = True
    for index, job in enumerate(jobs):
        frames = {}
        for name in sorted(sides, reverse=index % 2 == 0):
            frames[name], marks = timed(sides[name], job)
            seen[name].append(marks)
        apart, words = compared(frames["engine"], frames["pipeline"])
        good &= apart <= (LEVEL if job.dtype == "fp32" else 0)
        kept = kept or frames
        print(f"  round {index + 1}: pipeline {seen['pipeline'][-1]['total']:6.2f} s  engine {seen['engine'][-1]['total']:6.2f} s  "
              f"output {words}")
    good &= report(seen, wish.max_ratio)
    modules = {name: (owner.text_encoder, owner.transformer, owner.vae) for name, owner in (("pipeline", pipe), ("engine", model))}
    good &= report_bytes(sides, jobs[0], modules, wish.max_bytes)
    use_onednn(pipe.vae)
    apart, words = compared(kept["engine"], pipeline_frames(pipe, jobs[0], {}))
    print(f"with the engine's convolutions in the pipeline: output {words}")
    good &= apart == 0
    print("OK" if good else "NOT REACHED")
    models.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
