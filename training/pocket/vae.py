"""Stage 1: the video autoencoder, on crops first, then on whole frames.

The loss weights each pixel by the subject's mask: with a plain mean the network learns the
backgrounds, which fill the frame, and loses the subjects (measured: 22 dB, subject gone).
Crops are nine frames long: the backward pass of a bf16 conv3d on one frame is wrong on CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from . import world

KL_WEIGHT = 1e-4
SUBJECT_WEIGHT, DECODER_SUBJECT_WEIGHT = 5.0, 10.0
"""How much more a subject's pixels weigh, for autoencoder and for the decoder alone: more lifts the subject and lowers the rest."""
LENGTHS = (9, 17, 25, 25, 25, 33, 49)
"""Clip lengths whose motion a nine-frame window may be cut from."""


@dataclass(frozen=True)
class VaePhase:
    """A part of the stage. width, height: of the crop in pixels; frames: 8k+1."""

    steps: int
    batch: int
    width: int
    height: int
    frames: int = 9


DECODER_PHASES = (VaePhase(300, 1, 192, 128), VaePhase(450, 1, 192, 128, 17))
PHASES = (VaePhase(1800, 4, 64, 64), VaePhase(100, 1, 192, 128), VaePhase(700, 4, 64, 64), VaePhase(220, 1, 192, 128))


def phase_at(step: int, phases: tuple[VaePhase, ...]) -> VaePhase:
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return phases[-1]


def crop_batch(seed: int, step: int, phase: VaePhase) -> tuple[Tensor, Tensor]:
    """(video in [-1, 1], B C F H W; mask in [0, 1], B 1 F H W), a pure function of its arguments."""
    videos, masks = [], []
    for i in range(phase.batch):
        rng = np.random.default_rng((seed, step, i))
        scene = world.scene_at(seed, step * phase.batch + i)
        length = max(int(rng.choice(LENGTHS)), phase.frames)
        start = int(rng.integers(0, length - phase.frames + 1))
        clip = world.render(scene, length, only=range(start, start + phase.frames))
        x, y = _corner(rng, clip.mask, phase)
        window = (slice(None), slice(y, y + phase.height), slice(x, x + phase.width))
        videos.append(clip.video[window])
        masks.append(clip.mask[window])
    video = torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return video.contiguous(), torch.from_numpy(np.stack(masks))[:, None].float() / 255


def _corner(rng: np.random.Generator, mask: np.ndarray, phase: VaePhase) -> tuple[int, int]:
    """Top left corner of a crop, near a subject five times of six."""
    _, height, width = mask.shape
    far_x, far_y = width - phase.width, height - phase.height
    if rng.random() < 1 / 6:
        return int(rng.integers(far_x + 1)), int(rng.integers(far_y + 1))
    ys, xs = np.nonzero(mask[int(rng.integers(len(mask)))] > 127)
    at = int(rng.integers(len(xs)))
    x, y = xs[at] - phase.width // 2 + rng.integers(-12, 13), ys[at] - phase.height // 2 + rng.integers(-12, 13)
    return int(np.clip(x, 0, far_x)), int(np.clip(y, 0, far_y))


def vae_loss(vae: AutoencoderKLCogVideoX, video: Tensor, mask: Tensor, noise_seed: int) -> tuple[Tensor, dict[str, float]]:
    """Weighted L1 + squared error of the reconstruction, plus a small KL. Call under autocast."""
    posterior = vae.encode(video).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    generator = torch.Generator(device="cpu").manual_seed(noise_seed)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    latent = mean + noise * (0.5 * logvar).exp()
    error = vae.decode(latent).sample.float() - video
    weight = _weight(mask, SUBJECT_WEIGHT)
    reconstruction = (weight * (error.abs() + 2 * error.square())).mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    facts = _quality(error, mask) | {"kl": float(kl.detach()), "std": float(mean.detach().std())}
    return reconstruction + KL_WEIGHT * kl, facts


def decoder_loss(vae: AutoencoderKLCogVideoX, video: Tensor, mask: Tensor, noise_seed: int) -> tuple[Tensor, dict[str, float]]:
    """The reconstruction's error for the decoder alone, where outlines are what is left to gain: mostly squared, which they own.

    The posterior's noise comes at a random share, so that the mean, which is what a sampler aims at, is decoded well too.
    """
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        generator = torch.Generator(device="cpu").manual_seed(noise_seed)
        share = torch.rand((), generator=generator).item()
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean.device)
        latent = posterior.mean.float() + share * posterior.std.float() * noise
    error = vae.decode(latent).sample.float() - video
    loss = (_weight(mask, DECODER_SUBJECT_WEIGHT) * (0.5 * error.abs() + 8 * error.square())).mean()
    return loss, _quality(error, mask)


def _weight(mask: Tensor, subject: float) -> Tensor:
    weight = 1 + subject * mask
    return weight / weight.mean()


@torch.no_grad()
def _quality(error: Tensor, mask: Tensor) -> dict[str, float]:
    """PSNR in dB over everything, and inside the subject (20 where there is none)."""
    squared = (error / 2).square()
    inside = (squared * mask).sum() / (3 * mask.sum() + 1e-6)
    return {
        "psnr": float(-10 * squared.mean().log10()),
        "psnr_subject": float(-10 * inside.clamp(min=1e-6).log10()) if mask.sum() > 50 else 20.0,
    }
