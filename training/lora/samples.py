"""What a trainer reads of a set of clips: encoded, once, by somebody else (`training.data.cache`), or here from the pocket world."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.models.cogvideox import CogVideoX


class Sample(Protocol):
    """One clip; `training.data.cache.Entry` is one."""

    @property
    def key(self) -> str:
        """Changes with anything that changes its numbers."""

    @property
    def split(self) -> str:
        """'train' or 'held-out'."""

    @property
    def bucket(self) -> object:
        """Clips of equal buckets have latents of one shape."""

    @property
    def caption(self) -> str: ...

    def latents(self) -> tuple[Tensor, Tensor]:
        """(mean, std) of the posterior, float32 (channels, latent frames, height, width), unscaled."""

    def first_frame(self) -> tuple[Tensor, Tensor]:
        """The same of the first frame alone, (channels, 1, height, width)."""

    def picture(self) -> Tensor:
        """The first frame itself, uint8 (height, width, 3)."""

    def text(self) -> Tensor:
        """(tokens, width)."""


class SampleSet(Protocol):
    """`training.data.cache.CachedSet` is one."""

    @property
    def digest(self) -> str:
        """Equal digests are equal data in equal order."""

    @property
    def train(self) -> Sequence[Sample]: ...

    @property
    def held_out(self) -> Sequence[Sample]: ...

    def empty_text(self) -> Tensor:
        """The encoding of ""."""


@dataclass(frozen=True, slots=True)
class HeldSample:
    """A sample whose numbers are in memory."""

    key: str
    split: str
    bucket: tuple[int, int, int]
    caption: str
    moments: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]
    words: Tensor
    shown: Tensor

    def picture(self) -> Tensor:
        return self.shown

    def latents(self) -> tuple[Tensor, Tensor]:
        return self.moments

    def first_frame(self) -> tuple[Tensor, Tensor]:
        return self.first

    def text(self) -> Tensor:
        return self.words


@dataclass(frozen=True)
class HeldSet:
    """A set in memory."""

    entries: tuple[HeldSample, ...]
    empty: Tensor

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("|".join(f"{e.key}{e.split}" for e in self.entries).encode()).hexdigest()

    @property
    def train(self) -> tuple[HeldSample, ...]:
        return tuple(entry for entry in self.entries if entry.split == "train")

    @property
    def held_out(self) -> tuple[HeldSample, ...]:
        return tuple(entry for entry in self.entries if entry.split == "held-out")

    def empty_text(self) -> Tensor:
        return self.empty


@dataclass(frozen=True, slots=True)
class Clip:
    """frames: uint8 (F, height, width, 3)."""

    frames: np.ndarray
    caption: str
    split: str = field(default="train")


def encode_set(model: CogVideoX, clips: Sequence[Clip], tell: Callable[[int, int], None] = lambda done, of: None, *,
               rates: Sequence[float] = ()) -> HeldSet:
    """Clips in memory through `model`'s own encoders, as Create encodes. `rates`: for stage two, each frame alone and words at each."""
    import torch

    from engine.interpolate.levels import rate_words
    from engine.models.vae_encode import encode_chunks

    def said(caption: str) -> Tensor:
        if not rates:
            return model.encode(caption, None)[0].clone()
        return torch.stack([model.encode(rate_words(rate) + caption, None)[0].clone() for rate in rates])

    words: dict[str, Tensor] = {}
    entries = []
    for number, clip in enumerate(clips):
        height, width = clip.frames.shape[1:3]
        if clip.caption not in words:
            words[clip.caption] = said(clip.caption)
        with torch.inference_mode():
            vae = model.at_work("vae")
            one = lambda frames, size=(height, width), vae=vae: torch.cat(  # noqa: E731
                [part for _, part in encode_chunks(vae, frames, size)], dim=2)[0]
            first = one(clip.frames[:1])
            whole = torch.cat([one(clip.frames[i:i + 1]) for i in range(len(clip.frames))], dim=1) if rates else one(clip.frames)
        key = hashlib.sha256(clip.frames.tobytes() + clip.caption.encode() + model.spec.fingerprint.encode()).hexdigest()
        entries.append(HeldSample(key, clip.split, (len(clip.frames), height, width), clip.caption, posterior(whole), posterior(first),
                                  words[clip.caption], torch.from_numpy(clip.frames[0].copy())))
        tell(number + 1, len(clips))
    return HeldSet(tuple(entries), said(""))


def posterior(moments: torch.Tensor) -> tuple[Tensor, Tensor]:
    """(mean, std), float32, of moments (2 C, ...)."""
    mean, spread = moments.clone().float().cpu().chunk(2, dim=0)
    return mean, (0.5 * spread.clamp(-30.0, 20.0)).exp()


def pocket_world(count: int, *, frames: int = 25, held_out: int = 4, seed: int = 0) -> list[Clip]:
    """Clips of the embedded model's own world: to try a trainer with, as the model knows them already."""
    from training.pocket import world
    from training.pocket.captions import caption

    scenes = [world.scene_at(seed, index) for index in range(count)]
    return [Clip(world.render(scene, frames).video, caption(scene, np.random.default_rng((seed, index))),
                 "held-out" if index >= count - held_out else "train") for index, scene in enumerate(scenes)]
