"""The frozen model a LoRA is trained on: loaded, encoded with and stepped through as Create does, plus gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from engine.hardware import Hardware
from engine.memory.placement import Home, Placement
from engine.models.accelerate import TRAINED
from engine.models.band_encode import encode_picture_banded
from engine.models.cogvideox import OFFSET, CogVideoX
from engine.models.vae_encode import encode_picture
from engine.spec import ModelSpec
from training.data.buckets import WHOLE_PIXELS
from training.lora.config import TrainConfig
from training.lora.forecast import text_home


def precision_of(config: TrainConfig, machine: Hardware) -> str:
    """Of the arithmetic: the machine's usual one, unless one is asked for."""
    return config.precision if config.precision != "auto" else usual_precision(machine)


def usual_precision(machine: Hardware) -> str:
    """bf16 where the device computes it, else fp32."""
    return "bf16" if machine.bf16 else "fp32"


def load_base(spec: ModelSpec, config: TrainConfig, machine: Hardware, streamed: str = "", text: str = "") -> CogVideoX:
    """The transformer on the device; text encoder and VAE stay in their files until a preview or an encoding needs them.

    `streamed`: 'ram' or 'disk', where its blocks wait until they are needed; '' keeps them on the device. `text`: 'disk' has the text
    encoder's come one by one, where it does not fit whole beside the base (`Choice.text`).
    """
    dtype = precision_of(config, machine)
    waiting = Home(dtype, "staged", "disk")
    native = (spec.native_height, spec.native_width)
    stored = dtype if config.base == "same" else config.base
    pictures = config.method != "stage-two" and spec.modes[0] == "i2v" and config.image_noise and config.image_dropout < 1
    home = Home(stored, "streamed", streamed) if streamed else Home(stored, "resident")
    encoders = text_home(dtype, text), Home(dtype, "resident") if pictures else waiting
    placement = Placement(encoders[0], home, encoders[1], 1, "whole", "whole", native, "stock")
    model = CogVideoX(spec, dtype=dtype, device=machine.device, placement=placement, ways=TRAINED)
    model.components["transformer"].ready()
    return model


def first_frames(model: CogVideoX) -> Callable[[Tensor], Tensor]:
    """What encodes a first frame as Create does: moments (2 channels, 1, h, w) of (3, height, width) in -1..1."""
    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        large = picture.shape[1] * picture.shape[2] > WHOLE_PIXELS  # as the first frames of a set are encoded
        moments: Tensor = (encode_picture_banded if large else encode_picture)(model.components["vae"].ready(), picture)
        return moments[0]

    return encode


class Velocity:
    """The transformer as a differentiable function."""

    def __init__(self, model: CogVideoX) -> None:
        self.model = model
        self._tables: dict[tuple[int, ...], Any] = {}

    def __call__(self, noisy: Tensor, times: Tensor, text: Tensor, beside: Tensor | None = None) -> Tensor:
        """The prediction, float32, for `noisy` (B, latent frames, channels, height, width), `times` int64 (B,), `text` (B, L, D).

        `beside`: latents of the first frame and zeros, of the shape of `noisy`.
        """
        model = self.model
        kept = model.components["transformer"].dtype
        given = (noisy if beside is None else torch.cat([noisy, beside], dim=2)).to(kept)
        offset = noisy.new_full((1,), OFFSET, dtype=kept) if model.spec.takes_offset else None
        transformer = model.components["transformer"].ready()  # a streamed one rested while a preview was decoded
        with self._products(transformer, kept):
            out: Tensor = transformer(hidden_states=given, encoder_hidden_states=text.to(kept), timestep=times, ofs=offset,
                                      image_rotary_emb=self._rotary(tuple(noisy.shape)), return_dict=False)[0]
        return out.float()

    def _products(self, transformer: Any, kept: torch.dtype) -> Any:
        """Weights that are trained in full are float32; their products are of the run's precision all the same."""
        if transformer.time_embedding.linear_1.weight.dtype == kept:
            return nullcontext()
        return torch.autocast(self.model.device.type, kept)

    def _rotary(self, shape: tuple[int, ...]) -> Any:
        """Create's own tables. Made here: those of a preview were made without gradients and cannot be used with them."""
        key = shape[1:]
        if self.model.spec.position == "sincos":
            return None
        if key not in self._tables:
            self._tables[key] = self.model.rotary_for((1, *key))
        return self._tables[key]
