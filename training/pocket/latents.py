"""Stage 2: encode scenes once, so that the denoiser never waits for the autoencoder.

A shard holds the posterior of consecutive scenes of one clip length, in bf16, that of each
first frame by itself (what an image-to-video model is given), and each latent's share of
subject (the mask). Scenes and captions are not stored: both are functions of the seed. Shards
are written atomically and each is a pure function of (seed, frames, shard number), so making
them may be stopped, resumed, or spread over several processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import world
from .arithmetic import mixed

SHARD = 100
"""Clips in a shard."""


@dataclass(frozen=True)
class Shelf:
    """All cached clips of one length. frames: 8k+1; clips: how many, a multiple of SHARD."""

    frames: int
    clips: int

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // 4 + 1

    def seed(self, seed: int) -> int:
        """Scenes of different lengths are different scenes."""
        return seed * 1000 + self.frames


def shard_path(folder: Path, shelf: Shelf, number: int) -> Path:
    return folder / f"latents-{shelf.frames:02d}-{number:04d}.safetensors"


def to_tensor(video: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 (F, H, W, 3) -> float (1, 3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(video).to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def latent_mask(mask: np.ndarray) -> np.ndarray:
    """Share of subject in each latent cell: uint8 (F, H, W) -> uint8 (f, H/8, W/8).

    The first latent frame covers one video frame, each other one the next four.
    """
    frames, height, width = mask.shape
    cells = mask.reshape(frames, height // 8, 8, width // 8, 8).mean((2, 4))
    rest = cells[1:].reshape(-1, 4, height // 8, width // 8).mean(1)
    return np.rint(np.concatenate([cells[:1], rest])).astype(np.uint8)


@torch.no_grad()
def make_shard(vae: AutoencoderKLCogVideoX, folder: Path, shelf: Shelf, number: int, *, seed: int, device: str = "cpu") -> None:
    """Encode one shard; does nothing when it is there."""
    path = shard_path(folder, shelf, number)
    if path.exists():
        return
    moments, first, masks = [], [], []
    for index in range(number * SHARD, (number + 1) * SHARD):
        clip = world.render(world.scene_at(shelf.seed(seed), index), shelf.frames)
        moments.append(_moments(vae, clip.video, device))
        first.append(_moments(vae, clip.video[:1], device))
        masks.append(torch.from_numpy(latent_mask(clip.mask)))
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({"moments": torch.stack(moments), "first": torch.stack(first), "mask": torch.stack(masks)}, part)
    part.replace(path)


def _moments(vae: AutoencoderKLCogVideoX, video: np.ndarray, device: str) -> Tensor:
    """Mean and deviation, bf16 (2, C, f, h, w), of a clip (F, H, W, 3)."""
    with mixed(device):
        posterior = vae.encode(to_tensor(video, device)).latent_dist
    return torch.stack([posterior.mean[0], posterior.std[0]]).bfloat16().cpu()


@dataclass(frozen=True)
class Cached:
    """A loaded shelf. moments: (N, 2, C, f, h, w) mean and deviation; first: (N, 2, C, 1, h, w) of the first frame by
    itself; mask: (N, f, h, w) uint8."""

    shelf: Shelf
    moments: Tensor
    first: Tensor
    mask: Tensor


def load_shelf(folder: Path, shelf: Shelf) -> Cached:
    shards = [load_file(shard_path(folder, shelf, n)) for n in range(shelf.clips // SHARD)]
    return Cached(shelf, *(torch.cat([shard[part] for shard in shards]) for part in ("moments", "first", "mask")))


def latent_scale(cached: Cached) -> float:
    """scaling_factor: one over the deviation of the latents, rounded to what a config shows."""
    return round(float(1 / cached.moments[:, 0].float().std()), 4)
