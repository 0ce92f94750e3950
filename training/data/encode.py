"""Words and pictures to the numbers a trainer needs, by the engine's own encoders, one of them in memory at a time."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.memory import Home
from engine.models import band_encode, text_encode, vae_encode
from engine.models.cogvideox import KINDS, CogVideoX
from engine.models.component import DTYPES, Component
from engine.spec import ModelSpec
from training.data.buckets import WHOLE_PIXELS


class LoadedEncoders:
    """The same of a checkpoint that is loaded already, such as a trainer's base. Owns nothing."""

    def __init__(self, model: CogVideoX) -> None:
        self._model = model

    def text(self, words: str) -> Tensor:
        """As `Encoders.text`."""
        return self._model.encode(words, None)[0].cpu()

    def moments(self, frames: np.ndarray) -> Tensor:
        """As `Encoders.moments`."""
        how = "banded" if frames.shape[1] * frames.shape[2] > WHOLE_PIXELS else "whole"
        return torch.cat([part for _, part in self._model.encode_frames(frames, frames.shape[1:3], how)], dim=2)[0].cpu()


class Encoders:
    """Owns the text encoder or the VAE of one checkpoint, whichever was asked for last. A context manager."""

    def __init__(self, spec: ModelSpec, *, dtype: str, device: str) -> None:
        """`dtype`: 'fp32' or 'bf16'. Loads nothing yet."""
        self.spec, self.dtype, self.device = spec, dtype, torch.device(device)
        self._loaded: tuple[str, Component] | None = None
        self._tokenizer: Any = None

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets the weights go."""
        if self._loaded is not None:
            self._loaded[1].close()
        self._loaded = None

    @torch.inference_mode()
    def text(self, words: str) -> Tensor:
        """(max_text_tokens, text_width) on the CPU. Raises `InvalidRequest` (field 'caption') for more tokens than the model reads."""
        self._tokenizer = self._tokenizer or text_encode.load_tokenizer(self.spec)
        ids = text_encode.token_ids(self._tokenizer, words, self.spec, "caption").to(self.device)
        return text_encode.encoded(self._part("text_encoder"), ids, DTYPES[self.dtype])[0].cpu()

    @torch.inference_mode()
    def moments(self, frames: np.ndarray) -> Tensor:
        """(2 x channels, latent frames, height, width) on the CPU: what the VAE says of uint8 `frames` (F, height, width, 3)."""
        vae = self._part("vae")
        if frames.shape[1] * frames.shape[2] > WHOLE_PIXELS:
            parts = [moments for _, moments in band_encode.encode_banded(vae, frames)]
        else:
            parts = [moments for _, moments in vae_encode.encode_chunks(vae, frames, frames.shape[1:3])]
        return torch.cat(parts, dim=2)[0].cpu()

    def _part(self, part: str) -> Any:
        if self._loaded is None or self._loaded[0] != part:
            self.close()
            component = Component(KINDS[part], self.spec.path / part, part, Home(self.dtype, "resident"), self.dtype, self.device)
            self._loaded = (part, component)
        return self._loaded[1].ready()
