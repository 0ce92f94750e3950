"""The trainer against the loop that everybody writes with peft and diffusers: `python -m bench.train_loop [--steps 6]`.

One model (pocket), the same clips, the same noise and times, one run each, from pixels to the last update. The plain loop is that of
diffusers' own script: the whole pipeline loaded, clips decoded and kept, encoded once, words encoded at every step, every activation kept.

    gradients   of the first step, which begins both from the same LoRA
    memory      highest sum of live tensors, weights included (`bench.meta_memory.Meter`): over the whole run, encoding of the clips
                included, and of the steps alone
    time        processor seconds a step, middle of all, measured apart from memory

Exit status 1 where gradients differ by more than 1e-4 of their size. The other targets are printed with what was reached.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.meta_memory import Meter
from engine.hardware import detect
from engine.models.catalogue import find
from engine.spec import ModelSpec, read_spec
from training.lora.base import load_base
from training.lora.config import TrainConfig
from training.lora.loop import Trainer
from training.lora.objective import Batch
from training.lora.rundir import RunDir
from training.lora.samples import Clip, encode_set, pocket_world

SAME, MEMORY, TIME = 1e-4, 0.5, 1.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Ran:
    """One run."""

    gradient: Tensor
    """Of the first step, by sorted names."""
    seconds: tuple[float, ...]
    losses: tuple[float, ...]


def plain(spec: ModelSpec, clips: list[Clip], config: TrainConfig, told: list[Batch], start: dict[str, Tensor],
          begun: Callable[[], None] = lambda: None) -> Ran:
    """diffusers' script in short. `told`: where times and noise are taken from, so that both see the same; `start`: the LoRA's first
    values; `begun`: called when steps begin."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
    from peft import LoraConfig

    pipe = CogVideoXPipeline.from_pretrained(spec.path, torch_dtype=torch.float32)
    scheduler = CogVideoXDDIMScheduler.from_pretrained(spec.path / "scheduler")
    transformer, vae = pipe.transformer, pipe.vae
    for part in (transformer, vae, pipe.text_encoder):
        part.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = dict(sorted((name.replace(".default", ""), value) for name, value in transformer.named_parameters() if value.requires_grad))
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(start[name])
        videos = [torch.from_numpy(clip.frames).float().permute(3, 0, 1, 2)[None] / 255 * 2 - 1 for clip in clips]
        kept = [vae.encode(video).latent_dist for video in videos]
    optimizer = torch.optim.AdamW(trained.values(), lr=config.learning_rate, betas=(config.beta1, config.beta2),
                                  weight_decay=config.weight_decay)
    height, width = clips[0].frames.shape[1:3]
    gradient, seconds, losses = torch.empty(0), [], []
    begun()
    for step, batch in enumerate(told):
        since, index = time.process_time(), step % len(clips)
        with torch.no_grad():
            text, _ = pipe.encode_prompt(clips[index].caption, do_classifier_free_guidance=False,
                                         max_sequence_length=spec.max_text_tokens)
            kept[index].sample()  # the script draws here; what both shall see is taken from outside
        rotary = pipe._prepare_rotary_positional_embeddings(height, width, batch.noisy.shape[1], torch.device("cpu"))
        out = transformer(hidden_states=batch.noisy, encoder_hidden_states=text, timestep=batch.times, image_rotary_emb=rotary,
                          return_dict=False)[0]
        alpha = scheduler.alphas_cumprod[batch.times].view(-1, 1, 1, 1, 1)
        guessed, clean = (scheduler.get_velocity(value, batch.noisy, batch.times) for value in (out, batch.target))
        loss = ((guessed - clean) ** 2 / (1 - alpha)).flatten(1).mean(1).mean()
        loss.backward()
        if not step:
            gradient = torch.cat([value.grad.flatten() for value in trained.values()])  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - since)
        losses.append(float(loss.detach()))
    return Ran(gradient, tuple(seconds), tuple(losses))


def ours(spec: ModelSpec, clips: list[Clip], config: TrainConfig, steps: int, word: str = "keep",
         begun: Callable[[], None] = lambda: None) -> tuple[Ran, list[Batch], dict[str, Tensor]]:
    """The trainer, and what its passes saw."""
    machine = detect("cpu")
    model = load_base(spec, config, machine)
    samples = encode_set(model, clips)
    for part in ("text_encoder", "vae"):
        model.components[part].rest()
    trainer = Trainer(model, config, samples, RunDir(spec.path), machine, policy=(word,) * spec.layers)
    start = trainer.adapter.tensors()
    order = [trainer.order.at(at)[0] for at in range(steps)]
    told = [trainer.batches.visit([trainer.samples.train[index]], at) for at, index in enumerate(order)]
    begun()
    trainer.backward([trainer.samples.train[order[0]]], 0, 1)
    gradient = torch.cat([value.grad.flatten() for value in trainer.adapter.parameters.values()])  # type: ignore[union-attr]
    trainer.optimizer.zero_grad(set_to_none=True)
    seconds, losses = [], []
    for _ in range(steps):
        since = time.process_time()
        losses.append(trainer.update().loss)
        seconds.append(time.process_time() - since)
    model.close()
    return Ran(gradient, tuple(seconds), tuple(losses)), told, start


def peaks(run: Callable[[Callable[[], None]], Any]) -> tuple[int, int]:
    """(of the whole run, of its steps). `run` calls what it is given when its steps begin."""
    gc.collect()
    meter, before = Meter(device="cpu"), []

    def begun() -> None:
        before.append(meter.peak)
        meter.peak = meter.now

    with meter:
        run(begun)
    return max(before[0], meter.peak), meter.peak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_loop", description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--clips", type=int, default=6)
    asked = parser.parse_args(argv)
    torch.manual_seed(0)
    spec = read_spec(find("pocket"), "pocket")
    config = TrainConfig(model="pocket", dataset="pocket-world", name="loop", rank=32, precision="fp32", learning_rate=1e-3, warmup=0,
                         schedule="constant", caption_dropout=0.0, device="cpu")
    clips = pocket_world(asked.clips, frames=spec.native_frames, held_out=0)
    short = replace(config, steps=2)
    first, told, start = ours(spec, clips, config, asked.steps)
    order = _order(spec, clips, config, asked.steps)
    other = plain(spec, [clips[index] for index in order], config, told, start)
    off = float((first.gradient - other.gradient).norm() / other.gradient.norm())
    print(f"pocket, {asked.clips} clips of {spec.native_frames} x {spec.native_height} x {spec.native_width}, rank {config.rank}, fp32, "
          f"{torch.get_num_threads()} thread(s), {asked.steps} steps")
    print(f"gradient of the first step: off by {off:.1e} of its size (wanted <= {SAME:g}); losses off by "
          f"{max(abs(a / b - 1) for a, b in zip(first.losses, other.losses, strict=True)):.1e} over {asked.steps} steps\n")
    again = peaks(lambda begun: plain(spec, [clips[index] for index in order], short, told[:2], start, begun))
    rows = [("plain peft + diffusers loop", other, again)]
    for what, word in (("ours, all kept", "keep"), ("ours, recomputed", "recompute")):
        ran = first if word == "keep" else ours(spec, clips, config, asked.steps, word)[0]
        rows.append((what, ran, peaks(lambda begun, word=word: ours(spec, clips, short, 2, word, begun))))
    heads = ("whole run", "of plain", "steps", "of plain", "s a step", "of plain")
    print(f"{'MiB; processor seconds':<30}{''.join(f'{head:>10}' for head in heads)}")
    memory, pace = rows[0][2], statistics.median(rows[0][1].seconds)
    for what, ran, (whole, steps) in rows:
        each = statistics.median(ran.seconds)
        print(f"{what:<30}{whole / MIB:10.1f}{whole / memory[0]:10.2f}{steps / MIB:10.1f}{steps / memory[1]:10.2f}{each:10.3f}"
              f"{each / pace:10.2f}")
    print(f"wanted: memory <= {MEMORY} and time <= {TIME} of the plain loop")
    return 0 if off <= SAME else 1


def _order(spec: ModelSpec, clips: list[Clip], config: TrainConfig, steps: int) -> list[int]:
    """Which clip each step sees."""
    from training.lora.order import Order

    order = Order(tuple(clip.frames.shape for clip in clips), config.batch, config.seed)
    return [order.at(at)[0] for at in range(steps)]


if __name__ == "__main__":
    raise SystemExit(main())
