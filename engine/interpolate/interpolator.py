"""Making frames between known ones with a stage-two model: blocks in, pixels out.

    known frames -> each encoded alone -> slots;  noise in the others -> denoise -> each made slot decoded alone

Known frames pass through untouched: what is made of their slots is thrown away. Where a made frame shows what the known ones
beside it show, it takes their pixels (`give_back`), so that a background that rests does not flicker between given and made frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import OutputRejected
from engine.interpolate.adapter import Facts, load_adapter
from engine.interpolate.conditioning import beside, fold_mask
from engine.interpolate.levels import rate_words
from engine.interpolate.stage_two import StageTwo
from engine.models.cogvideox import OFFSET, CogVideoX

NEARNESS = 24.0
"""8-bit levels of difference at which a made pixel hardly counts as the known one any more."""
SOFTENED = 5
"""Pixels, odd."""


@dataclass(frozen=True, slots=True)
class Window:
    """One block to be made. All of a batch have the same number of slots."""

    pixels: tuple[np.ndarray | None, ...]
    """uint8 (height, width, 3) of each slot, None where it is not known."""
    makes: tuple[int, ...]
    """Slots that are wanted."""
    seed: int
    """Of its noise."""
    fps: float


class Interpolator:
    """A loaded model with its stage-two adapter on. Use `opened`; the base is as it was afterwards."""

    def __init__(self, model: CogVideoX, stage: StageTwo, facts: Facts, prompt: str, size: tuple[int, int], tile: tuple[int, int],
                 how: str) -> None:
        self.model, self.stage, self.facts, self.prompt, self.size, self.tile, self.how = model, stage, facts, prompt, size, tile, how
        self._texts: dict[float, Tensor] = {}

    @classmethod
    @contextmanager
    def opened(cls, model: CogVideoX, adapter: Path, facts: Facts, *, prompt: str, size: tuple[int, int],
               tile: tuple[int, int], how: str = "whole") -> Iterator[Interpolator]:
        """`size`: pixels (height, width) of the frames; `tile`, `how`: as for decoding. Raises `ModelInvalid` where the adapter does not
        fit the model."""
        dtype = model.components["transformer"].dtype
        stage = load_adapter(adapter, model.transformer, facts, device=model.device, dtype=dtype)
        with stage.installed():
            yield cls(model, stage, facts, prompt, size, tile, how)

    @torch.inference_mode()
    def make(self, windows: Sequence[Window], stepped: Callable[[], None] = lambda: None) -> list[dict[int, np.ndarray]]:
        """The wanted slots of each window as pixels. `stepped` is called after every denoising step, and may raise."""
        known = [{slot: self._encode(pixels) for slot, pixels in enumerate(window.pixels) if pixels is not None} for window in windows]
        slots, scale = len(windows[0].pixels), self.model.spec.spatial_scale
        shape = (len(windows), slots, self.facts.channels, self.size[0] // scale, self.size[1] // scale)
        latents = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)
        for row, each in enumerate(known):
            for slot, latent in each.items():
                latents[row, slot] = latent
        masks = torch.stack([fold_mask(list(each), slots, "frames") for each in known]).to(self.model.device)
        clean = self._denoise(windows, beside(latents, masks), stepped)
        return [self._pixels(window, each, made) for window, each, made in zip(windows, known, clean, strict=True)]

    def _denoise(self, windows: Sequence[Window], given: Tensor, stepped: Callable[[], None]) -> Tensor:
        """Clean latents (B, slots, C, h, w) by DDIM without noise of its own, so that a block's only randomness is its seed."""
        model, channels = self.model, self.facts.channels
        shape = (1, given.shape[1], channels, *given.shape[3:])
        noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(window.seed)) for window in windows]
        latents = torch.cat(noise).to(model.device, model.dtype)
        text = torch.cat([self._text(window.fps) for window in windows])
        self.stage.fps = torch.tensor([window.fps for window in windows], device=model.device)
        steps = model.scheduler("ddim", self.facts.steps)
        clean = latents
        for index, timestep in enumerate(steps.timesteps):
            velocity = self._predict(torch.cat([latents, given], dim=2), text, timestep)
            latents, clean = steps.step(velocity, index, latents, None, torch.Generator())
            latents = latents.to(model.dtype)
            if not torch.isfinite(latents).all():
                raise OutputRejected("the rounds gave numbers that are not finite (NaN). Likely cause: damaged stage-two weights.")
            stepped()
        return clean

    def _predict(self, hidden: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        """Velocity (B, slots, C, h, w). 1.5 takes whole patches in time: the first slot is repeated in front, and dropped again."""
        padding = -hidden.shape[1] % (self.model.spec.patch_size_t or 1)
        if padding:
            hidden = torch.cat([hidden[:, :1]] * padding + [hidden], dim=1)
        transformer, kept = self.model.at_work("transformer"), self.model.components["transformer"].dtype
        offset = hidden.new_full((1,), OFFSET, dtype=kept) if self.model.spec.takes_offset else None
        shape = (1, hidden.shape[1], self.facts.channels, *hidden.shape[3:])
        out = transformer(hidden_states=hidden.to(kept), encoder_hidden_states=text.to(kept), timestep=timestep.expand(len(hidden)),
                          ofs=offset, image_rotary_emb=self.model.rotary_table(shape), return_dict=False)[0]
        return out[:, padding:].float()

    def _text(self, fps: float) -> Tensor:
        if fps not in self._texts:
            self._texts[fps] = self.model.encode(rate_words(fps) + self.prompt, None)
        return self._texts[fps]

    def _encode(self, pixels: np.ndarray) -> Tensor:
        """(C, h, w), scaled: the mean of what the encoder says of one frame, alone."""
        ((_, moments),) = self.model.encode_frames(pixels[None], self.tile, self.how)
        return moments[0, : self.facts.channels, 0] * self.model.spec.scaling_factor

    def _decode(self, latent: Tensor) -> np.ndarray:
        """uint8 (height, width, 3) of one slot."""
        chunks = [chunk for chunk in self.model.decode(latent[None, None].to(self.model.dtype), self.tile, self.how) if len(chunk)]
        return chunks[0][0].numpy()

    def _pixels(self, window: Window, known: dict[int, Tensor], made: Tensor) -> dict[int, np.ndarray]:
        found = {}
        for slot in window.makes:
            sides = (max((k for k in known if k < slot), default=None), min((k for k in known if k > slot), default=None))
            around = [(window.pixels[side], 1 / abs(side - slot)) for side in sides if side is not None]
            found[slot] = give_back(self._decode(made[slot]), around)
        return found


def give_back(frame: np.ndarray, known: Sequence[tuple[Any, float]]) -> np.ndarray:
    """A made frame with the pixels of the known frames beside it where it shows what they show.

    frame: uint8 (height, width, 3); known: (pixels, nearness). Both are softened over `SOFTENED` pixels and compared: a pixel becomes
    its known counterpart with weight exp(-(difference / NEARNESS)^2), difference: the largest of its three colours. So what rests
    is as sharp and as still as in the given frames, and what moves is what the model made.
    """
    if not known:
        return frame
    soft = softened(frame)
    total = np.zeros(frame.shape, np.float32)
    weights = np.full(frame.shape[:2], 1e-6, np.float32)
    best = np.zeros(frame.shape[:2], np.float32)
    for pixels, nearness in known:
        difference = np.abs(soft - softened(pixels)).max(axis=-1)
        likeness = np.exp(-((difference / NEARNESS) ** 2))
        share = nearness * likeness**2
        total += share[..., None] * pixels
        weights += share
        best = np.maximum(best, likeness)
    restored = frame + best[..., None] * (total / weights[..., None] - frame)
    return np.rint(restored.clip(0, 255)).astype(np.uint8)


def softened(pixels: np.ndarray) -> np.ndarray:
    """float32: each pixel the mean of those around it; at the border of as many as there are."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    soft = torch.nn.functional.avg_pool2d(planes, SOFTENED, stride=1, padding=SOFTENED // 2, count_include_pad=False)
    return soft[0].permute(1, 2, 0).numpy()
