"""Stage 4: the transformer and the text encoder, together, on cached latents.

The objective is the mean squared error of v, in fp32, with the scheduler's own table. Each
latent cell is weighted by its share of subject: that leaves the optimum where it is, and
keeps the background, which fills the frame, from owning the gradient. Two small helpers are
trained along and not released: the encoder goes on answering questions about the sentence
(`reader`), and halfway up the transformer each video token says how much of it the subject
covers, so that placing and outlining come before painting (compare REPA, Yu et al. 2024, which
aligns inner layers with features of another network).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn
from torch.nn import functional

from . import world
from .captions import caption
from .latents import Cached
from .reader import QUESTIONS, UNREAD, answers, reading_loss

SUBJECT_WEIGHT = 4.0
CAPTION_DROPOUT = 0.1
READING_SHARE, SKETCH_SHARE = 0.05, 0.1
"""Weights of the two helpers' losses beside the error of v."""
NOISE_CENTRE, NOISE_FOCUS = 0.65, 0.6
"""Where timesteps (as shares of 1000) are drawn most densely, and how much: 1 / (1 - 0.6) = 2.5 times as densely.

Between 500 and 800 a subject's place is settled and its shape is not: there the words matter most.
"""


def focus(u: Tensor) -> Tensor:
    """Warp uniform numbers in [0, 1] to draw more of them near NOISE_CENTRE; keeps 0, 1 and the order."""
    turn = 2 * torch.pi
    wave = torch.sin(turn * (u - NOISE_CENTRE)) + math.sin(turn * NOISE_CENTRE)
    return u - NOISE_FOCUS / turn * wave


@dataclass(frozen=True)
class DenoiserPhase:
    """A part of the stage: `steps` of about `tokens` latent tokens each.

    mix: (frames of the clip, first latent frames used, share of the steps). keep: share of each
    clip's tokens that the network sees, those of the subject first (see `choose_tokens`).
    """

    steps: int
    tokens: int
    mix: tuple[tuple[int, int, float], ...]
    keep: float = 1.0


PHASES = (
    DenoiserPhase(900, 6144, ((1, 1, 1.0),)),
    DenoiserPhase(500, 6912, ((25, 7, 0.6), (25, 3, 0.2), (1, 1, 0.2)), 0.5),
    DenoiserPhase(750, 8064, ((25, 7, 0.75), (25, 5, 0.1), (25, 3, 0.1), (49, 13, 0.05))),
)
TEXT_LENGTHS = (0, 32, 48, 64, 226)
"""Padding is attended to, so the text is padded to several lengths; 0 means the longest caption of the batch,
which is cheapest, and 226 is the stock pipeline's default."""
TEXT_LENGTH_SHARES = (0.55, 0.1, 0.3, 0.03, 0.02)


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


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions. x: (B, heads, S, D); cos and sin: (S, D), or (B, 1, S, D) where clips differ."""
    cos, sin = rope
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return x.float() * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


class BatchedAttention:
    """Attention as explicit matrix products: exact, and about 3x as fast as the fused CPU kernel in bf16."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, attn.heads, -1).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q).to(v.dtype), attn.norm_k(k).to(v.dtype)
        q = torch.cat([q[:, :, :text], rotate(q[:, :, text:], image_rotary_emb)], dim=2).to(v.dtype)
        k = torch.cat([k[:, :, :text], rotate(k[:, :, text:], image_rotary_emb)], dim=2).to(v.dtype)
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1, dtype=v.dtype)
        x = (weights @ v).transpose(1, 2).reshape(b, n, -1)
        x = attn.to_out[1](attn.to_out[0](x))
        return x[:, text:], x[:, :text]


@dataclass(frozen=True)
class Batch:
    """latents: (B, f, C, h, w) scaled; cover: (B, f, 1, h, w), share of subject; ids: (B, L); t: (B,); noise as latents.

    answers: (B, questions), see `reader`. kept: (B, K) numbers of the tokens that the network sees.
    """

    latents: Tensor
    cover: Tensor
    ids: Tensor
    answers: Tensor
    t: Tensor
    noise: Tensor
    kept: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw_batch(shelves: Mapping[int, Cached], tokenizer, phase: DenoiserPhase, scale: float, *, seed: int, step: int) -> Batch:
    """Everything random about a step, a pure function of (seed, step) and the cached clips."""
    rng = np.random.default_rng((seed, step))
    frames, used, _ = phase.mix[rng.choice(len(phase.mix), p=[m[2] for m in phase.mix])]
    cached = shelves[frames]
    size = max(1, int(phase.tokens / (used * 96 * phase.keep)))
    rows = rng.integers(0, len(cached.moments), size)
    scenes = [world.scene_at(cached.shelf.seed(seed), int(row)) for row in rows]
    silent = rng.random(size) < CAPTION_DROPOUT
    captions = ["" if quiet else caption(scene, rng) for scene, quiet in zip(scenes, silent, strict=True)]
    right = torch.tensor([[UNREAD] * len(QUESTIONS) if quiet else answers(scene) for scene, quiet in zip(scenes, silent, strict=True)])
    length = int(rng.choice(TEXT_LENGTHS, p=TEXT_LENGTH_SHARES))
    padding = {"padding": "max_length", "max_length": length, "truncation": True} if length else {"padding": "longest"}
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    moments = cached.moments[rows][:, :, :, :used].float()
    draw = torch.randn(moments[:, 0].shape, generator=generator)
    latents = ((moments[:, 0] + draw * moments[:, 1]) * scale).transpose(1, 2)
    mask = cached.mask[rows][:, :used]
    u = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = (1000 * focus(u)).long().clamp(0, 999)
    noise = torch.randn(latents.shape, generator=generator)
    ids = tokenizer(captions, return_tensors="pt", **padding).input_ids
    return Batch(latents, mask[:, :, None].float() / 255, ids, right, t, noise, choose_tokens(mask, phase.keep, generator))


def choose_tokens(mask: Tensor, keep: float, generator: torch.Generator) -> Tensor:
    """Which tokens of each clip to train on: int64 (B, K).

    mask: (B, f, h, w) uint8, share of subject. Tokens of the subject come first, then those
    around it, then any. Attention is a sum over a set, so a subset is a cheaper sample of the
    same problem; the last phase sees all tokens again.
    """
    if keep >= 1:
        return torch.arange(mask[0].numel() // 4).expand(len(mask), -1)
    subject = functional.max_pool2d((mask > 0).float(), 2)
    around = functional.max_pool2d(subject, 3, stride=1, padding=1)
    score = (subject + around).flatten(1)
    score = score + torch.rand(score.shape, generator=generator)
    return score.topk(round(keep * score.shape[1]), dim=1).indices.sort(dim=1).values


def to_tokens(x: Tensor) -> Tensor:
    """Patches as the transformer's output has them: (B, f, C, h, w) -> (B, f * h/2 * w/2, C * 4)."""
    b, f, c, h, w = x.shape
    x = x.reshape(b, f, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(b, f * (h // 2) * (w // 2), c * 4)


def pick(tokens: Tensor, kept: Tensor) -> Tensor:
    """(B, S, D), (B, K) -> (B, K, D)."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def predict_kept(transformer, noisy: Tensor, text: Tensor, t: Tensor, rope: tuple[Tensor, Tensor], kept: Tensor):
    """The transformer's forward pass over the kept tokens only: (v, halfway), (B, K, C * 4) and (B, K, width)."""
    emb = transformer.time_embedding(transformer.time_proj(t).to(noisy.dtype))
    tokens = transformer.patch_embed(text, noisy)
    text, video = tokens[:, : text.shape[1]], pick(tokens[:, text.shape[1] :], kept)
    places = (rope[0][kept][:, None], rope[1][kept][:, None])
    middle = len(transformer.transformer_blocks) // 2
    halfway = video
    for number, block in enumerate(transformer.transformer_blocks):
        halfway = video if number == middle else halfway
        video, text = block(hidden_states=video, encoder_hidden_states=text, temb=emb, image_rotary_emb=places)
    return transformer.proj_out(transformer.norm_out(transformer.norm_final(video), temb=emb)), halfway


def v_loss(model: nn.ModuleDict, alphas: Tensor, batch: Batch, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, dict]:
    """Weighted mean squared error of v, and the helpers' losses. `alphas`: the scheduler's alphas_cumprod in fp32."""
    a = alphas[batch.t].view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    target = pick(to_tokens(a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents), batch.kept)
    cover = pick(to_tokens(batch.cover), batch.kept)
    text = model["text_encoder"](batch.ids).last_hidden_state
    reading, facts = reading_loss(model["reading"], text, batch.answers)
    output, halfway = predict_kept(model["transformer"], noisy, text, batch.t, rope, batch.kept)
    sketch = functional.binary_cross_entropy_with_logits(model["sketch"](halfway).float(), cover)
    weight = (1 + SUBJECT_WEIGHT * cover).repeat(1, 1, batch.latents.shape[2])
    error = (output.float() - target).square()
    loss = (weight * error).mean() / (1 + SUBJECT_WEIGHT * batch.cover.mean()) + READING_SHARE * reading + SKETCH_SHARE * sketch
    # Unweighted, so that curves of different weightings compare.
    return loss, facts | {"v_mse": float(error.detach().mean()), "sketch": float(sketch.detach())}
