"""CogVideoX 1.0 and 1.5, every mode: diffusers' modules behind the `VideoModel` protocol.

Follows diffusers' pipelines number for number; where it is faster, it is so without changing a bit (tests compare).
Paper: https://arxiv.org/abs/2408.06072
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5EncoderModel

from engine.errors import OutputRejected
from engine.interpolate import community
from engine.memory import Placement, everywhere
from engine.models import (
    accelerate,
    attention,
    band_decode,
    band_encode,
    chunked,
    conditioning,
    text_encode,
    tile_decode,
    vae_decode,
    vae_encode,
)
from engine.models.bands import giving_back
from engine.models.component import DTYPES, Component
from engine.models.family import Stepper
from engine.models.lora import LoraStack
from engine.models.steps import DdimSteps, DpmSteps
from engine.spec import ModelSpec

KINDS = {"text_encoder": T5EncoderModel, "transformer": CogVideoXTransformer3DModel, "vae": AutoencoderKLCogVideoX}
OFFSET = 2.0
"""`ofs` of every published image-to-video clip with CogVideoX 1.5."""


class CogVideoX:
    """One loaded checkpoint. Owns its weights; `close()` lets them go."""

    def __init__(self, spec: ModelSpec, *, dtype: str, device: str, placement: Placement | None = None,
                 ways: accelerate.Ways = accelerate.STOCK) -> None:
        """Load `spec` for arithmetic in `dtype` on `device`. Raises `ModelInvalid` for missing, misshapen or non-finite weights.

        `placement`: where and how each component is kept, and how the transformer works; None: all on the device, as they are.
        `ways`: how attention and blocks are computed; raises `InvalidRequest` for a kernel that was asked for and fails here.
        """
        self.spec, self.dtype, self.device = spec, DTYPES[dtype], torch.device(device)
        placement = placement or everywhere(dtype, "resident", (spec.native_height, spec.native_width), tiled=False)
        self.tokenizer = text_encode.load_tokenizer(spec)
        self.components: dict[str, Component] = {}
        with ExitStack() as loaded:  # a part that cannot be loaded leaves none of the others behind
            for part, home in placement.homes.items():
                self.components[part] = Component(KINDS[part], spec.path / part, part, home, dtype, self.device,
                                                   trained=ways.untouched)
                loaded.callback(self.components[part].close)
            loaded.pop_all()
        self.text_encoder, self.transformer, self.vae = (self.components[part].module for part in KINDS)
        self._rotary: tuple[tuple[int, ...], Tensor | attention.Rotary] | None = None
        self._complex_rotary = False
        self._lean_tried = False
        picture = (1, spec.patch_size_t or 1, spec.latent_channels, self.transformer.config.sample_height,
                   self.transformer.config.sample_width)
        rotary = None if spec.position == "sincos" else self._new_rotary_table(picture)
        home = placement.transformer
        self._complex_rotary = accelerate.prepare(self.transformer, ways, rotary, device=self.device, dtype=self.dtype,
                                                  staged=home.residency != "resident", stored=home.precision != dtype)
        self._no_text: Tensor | None = None
        self.loras = LoraStack(self.transformer, spec, self.dtype, self.device)
        self.arrange(placement)

    def arrange(self, placement: Placement) -> None:
        """How the transformer works from now on: its feed-forward whole or in chunks, guidance in one batch or two passes."""
        self.passes = placement.passes
        (chunked.use_chunks if placement.feed_forward == "chunked" else chunked.use_whole)(self.transformer)

    def close(self) -> None:
        """Drop the weights; the object must not be used after."""
        self.loras.close()
        for component in self.components.values():
            component.close()
        del self.text_encoder, self.transformer, self.vae, self.loras
        self._rotary = self._no_text = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def at_work(self, part: str) -> Any:
        """The component, at work; those that are not at home on the device leave it first."""
        for other, component in self.components.items():
            if other != part:
                component.rest()
        return self.components[part].ready()

    def encode(self, prompt: str, negative: str | None) -> Tensor:
        """(1 or 2, max_text_tokens, text_width): negative first, then the prompt; only the prompt for None.

        Raises `InvalidRequest` if either has more tokens than the model reads; nothing is cut off silently.
        """
        if negative is None:
            return self._encode_one("prompt", prompt)
        if negative:
            without = self._encode_one("negative", negative)
        else:
            # Nearly every request leaves it empty, and its encoding never changes.
            if self._no_text is None:
                self._no_text = self._encode_one("negative", "")
            without = self._no_text
        return torch.cat([without, self._encode_one("prompt", prompt)])

    @torch.inference_mode()
    def _encode_one(self, field: str, text: str) -> Tensor:
        ids = text_encode.token_ids(self.tokenizer, text, self.spec, field).to(self.device)
        return text_encode.encoded(self.at_work("text_encoder"), ids, self.dtype)

    def initial_latents(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Where words alone start."""
        return conditioning.from_noise(shape, self.dtype, self.device, generator)

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray, tile: tuple[int, int], how: str = "whole") -> Iterator[tuple[int, Tensor]]:
        """(frames read so far, moments) of uint8 `frames` (F, height, width, 3), chunk after chunk. `how`: as for `decode`.

        What is decoded tile by tile is encoded in bands: exactly, and in less memory than in tiles.
        """
        vae = self.at_work("vae")
        banded = how in ("banded", "by-tile")
        chunks = band_encode.encode_banded(vae, frames) if banded else vae_encode.encode_chunks(vae, frames, tile)
        yield from giving_back(chunks, self.device)

    @torch.inference_mode()
    def image_beside(self, moments: list[Tensor], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What `predict` takes beside latents of `shape`, from all moments of one picture."""
        return conditioning.beside_noise(vae_encode.drawn(moments, generator).to(self.dtype), self.spec, shape)

    @torch.inference_mode()
    def shown_beside(self, moments: list[list[Tensor]], known: Sequence[int], frames: int, shape: tuple[int, ...],
                     generator: torch.Generator) -> Tensor:
        """What `predict` takes beside latents of `shape` where the model is shown frames, see `VideoModel`."""
        if self.spec.shown == "ends":
            latents = [vae_encode.drawn(part, generator).to(self.dtype)[:, :, 0] for part in moments]
            scale = 1 / self.spec.scaling_factor if self.spec.invert_scale_latents else self.spec.scaling_factor
            return community.first_and_last(scale * latents[0], scale * latents[1], shape[1])
        video = [torch.cat(part, dim=2)[:, : self.spec.latent_channels].to(self.dtype) for part in moments]
        beside = community.mask_and_video(video[0] if video else None, known, frames, shape, self.spec.scaling_factor)
        return beside.to(self.device, self.dtype)

    @torch.inference_mode()
    def video_latents(self, moments: list[Tensor], shape: tuple[int, ...], stepper: conditioning.Noising,
                      generator: torch.Generator) -> Tensor:
        """Where a video starts, from all its moments."""
        return conditioning.from_video(vae_encode.drawn(moments, generator).to(self.dtype), self.spec, shape, stepper, generator)

    @torch.inference_mode()
    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor, beside: Tensor | None = None) -> Tensor:
        """float32 (rows of text, frames, channels, height, width): the velocity of `latents` at `timestep`.

        `beside`: what `image_beside` or `shown_beside` gave.
        """
        given = latents if beside is None else torch.cat([latents, beside], dim=2)
        transformer, kept = self.at_work("transformer"), self.components["transformer"].dtype
        offset = latents.new_full((1,), OFFSET, dtype=kept) if self.spec.takes_offset else None
        velocities = []
        for rows in text.to(kept).chunk(self.passes):  # each pass meets all weights: one for both halves, if memory allows
            batch = (given if len(rows) == 1 else torch.cat([given] * len(rows))).to(kept)
            velocities.append(transformer(hidden_states=batch, encoder_hidden_states=rows, timestep=timestep.expand(len(rows)), ofs=offset,
                                          image_rotary_emb=self.rotary_table(latents.shape), return_dict=False)[0].float())
        self.loras.check()
        return velocities[0] if len(velocities) == 1 else torch.cat(velocities)

    def rotary_table(self, shape: tuple[int, ...]) -> Tensor | attention.Rotary | None:
        """Rotations of the video tokens for latents of this shape; kept for the next step."""
        if self.spec.position == "sincos":
            return None
        if self._rotary is None or self._rotary[0] != tuple(shape):
            self._rotary = (tuple(shape), self.rotary_for(shape))
        return self._rotary[1]

    def rotary_for(self, shape: tuple[int, ...]) -> Tensor | attention.Rotary:
        """The same, made anew: what a step made without gradients cannot be used with them. Not for `position` 'sincos'."""
        table = self._new_rotary_table(shape)
        return attention.as_complex(table) if self._complex_rotary else table

    def _new_rotary_table(self, shape: tuple[int, ...]) -> attention.Rotary:
        """Cosines and sines, float32 (video tokens, head width)."""
        config, patch, patch_t = self.transformer.config, self.spec.patch_size, self.spec.patch_size_t
        frames, height, width = shape[1], shape[3] // patch, shape[4] // patch
        native = (config.sample_height // patch, config.sample_width // patch)
        common = {"embed_dim": config.attention_head_dim, "grid_size": (height, width), "device": self.device}
        if patch_t is not None:
            return get_3d_rotary_pos_embed(**common, crops_coords=None, temporal_size=(frames + patch_t - 1) // patch_t,
                                           grid_type="slice", max_size=native)
        return get_3d_rotary_pos_embed(**common, crops_coords=_crop((height, width), native), temporal_size=frames)

    def scheduler(self, name: str, steps: int, *, run: int | None = None, eta: float = 0.0) -> Stepper:
        """'dpm' or 'ddim' with the checkpoint's own noise schedule, set to `steps` steps.

        `run`: only the last so many of them, for a video that is changed. `eta`: see `DdimSteps`; nothing for dpm.
        """
        kind = CogVideoXDPMScheduler if name == "dpm" else CogVideoXDDIMScheduler
        scheduler = kind.from_pretrained(self.spec.path / "scheduler", local_files_only=True)
        count = steps if run is None else run
        if name == "dpm":
            return DpmSteps(scheduler, steps, count, self.device)
        return DdimSteps(scheduler, steps, count, self.device, eta)

    @torch.inference_mode()
    def decode(self, latents: Tensor, tile: tuple[int, int], how: str = "whole") -> Iterator[Tensor]:
        """Chunks (frames, height, width, 3) uint8 on the CPU. `latents` without padding frames.

        `how`: as in `Placement.decode`; 'by-tile' gives chunks of no frames until all tiles are done.
        """
        scaled = 1 / self.spec.scaling_factor * latents.permute(0, 2, 1, 3, 4)
        vae, kept = self.at_work("vae"), self.components["vae"].dtype
        if how in ("whole", "tiled"):
            self.make_lean(vae)
        for chunk in giving_back(decoded(vae, scaled.to(kept), tile, how), self.device):
            if not torch.isfinite(chunk).all():
                raise OutputRejected("the decoder made numbers that are not finite (NaN). Likely cause: damaged weights "
                                     "of the VAE, or guidance far above this model's own.")
            yield pixels_of(chunk).cpu()

    def make_lean(self, vae: Any) -> None:
        """The decoder faster, where that gives the same picture; tried once, and only when it is about to decode, as it needs numbers."""
        if not self._lean_tried:
            vae_decode.speed_up(vae, self.spec.latent_channels)
            self._lean_tried = True


def pixels_of(chunk: Tensor) -> Tensor:
    """(frames, height, width, 3) uint8 of a chunk (1, 3, frames, height, width) in -1..1.

    The order of roundings is diffusers' own: 0..1 in the model's dtype, then float32, then 8 bit.
    """
    unit = (chunk[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).float()
    return (unit * 255).round().to(torch.uint8)


def decoded(vae: Any, latents: Tensor, tile: tuple[int, int], how: str) -> Iterator[Tensor]:
    """Chunks (1, 3, frames, height, width) of `latents` (1, channels, frames, height, width), decoded as `how` says."""
    if how == "banded":
        return band_decode.decode_banded(vae, latents)
    if how == "by-tile":
        return tile_decode.decode_by_tile(vae, latents, tile)
    return vae_decode.decode_chunks(vae, latents, tile)


def _crop(size: tuple[int, int], native: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left), (bottom, right) of the native grid that a grid of `size` covers: same shape, fitted, centred.

    As `get_resize_crop_region_for_grid` in diffusers' pipeline, whose module would load every pipeline's imports.
    """
    (height, width), (full_height, full_width) = size, native
    if height / width > full_height / full_width:
        fitted = (full_height, round(full_height / height * width))
    else:
        fitted = (round(full_width / width * height), full_width)
    top, left = round((full_height - fitted[0]) / 2.0), round((full_width - fitted[1]) / 2.0)
    return (top, left), (top + fitted[0], left + fitted[1])

