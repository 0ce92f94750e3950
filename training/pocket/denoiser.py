"""Stage 3: the transformer and the text encoder, together, on cached latents.

The objective is the mean squared error of v, in fp32, with the scheduler's own table. Each
latent cell is weighted by its share of subject: that leaves the optimum where it is, and
keeps the background, which fills the frame, from owning the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn

from . import world
from .captions import caption
from .latents import Cached
from .models import TEXT_TOKENS

SUBJECT_WEIGHT = 4.0
CAPTION_DROPOUT = 0.1
NOISE_EMPHASIS = 0.7
"""Timesteps are 1000 * u ** this, u uniform: below 1 favours high noise, where the layout is decided."""


@dataclass(frozen=True)
class DenoiserPhase:
    """A part of the stage: `steps` of about `tokens` latent tokens each.

    mix: (frames of the clip, first latent frames used, share of the steps).
    """

    steps: int
    tokens: int
    mix: tuple[tuple[int, int, float], ...]


PHASES = (
    DenoiserPhase(500, 6144, ((1, 1, 1.0),)),
    DenoiserPhase(1300, 6912, ((9, 3, 0.85), (1, 1, 0.15))),
    DenoiserPhase(1800, 8064, ((25, 7, 0.8), (9, 3, 0.1), (17, 5, 0.04), (33, 9, 0.03), (49, 13, 0.03))),
)
TEXT_LENGTHS = (32, 48, 48, 48, 48, 48, 64, 226)
"""Padding is attended to, so the text is padded to several lengths; 226 is the stock pipeline's default."""
TEXT_LENGTH_SHARES = (0.25, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.05)


def phase_at(step: int, phases: tuple[DenoiserPhase, ...]) -> DenoiserPhase:
    for phase in phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return phases[-1]


def rotary(latent_frames: int, *, head_dim: int, height: int = 16, width: int = 24) -> tuple[Tensor, Tensor]:
    """cos and sin for a latent grid, as the stock pipeline makes them at the pocket's native size."""
    rows, columns = height // 2, width // 2
    crops = get_resize_crop_region_for_grid((rows, columns), columns, rows)
    return get_3d_rotary_pos_embed(embed_dim=head_dim, crops_coords=crops, grid_size=(rows, columns), temporal_size=latent_frames)


class BatchedAttention:
    """Attention as explicit matrix products: exact, and about 3x as fast as the fused CPU kernel in bf16."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, attn.heads, -1).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q).to(v.dtype), attn.norm_k(k).to(v.dtype)
        q = torch.cat([q[:, :, :text], apply_rotary_emb(q[:, :, text:], image_rotary_emb)], dim=2).to(v.dtype)
        k = torch.cat([k[:, :, :text], apply_rotary_emb(k[:, :, text:], image_rotary_emb)], dim=2).to(v.dtype)
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1, dtype=v.dtype)
        x = (weights @ v).transpose(1, 2).reshape(b, n, -1)
        x = attn.to_out[1](attn.to_out[0](x))
        return x[:, text:], x[:, :text]


@dataclass(frozen=True)
class Batch:
    """latents: (B, f, C, h, w) scaled; weight: (B, f, 1, h, w), mean 1; ids: (B, L); t: (B,); noise as latents."""

    latents: Tensor
    weight: Tensor
    ids: Tensor
    t: Tensor
    noise: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw_batch(shelves: Mapping[int, Cached], tokenizer, phase: DenoiserPhase, scale: float, *, seed: int, step: int) -> Batch:
    """Everything random about a step, a pure function of (seed, step) and the cached clips."""
    rng = np.random.default_rng((seed, step))
    frames, used, _ = phase.mix[rng.choice(len(phase.mix), p=[m[2] for m in phase.mix])]
    cached = shelves[frames]
    size = max(1, phase.tokens // (used * 96))
    rows = rng.integers(0, len(cached.moments), size)
    captions = []
    for row in rows:
        scene = world.scene_at(cached.shelf.seed(seed), int(row))
        captions.append("" if rng.random() < CAPTION_DROPOUT else caption(scene, rng))
    length = int(rng.choice(TEXT_LENGTHS, p=TEXT_LENGTH_SHARES))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    moments = cached.moments[rows][:, :, :, :used].float()
    draw = torch.randn(moments[:, 0].shape, generator=generator)
    latents = ((moments[:, 0] + draw * moments[:, 1]) * scale).transpose(1, 2)
    weight = 1 + SUBJECT_WEIGHT * cached.mask[rows][:, :used, None].float() / 255
    u = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = (1000 * u**NOISE_EMPHASIS).long().clamp(max=999)
    noise = torch.randn(latents.shape, generator=generator)
    ids = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return Batch(latents, weight / weight.mean(), ids, t, noise)


def v_loss(model: nn.ModuleDict, alphas: Tensor, batch: Batch, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, dict]:
    """Weighted mean squared error of v. `alphas`: the scheduler's alphas_cumprod in fp32."""
    a = alphas[batch.t].view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    target = a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents
    text = model["text_encoder"](batch.ids).last_hidden_state
    output = model["transformer"](noisy, text, batch.t, image_rotary_emb=rope, return_dict=False)[0]
    error = (output.float() - target).square()
    # Unweighted, so that curves of different weightings compare; by clip length, since they differ.
    return (batch.weight * error).mean(), {"v_mse": float(error.detach().mean())}


assert max(TEXT_LENGTHS) >= TEXT_TOKENS
