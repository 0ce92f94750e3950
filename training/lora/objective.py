"""What is minimised: the error of the predicted velocity, in float32.

    z0 = scaling_factor * (mean + std * noise)                fresh at every visit
    zt = sqrt(a) z0 + sqrt(1 - a) e,   v* = sqrt(a) e - sqrt(1 - a) z0,   a = alphas_cumprod[t]
    L  = mean (v - v*)^2

The loss published with CogVideoX, on predicted clean latents with weight 1 / (1 - a), is exactly this (x0 - z0 = -sqrt(1 - a)(v - v*)),
but in the latents' 16 bits it is wrong by up to four times for small t, so tables and sums are float32 here.
Salimans & Ho, https://arxiv.org/abs/2202.00512, appendix D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from torch import Tensor

from engine.errors import ModelInvalid
from engine.models.conditioning import beside_noise
from engine.spec import ModelSpec
from training.lora.config import TrainConfig
from training.lora.order import time_at
from training.lora.samples import Sample
from training.lora.streams import normal, uniform

IMAGE_NOISE = (-3.0, 0.5)
"""Mean and standard deviation of the logarithm of the noise's strength, in a picture of -1..1."""


class Noise:
    """The checkpoint's own noise schedule, float64."""

    def __init__(self, folder: Path) -> None:
        scheduler = CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        if scheduler.config.prediction_type != "v_prediction":
            raise ModelInvalid(f"{folder} predicts {scheduler.config.prediction_type}; training is for models that predict v.")
        self.alphas: Tensor = scheduler.alphas_cumprod.double()
        self.times = len(self.alphas)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """(zt, v*), float32 as `clean` (B, F, C, h, w); `times` int64 (B,)."""
        alpha = self.alphas[times.cpu()].view(-1, 1, 1, 1, 1)
        signal, spread = alpha.sqrt().float().to(clean.device), (1 - alpha).sqrt().float().to(clean.device)
        return signal * clean + spread * noise, signal * noise - spread * clean

    def snr_weight(self, times: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / (SNR + 1), float32 (B,): min-SNR for a prediction of v (https://arxiv.org/abs/2303.09556)."""
        alpha = self.alphas[times.cpu()]
        snr = alpha / (1 - alpha)
        return (torch.minimum(snr, torch.full_like(snr, gamma)) / (snr + 1)).float()


@dataclass(frozen=True, slots=True)
class Batch:
    """One pass, all numbers float32 and on the device."""

    noisy: Tensor
    target: Tensor
    times: Tensor
    text: Tensor
    beside: Tensor | None
    padding: int
    """Latent frames at the front that are padding (CogVideoX 1.5); the loss leaves them out."""
    weights: Tensor | None = None
    """(B, F, 1, 1, 1): of each frame's error; None: all alike."""
    fps: Tensor | None = None
    """(B,): frames a second, where the model is told."""


class Batches:
    """Passes as a pure function of their position."""

    def __init__(self, spec: ModelSpec, config: TrainConfig, noise: Noise, empty: Tensor, device: torch.device,
                 encode: Callable[[Tensor], Tensor] | None = None) -> None:
        """`encode`: moments (2 channels, 1, h, w) of a picture (3, height, width) in -1..1; needed where `image_noise` puts noise on it."""
        self.encode = encode
        self.spec, self.config, self.noise, self.device = spec, config, noise, device
        self.empty = empty
        self.pictures = spec.modes[0] == "i2v"

    def visit(self, samples: list[Sample], first: int) -> Batch:
        """The samples of a pass whose first visit has number `first`."""
        config, seed = self.config, self.config.seed
        window = config.batch * config.accumulate
        times = [time_at(first + row, seed=seed, times=self.noise.times, window=window, stratified=config.stratified)
                 for row in range(len(samples))]
        clean, noise, texts, beside = [], [], [], []
        for row, sample in enumerate(samples):
            visit = first + row
            latents = self.drawn(sample.latents(), "posterior", visit)
            clean.append(latents)
            noise.append(normal(tuple(latents.shape), seed, "noise", visit))
            dropped = uniform(seed, "caption", visit) < config.caption_dropout
            texts.append(self.empty if dropped else sample.text())
            if self.pictures:
                beside.append(self.beside(sample, tuple(latents.shape), visit))
        return self._made(clean, noise, times, texts, beside, self.padding(samples[0].latents()[0].shape[1]))

    def fixed(self, sample: Sample, number: int, time: int) -> Batch:
        """A held-out sample with noise that is the same for ever."""
        latents = self.drawn(sample.latents(), "held-out", number, 0)
        noise = normal(tuple(latents.shape), 0, "held-out", number, 1, time)
        beside = [self.image(sample.first_frame(), tuple(latents.shape), "held-out", number, 2)] if self.pictures else []
        return self._made([latents], [noise], [time], [sample.text()], beside, self.padding(sample.latents()[0].shape[1]))

    def drawn(self, moments: tuple[Tensor, Tensor], stream: str, *position: int) -> Tensor:
        """(latent frames with padding, channels, h, w), scaled. CogVideoX 1.5 has its padding in front, as Create."""
        mean, std = moments
        seed = 0 if stream == "held-out" else self.config.seed
        latents = (mean + std * normal(tuple(mean.shape), seed, stream, *position)) * self.spec.scaling_factor
        latents = latents.permute(1, 0, 2, 3)
        return torch.cat([latents[:1]] * self.padding(len(latents)) + [latents])

    def beside(self, sample: Sample, shape: tuple[int, ...], visit: int) -> Tensor:
        """What stands beside the noise of a visit: the first frame with its noise, or nothing where it is dropped."""
        seed = self.config.seed
        if uniform(seed, "image", visit) < self.config.image_dropout:
            return torch.zeros(shape)
        if not self.config.image_noise or self.encode is None:
            return self.image(sample.first_frame(), shape, "image-posterior", visit)
        mean, spread = self.encode(self.noised_picture(sample, visit)).float().cpu().chunk(2, dim=0)
        return self.image((mean, (0.5 * spread.clamp(-30.0, 20.0)).exp()), shape, "image-posterior", visit)

    def noised_picture(self, sample: Sample, visit: int) -> Tensor:
        """(3, height, width) in -1..1, with fresh noise of a fresh strength (CogVideoX's own training: sat/diffusion_video.py)."""
        seed = self.config.seed
        picture = sample.picture().permute(2, 0, 1).float() / 255 * 2 - 1
        strength = torch.exp(IMAGE_NOISE[0] + IMAGE_NOISE[1] * normal((1,), seed, "image-noise", visit))
        return picture + strength * normal(tuple(picture.shape), seed, "image-pixels", visit)

    def image(self, moments: tuple[Tensor, Tensor], shape: tuple[int, ...], stream: str, *position: int) -> Tensor:
        """What stands beside the noise, of `shape` (F, C, h, w), scaled as Create scales it. `moments`: (mean, std) of the first frame."""
        mean, std = moments
        seed = 0 if stream == "held-out" else self.config.seed
        drawn = mean + std * normal(tuple(mean.shape), seed, stream, *position)
        return beside_noise(drawn[None], self.spec, (1, *shape))[0]

    def padding(self, frames: int) -> int:
        return -frames % (self.spec.patch_size_t or 1)

    def _made(self, clean: list[Tensor], noise: list[Tensor], times: list[int], texts: list[Tensor], beside: list[Tensor],
              padding: int) -> Batch:
        at = torch.tensor(times, dtype=torch.int64)
        noisy, target = self.noise.noised(torch.stack(clean), torch.stack(noise), at)
        return Batch(noisy.to(self.device), target.to(self.device), at.to(self.device), torch.stack(texts).to(self.device),
                     torch.stack(beside).to(self.device) if beside else None, padding)


def squared_error(velocity: Tensor, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Mean over all but the first dimension, float32 (B,); padding frames are left out."""
    squares = (velocity.float() - batch.target)[:, batch.padding:].square()
    if batch.weights is not None:
        share = batch.weights[:, batch.padding:]
        squares = squares * (share / share.mean(dim=1, keepdim=True))
    error = squares.flatten(1).mean(1)
    return error if weights is None else error * weights.to(error.device)
