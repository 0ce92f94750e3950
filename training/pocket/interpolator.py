"""Stage 6: frames between frames. Patch embedding, LoRA and frame-rate embedding, on the frozen image-to-video transformer.

Every latent slot is one frame, encoded alone (`engine.interpolate.conditioning`, layout 'frames'). A sample is a window of
consecutive frames of the exact world at one of several rates, with a random set of them known. The same law of motion seen
at every rate is what lets one small adapter serve every round.

Frames are encoded once: per scene 25 of the whole action, and one window each at twice and four times that rate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.interpolate.conditioning import beside, fold_mask
from engine.interpolate.levels import rate_words
from engine.interpolate.stage_two import StageTwo
from training.lora.windows import draw_known

from . import world
from .arithmetic import mixed
from .captions import caption
from .denoiser import CAPTION_DROPOUT, SUBJECT_WEIGHT, TEXT_LENGTH_SHARES, TEXT_LENGTHS, focus, predict, to_tokens
from .latents import latent_mask, to_tensor

GRID = 96
"""The whole action in steps; frame j of it is at phase j / 96."""
SLOTS = 7
COARSE = 4
"""Grid steps between the 25 frames of the whole action that are kept of each scene."""
FINE = (2, 1)
"""Grid steps between the frames of the other two windows."""
SCENES = 50
"""Scenes in a shard."""
STRIDES = (16, 8, 4, 2, 1)
STRIDE_SHARES = (0.3, 0.22, 0.22, 0.16, 0.1)
DURATIONS = (3.0, 6.0, 12.0)
"""Seconds the whole action may take: with the stride it gives the frame rate."""
KNOWN_WEIGHT = 0.1
"""Of the error in known slots: the frame is given, and what is made of it is thrown away."""
SEED = 4242


@dataclass(frozen=True)
class Interpolation:
    """The stage: `steps` of `batch` windows, on `scenes` scenes."""

    steps: int = 160
    batch: int = 12
    scenes: int = 200
    rank: int = 48
    modulation_rank: int = 12
    lr: float = 1e-3


@dataclass(frozen=True)
class Frames:
    """Cached scenes, frames encoded one by one. moments: bf16 (N, 39, 2, C, h, w); mask: uint8 (N, 39, h, w);
    starts: int64 (N, 2), where on the grid the two fine windows begin."""

    moments: Tensor
    mask: Tensor
    starts: Tensor


def places(starts: tuple[int, int]) -> list[int]:
    """Grid positions of the 39 frames that are kept of a scene."""
    fine = [start + step * i for start, step in zip(starts, FINE, strict=True) for i in range(SLOTS)]
    return [*range(0, GRID + 1, COARSE), *fine]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"frames-{number:04d}.safetensors"


@torch.no_grad()
def make_shard(vae, folder: Path, number: int, *, seed: int, device: str = "cpu") -> None:
    """Encode one shard of scenes; does nothing when it is there. A pure function of (seed, number)."""
    path = shard_path(folder, number)
    if path.exists():
        return
    moments, masks, starts = [], [], []
    for index in range(number * SCENES, (number + 1) * SCENES):
        rng = np.random.default_rng((seed, SEED, index))
        scene = scene_of(seed, index)
        begin = tuple(int(rng.integers(0, GRID - step * (SLOTS - 1) + 1)) for step in FINE)
        for place in places(begin):  # type: ignore[arg-type]
            clip = world.render(scene, GRID + 1, only=range(place, place + 1))
            with mixed(device):
                posterior = vae.encode(to_tensor(clip.video, device)).latent_dist
            moments.append(torch.stack([posterior.mean[0, :, 0], posterior.std[0, :, 0]]).bfloat16().cpu())
            masks.append(torch.from_numpy(latent_mask(clip.mask)[0]))
        starts.append(begin)
    part = path.with_suffix(f".{os.getpid()}.part")
    kept = len(places((0, 0)))
    save_file({"moments": torch.stack(moments).unflatten(0, (SCENES, kept)), "mask": torch.stack(masks).unflatten(0, (SCENES, kept)),
               "starts": torch.tensor(starts)}, part)
    part.replace(path)


def scene_of(seed: int, index: int) -> world.Scene:
    """Scenes of this stage are scenes of no other; held-out combinations are not among them."""
    return world.scene_at(seed * 1000 + SEED, index)


def load_frames(folder: Path, scenes: int) -> Frames:
    """The shards of the first `scenes` scenes."""
    shards = [load_file(shard_path(folder, n)) for n in range(scenes // SCENES)]
    return Frames(*(torch.cat([shard[part] for shard in shards]) for part in ("moments", "mask", "starts")))


@dataclass(frozen=True)
class Windows:
    """One batch. latents, noise: (B, f, C, h, w); beside: (B, f, C + 4, h, w); cover: (B, f, 1, h, w); real: bool (B, f);
    ids: (B, L); t: (B,); fps: float (B,)."""

    latents: Tensor
    noise: Tensor
    beside: Tensor
    cover: Tensor
    real: Tensor
    ids: Tensor
    t: Tensor
    fps: Tensor

    def to(self, device: str) -> Windows:
        return Windows(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw_windows(frames: Frames, tokenizer, stage: Interpolation, scale: float, *, seed: int, step: int) -> Windows:
    """Everything random about a step, a pure function of (seed, step) and the cached frames."""
    rng = np.random.default_rng((seed, SEED, step))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    slots = int(rng.choice((SLOTS, 5, 3), p=(0.86, 0.1, 0.04)))
    rows = rng.integers(0, len(frames.moments), stage.batch)
    columns, masks, texts, rates = [], [], [], []
    for row in rows:
        stride = int(rng.choice(STRIDES, p=STRIDE_SHARES))
        columns.append(_columns(rng, stride, slots))
        masks.append(fold_mask(draw_known(rng, slots), slots, "frames"))
        rates.append(GRID / (stride * float(rng.choice(DURATIONS))))
        words = "" if rng.random() < CAPTION_DROPOUT else caption(scene_of(seed, int(row)), rng)
        texts.append(rate_words(rates[-1]) + words)
    picked = torch.as_tensor(np.array(columns))
    moments = frames.moments[torch.as_tensor(rows)[:, None], picked].float()
    cover = frames.mask[torch.as_tensor(rows)[:, None], picked][:, :, None].float() / 255
    draw = lambda: (moments[:, :, 0] + torch.randn(moments[:, :, 0].shape, generator=generator) * moments[:, :, 1]) * scale  # noqa: E731
    latents, known = draw(), draw()
    # Later rounds are given what earlier ones made: a little noise on the known, as image-to-video models are trained with.
    spread = torch.exp(torch.randn(stage.batch, 1, 1, 1, 1, generator=generator) * 0.5 - 3)
    known = known + spread * torch.randn(known.shape, generator=generator)
    mask = torch.stack(masks)
    length = int(rng.choice(TEXT_LENGTHS, p=TEXT_LENGTH_SHARES))
    padding = {"padding": "max_length", "max_length": length, "truncation": True} if length else {"padding": "longest"}
    u = (torch.arange(stage.batch) + torch.rand(stage.batch, generator=generator)) / stage.batch
    return Windows(latents, torch.randn(latents.shape, generator=generator), beside(known, mask), cover, mask.any(-1),
                   tokenizer(texts, return_tensors="pt", **padding).input_ids, (1000 * focus(u)).long().clamp(0, 999),
                   torch.tensor(rates))


def _columns(rng: np.random.Generator, stride: int, slots: int) -> list[int]:
    """Which of the 39 kept frames a window of `slots` frames, `stride` apart, is made of."""
    if stride in FINE:
        first = len(range(0, GRID + 1, COARSE)) + FINE.index(stride) * SLOTS + int(rng.integers(0, SLOTS - slots + 1))
        return [first + i for i in range(slots)]
    apart = stride // COARSE
    start = int(rng.integers(0, GRID // COARSE - apart * (slots - 1) + 1))
    return [start + apart * i for i in range(slots)]


def interpolation_loss(stage: StageTwo, transformer, alphas: Tensor, batch: Windows, text: Tensor,
                       rope: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of v, weighted by subject and little where frames are known; the plain one of unknown slots beside it.

    `transformer`: the installed one.
    """
    a = alphas[batch.t].view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    target = to_tokens(a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents)
    stage.fps = batch.fps
    output, _ = predict(transformer, torch.cat([noisy, batch.beside], dim=2), text, batch.t, rope)
    error = (output.float() - target).square()
    unknown = to_tokens((~batch.real).float().view(*batch.real.shape, 1, 1, 1).expand_as(batch.cover))
    weight = (1 + SUBJECT_WEIGHT * to_tokens(batch.cover)) * (KNOWN_WEIGHT + (1 - KNOWN_WEIGHT) * unknown)
    channels = batch.latents.shape[2]
    loss = (weight.repeat(1, 1, channels) * error).sum() / (weight.sum() * channels)
    plain = (unknown.repeat(1, 1, channels) * error.detach()).sum() / (unknown.sum() * channels).clamp(min=1)
    return loss, {"v_mse": float(plain)}
