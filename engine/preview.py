"""A look at the video while it forms: clean latents -> RGB by one linear map, all latent frames as a film strip.

Three numbers per latent channel know the colours of a scene well enough; the VAE would take a hundred times longer.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.video.still import webp

STRIP_HEIGHT = 64
MAX_STRIP_WIDTH = 4096
MAX_BYTES = 30_000
FIT_FRAMES, FIT_SIDE = 9, 64


class LatentColours:
    """weight (channels, 3) and bias (3): RGB 0..1 = latents . weight + bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.float(), bias.float()

    @classmethod
    def read(cls, path: Path, channels: int) -> LatentColours | None:
        """The map a model ships with; None if it has none or a damaged one (a preview is not worth an error)."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            weight, bias = torch.tensor(values["weight"]), torch.tensor(values["bias"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return None
        sound = weight.shape == (channels, 3) and bias.shape == (3,) and bool(torch.isfinite(weight).all())
        return cls(weight, bias) if sound else None

    @classmethod
    @torch.inference_mode()
    def fit(cls, vae: Any, scaling_factor: float) -> LatentColours:
        """Least squares between a clip of moving colours and its own latents."""
        clip = _colour_clip()
        parameter = next(vae.parameters())
        if parameter.device.type == "cpu" and parameter.dtype != torch.float32:  # where these are emulated they take 30 times as long
            vae = copy.deepcopy(vae, {id(vae.decoder): None}).float()
            parameter = next(vae.parameters())
        given = (clip * 2 - 1)[None].to(parameter.device, parameter.dtype)
        latents = vae.encode(given, return_dict=False)[0].mode()[0].float().cpu() * scaling_factor
        channels, frames, height, width = latents.shape
        target = torch.nn.functional.interpolate(clip[None], size=(frames, height, width), mode="area")[0]
        known = torch.cat([latents.reshape(channels, -1), torch.ones(1, frames * height * width)]).T.double()
        # A whiff of ridge keeps an untrained VAE's near-equal channels from exploding.
        normal = known.T @ known + 1e-3 * torch.eye(channels + 1, dtype=torch.double)
        solved = torch.linalg.solve(normal, known.T @ target.reshape(3, -1).T.double())
        return cls(solved[:-1], solved[-1])

    def strip(self, clean: Tensor) -> bytes:
        """WebP of all frames of `clean` (frames, channels, height, width) side by side, at most 30 KB."""
        rgb = torch.einsum("fchw,cr->fhwr", clean.float().cpu(), self.weight) + self.bias
        pixels = (rgb.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        frames, height, width = pixels.shape[:3]
        film = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2, 3)).reshape(height, frames * width, 3))
        each = max(1, min(round(STRIP_HEIGHT * width / height), MAX_STRIP_WIDTH // frames))
        film = film.resize((each * frames, max(1, round(each * height / width))), Image.Resampling.BICUBIC)
        for quality in (70, 40, 10, 1):
            data = webp(film, quality)
            if len(data) <= MAX_BYTES:
                break
        return data


def _colour_clip() -> Tensor:
    """float32 (3, frames, side, side) in 0..1: soft patches of many colours, drifting."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 3, 8, 8, generator=generator)
    clip = torch.nn.functional.interpolate(coarse, size=(FIT_FRAMES, FIT_SIDE, FIT_SIDE), mode="trilinear")
    assert math.prod(clip.shape) == 3 * FIT_FRAMES * FIT_SIDE**2
    return clip[0]
