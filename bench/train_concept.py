"""A new concept on the pocket: `python -m bench.train_concept [--concept colour|motion] [--steps 400]`.

25 clips of what the base never met, drawn by a generator it never met (`bench.concepts`: a shape, a colour or a motion), train a LoRA;
prompts that the set does not hold are generated before and after, by diffusers' own pipeline with the exported file, and read by classical
vision: the share that shows the new thing, and how many old prompts come out right with the LoRA on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline

from bench.concepts import CONCEPTS, Concept
from bench.pocket_eval import Task, generate, held_out_scene
from bench.pocket_vision import read_clip
from engine.hardware import detect
from engine.models.catalogue import find
from engine.models.convolution import use_onednn
from engine.spec import read_spec
from training.data import example
from training.lora.base import load_base
from training.lora.config import TrainConfig
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import RunDir
from training.lora.samples import Clip, encode_set, pocket_world
from training.lora.session import Session
from training.pocket.arithmetic import native

SEED = 77


def unseen(concept: Concept, count: int) -> list[str]:
    """So many different prompts with the new word that are none of the set's captions."""
    trained = {concept.caption(0, index) for index in range(example.CLIPS)}
    every = dict.fromkeys(concept.caption(SEED, index) for index in range(10 * count))
    return [words for words in every if words not in trained][:count]


def score(pipeline, concept: Concept, clips: int, steps: int, guidance: float) -> dict[str, float]:
    """Shares: new prompts that show the new thing, old prompts with all of shape, colour, place and motion right, and each alone."""
    new = [Task(words, None) for words in unseen(concept, clips)]  # type: ignore[arg-type]
    old = [Task(*held_out_scene(index)) for index in range(clips)]
    shown, right, parts = 0, 0, []
    for at in range(0, clips, 4):
        shown += sum(map(concept.shown, generate(pipeline, new[at:at + 4], seed=SEED + at, steps=steps, guidance=guidance, frames=25)))
        videos = generate(pipeline, old[at:at + 4], seed=SEED + at, steps=steps, guidance=guidance, frames=25)
        for task, video in zip(old[at:at + 4], videos, strict=True):
            seen = read_clip(video)
            hits = [getattr(seen, part) == getattr(task.asked, part) for part in ("shape", "colour", "background", "motion")]
            parts.append(hits)
            right += all(hits)
    return {"new": shown / clips, "old": right / clips, "old parts": float(np.mean(parts))}


def train(folder: Path, concept: Concept, *, steps: int, rank: int, rate: float, batch: int, targets: str, known: int,
          threads: int) -> tuple[Path, float]:
    """(the LoRA's file, seconds of training with everything a run does but previews).

    `known`: so many clips of the base's own world beside the new ones, so that it does not forget them (prior preservation,
    https://arxiv.org/abs/2208.12242, section 3.2).
    """
    config = TrainConfig(model="pocket", dataset="pocket-world", name=concept.word, rank=rank, steps=steps, learning_rate=rate, batch=batch,
                         beta2=0.99, targets=targets, schedule="cosine", warmup=10, eval_steps=steps // 4, eval_clips=3, threads=threads,
                         trigger=concept.word)
    run, machine = RunDir(folder), detect("cpu")
    spec = read_spec(find("pocket"), "pocket")
    run.create(config)
    begun = time.monotonic()
    model = load_base(spec, config, machine)
    taken = range(0, example.PICTURES - 1, example.FPS // 8)
    clips = [Clip(np.ascontiguousarray(concept.render(0, index)[list(taken)][:25]), concept.caption(0, index),
                  "held-out" if index >= example.CLIPS - 3 else "train") for index in range(example.CLIPS)]
    clips += pocket_world(known, held_out=0)
    save_set(folder / SAMPLES, encode_set(model, clips))
    model.close()
    from training.lora.opening import samples_of

    end = Session(run, spec, machine, samples_of(run, config, None)).work()
    if end != "done":
        raise SystemExit(f"training ended as {end}: {run.state().message}")
    return run.lora_file(concept.word), time.monotonic() - begun


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_concept", description=__doc__)
    parser.add_argument("--concept", choices=CONCEPTS, default="shape")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--targets", default="attention+ff")
    parser.add_argument("--known", type=int, default=20, help="clips of the base's own world beside the new ones")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--clips", type=int, default=24, help="prompts of each kind")
    parser.add_argument("--sampling", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="the run's folder is made here and stays")
    asked = parser.parse_args(argv)
    concept = CONCEPTS[asked.concept]
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch:
        lora, seconds = train(asked.keep or Path(scratch) / "run", concept, steps=asked.steps, rank=asked.rank, rate=asked.rate,
                              batch=asked.batch, targets=asked.targets, known=asked.known, threads=asked.threads)
        pipeline = CogVideoXPipeline.from_pretrained(find("pocket"), dtype=native())
        use_onednn(pipeline.vae)
        pipeline.set_progress_bar_config(disable=True)
        guidance = json.loads((find("pocket") / "sprocket.json").read_text())["recommended"]["guidance_scale"]
        print(f"trained in {seconds:.0f} s: {asked.steps} steps, rank {asked.rank}", flush=True)
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
        after = score(pipeline, concept, asked.clips, asked.sampling, guidance)
        print("with    ", after, flush=True)
        pipeline.unload_lora_weights()
        before = score(pipeline, concept, asked.clips, asked.sampling, guidance)
        print("without ", before, flush=True)
    print(f"new concept shown: {before['new']:.0%} -> {after['new']:.0%}; old prompts right: {before['old']:.0%} -> {after['old']:.0%} "
          f"(parts {before['old parts']:.0%} -> {after['old parts']:.0%})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
