"""Stage two as a kind of training: frames between known ones, on any CogVideoX, from the clips of a set (`engine.interpolate.stage_two`).

    a sample   a window of `SLOTS` frames of one clip, each encoded alone, at its rate or a half, a quarter, an eighth of it
    known      every second frame most often (the rounds of `engine.interpolate.levels`), both ends, every third, the first, any, or none;
               with a little noise on them, as later rounds are given what earlier ones made
    loss       of the predicted velocity as in `objective`; of known frames a tenth, as what is made of them is thrown away

Trained are a patch embedding with room for the known frames, a LoRA beside attention, feed-forward and modulation, and the frame rate's
embedding. All randomness is a function of (seed, stream, visit). CogVideo, section 3.2 (https://arxiv.org/abs/2205.15868).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.errors import InvalidRequest
from engine.interpolate.adapter import FILE, Facts, write_adapter
from engine.interpolate.conditioning import beside, fold_mask
from engine.interpolate.stage_two import StageTwo
from engine.spec import ModelSpec
from training.lora.config import TrainConfig
from training.lora.objective import IMAGE_NOISE, Batch, Batches
from training.lora.order import time_at
from training.lora.samples import Sample
from training.lora.streams import normal, seed_of, uniform
from training.lora.trained import Trained
from training.lora.windows import SLOTS, draw_known, strides_of

KNOWN_WEIGHT = 0.1
"""Of the error in known slots."""
MODULATION_SHARE = 4
"""The modulation layers have a LoRA of so many times lower rank."""


class StageTwoWeights(Trained):
    """What stage two adds to `transformer`, which stays a stage-two model until `close`."""

    def __init__(self, transformer: Any, config: TrainConfig, spec: ModelSpec) -> None:
        """Raises `InvalidRequest` for a rank above a layer's width."""
        most = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        if config.rank > most:
            raise InvalidRequest("rank", f"is {config.rank}; the layers of {spec.name} are {most} wide.", suggestion=most)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "init", 0))
            self.stage = StageTwo(transformer, spec.latent_channels, rank=config.rank, modulation_rank=config.rank // MODULATION_SHARE)
        device = transformer.patch_embed.proj.weight.device
        self.stage.to(device, torch.float32).requires_grad_(True)
        kept = transformer.time_embedding.linear_1.weight.dtype
        self.stage.patch.register_forward_pre_hook(lambda _layer, inputs: (inputs[0].float(), *inputs[1:]))
        self.stage.patch.register_forward_hook(lambda _layer, _inputs, result: result.to(kept))
        self._there = ExitStack()
        self._there.enter_context(self.stage.installed())
        super().__init__(transformer, config, dict(sorted(self.stage.named_parameters())))
        self.begin_average()

    def about_to_see(self, batch: Batch) -> None:
        self.stage.fps = batch.fps

    def close(self) -> None:
        """The transformer is as it was."""
        self._there.close()


class Windows(Batches):
    """Passes as a pure function of their position: windows of frames between known ones."""

    def visit(self, samples: list[Sample], first: int) -> Batch:
        """The windows of a pass whose first visit has number `first`."""
        config, seed = self.config, self.config.seed
        window = config.batch * config.accumulate
        times = [time_at(first + row, seed=seed, times=self.noise.times, window=window, stratified=config.stratified)
                 for row in range(len(samples))]
        return self._windows(samples, list(range(first, first + len(samples))), times, seed, fixed=False)

    def fixed(self, sample: Sample, number: int, time: int) -> Batch:
        """A held-out window, the same for ever: every second frame known, exactly."""
        return self._windows([sample], [number], [time], 0, fixed=True)

    def _windows(self, samples: list[Sample], visits: list[int], times: list[int], seed: int, *, fixed: bool) -> Batch:
        clean, noise, given, masks, texts, rates = [], [], [], [], [], []
        for sample, visit in zip(samples, visits, strict=True):
            mean, std = (part.permute(1, 0, 2, 3) for part in sample.latents())
            choices = strides_of(len(mean))
            which = visit % len(choices) if fixed else int(uniform(seed, "stride", visit) * len(choices))
            stride = choices[which]
            start = int(uniform(seed, "start", visit) * (len(mean) - (SLOTS - 1) * stride))
            picked = [start + stride * slot for slot in range(SLOTS)]
            draw = lambda stream, m=mean[picked], s=std[picked], v=visit: (  # noqa: E731
                m + s * normal(tuple(m.shape), seed, stream, v)) * self.spec.scaling_factor
            clean.append(draw("posterior"))
            noise.append(normal(tuple(clean[-1].shape), seed, "noise", visit))
            known = draw("image-posterior")
            if not fixed:
                strength = torch.exp(IMAGE_NOISE[0] + IMAGE_NOISE[1] * normal((1,), seed, "image-noise", visit))
                known = known + strength * normal(tuple(known.shape), seed, "image-pixels", visit)
            rng = np.random.Generator(np.random.PCG64(seed_of(seed, "known", visit)))
            masks.append(fold_mask(range(0, SLOTS, 2) if fixed else draw_known(rng, SLOTS), SLOTS, "frames"))
            given.append(known)
            dropped = not fixed and uniform(seed, "caption", visit) < self.config.caption_dropout
            texts.append((self.empty if dropped else sample.text())[which])
            rates.append(self.spec.fps / stride)
        mask = torch.stack(masks)
        made = self._made(clean, noise, times, texts, list(beside(torch.stack(given), mask)), 0)
        weights = torch.where(mask.any(-1), KNOWN_WEIGHT, 1.0)[..., None, None, None].to(self.device)
        return self._padded(replace(made, weights=weights, fps=torch.tensor(rates, device=self.device)))

    def _padded(self, batch: Batch) -> Batch:
        """CogVideoX 1.5 takes whole patches in time: the first slot is repeated in front, as when frames are made."""
        padding = self.padding(batch.noisy.shape[1])
        if not padding:
            return batch
        longer = lambda value: torch.cat([value[:, :1]] * padding + [value], dim=1)  # noqa: E731
        assert batch.beside is not None and batch.weights is not None
        return replace(batch, noisy=longer(batch.noisy), target=longer(batch.target), beside=longer(batch.beside),
                       weights=longer(batch.weights), padding=padding)


def write_stage_two(folder: Path, weights: StageTwoWeights, spec: ModelSpec, step: int) -> None:
    """`stage2.safetensors` in a model's folder, where Create looks for it; float32."""
    stage = weights.stage
    facts = Facts(base=spec.fingerprint, layout="frames", slots=SLOTS, channels=stage.channels, rank=stage.rank,
                  modulation_rank=stage.modulation_rank, trained_steps=step)
    with weights.showing():
        write_adapter(folder / FILE, stage, facts, dtype=torch.float32)


