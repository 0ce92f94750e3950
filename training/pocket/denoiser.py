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
from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn
from torch.nn import functional

from . import world
from .captions import caption
from .latents import Cached, Shelf
from .reader import QUESTIONS, UNREAD, answers, reading_loss

SUBJECT_WEIGHT, EDGE_WEIGHT = 4.0, 6.0
"""How much more a latent cell weighs that a subject fills, and one that its outline halves."""
CAPTION_DROPOUT = 0.1
READING_SHARE, SKETCH_SHARE = 0.05, 0.1
"""Weights of the two helpers' losses beside the error of v."""
NOISE_CENTRE, NOISE_FOCUS = 0.72, 0.6
"""Where timesteps (as shares of 1000) are drawn most densely, and how much: 1 / (1 - 0.6) = 2.5 times as densely.

Between 600 and 850 a subject's place is settled and its shape is not: there the words matter most.
"""


def focus(u: Tensor) -> Tensor:
    """Warp uniform numbers in [0, 1] to draw more of them near NOISE_CENTRE; keeps 0, 1 and the order."""
    turn = 2 * torch.pi
    wave = torch.sin(turn * (u - NOISE_CENTRE)) + math.sin(turn * NOISE_CENTRE)
    return u - NOISE_FOCUS / turn * wave


@dataclass(frozen=True)
class DenoiserPhase:
    """A part of the stage: `steps` of about `tokens` latent tokens each.

    mix: (frames of the clip, first latent frames used, share of the steps).
    """

    steps: int
    tokens: int
    mix: tuple[tuple[int, int, float], ...]


PHASES = (
    DenoiserPhase(900, 6144, ((1, 1, 1.0),)),
    DenoiserPhase(300, 8064, ((25, 7, 0.75), (25, 3, 0.05), (1, 1, 0.2))),
    DenoiserPhase(1500, 8064, ((25, 7, 0.92), (25, 5, 0.02), (25, 3, 0.02), (49, 13, 0.04))),
)
ANIMATOR_PHASES = (DenoiserPhase(700, 10752, ((25, 7, 1.0),)),)
PICTURE_SHARE = 0.4
"""Share of clips that start from a picture, where image to video and text to video train as one."""
TEXT_LENGTHS = (0, 32, 48, 64, 226)
"""Padding is attended to, so the text is padded to several lengths; 0 means the longest caption of the batch,
which is cheapest, and 226 is the stock pipeline's default."""
TEXT_LENGTH_SHARES = (0.55, 0.1, 0.3, 0.03, 0.02)


DRAWN_MORE = {"star": 3.0, "triangle": 2.5, "square": 1.5, "spins": 2.0, "bounces": 1.5}
"""How much oftener clips of a shape, or of a motion, are drawn. Corners are what the latent's coarse cells give back least of: drawn
alike, stars came out as hearts when all other shapes were right, and triangles and squares next; what spins stood still the oftenest,
and what turns or changes its way shows its corners in one place for a frame or two only."""


@cache
def clip_shares(shelf: Shelf, seed: int) -> np.ndarray:
    """Chance of each clip of a shelf to be drawn, by its first subject's shape and its motion; float64 (clips,), adds up to 1."""
    scenes = (world.scene_at(shelf.seed(seed), row) for row in range(shelf.clips))
    weight = np.array([DRAWN_MORE.get(scene.subjects[0].shape, 1.0) * DRAWN_MORE.get(scene.motion, 1.0) for scene in scenes])
    return weight / weight.sum()


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


TIME_BIAS = {0: 5.0, 3: 4.0}
"""Block -> how strongly its attention is made to feel time from the start, see `tell_time`."""


@torch.no_grad()
def tell_time(transformer: nn.Module) -> None:
    """Make the second temporal frequency of the rotary code audible, in place.

    With heads of 32 channels time has four frequencies: 1, 0.1, 0.01 and 0.001 radians a latent frame. The first turns
    full circle in 6.28 frames, so that the first and the seventh (last) latent frame of a 25-frame clip look alike: trained
    without this, the network drew the subject at both ends of its path in both, while frames between were right. A
    constant in the query and one in the key, a quarter turn apart at 0.1 radians, make each video token's share of
    attention for text, and for what is later than itself, rise with its own time.
    """
    blocks: Any = transformer.transformer_blocks
    for number, strength in TIME_BIAS.items():
        if number >= len(blocks):
            continue
        attention = blocks[number].attn1
        attention.norm_q.bias[2] += strength
        attention.norm_k.bias[3] += strength


@dataclass(frozen=True)
class Batch:
    """latents: (B, f, C, h, w) scaled; cover: (B, f, 1, h, w), share of subject; ids: (B, L); t: (B,); noise as latents.

    answers: (B, questions), see `reader`. beside: (B, f, C or 0, h, w), the picture a clip starts from, where there is one.
    """

    latents: Tensor
    beside: Tensor
    cover: Tensor
    ids: Tensor
    answers: Tensor
    t: Tensor
    noise: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw_batch(shelves: Mapping[int, Cached], tokenizer, phase: DenoiserPhase, scale: float, *, seed: int, step: int,
               pictures: float = 0.0) -> Batch:
    """Everything random about a step, a pure function of (seed, step) and the cached clips.

    `pictures`: above 0 the batch is for image to video: the first frames of this share of the clips, each encoded by
    itself, stand beside the noise, and zeros beside that of the others.
    """
    rng = np.random.default_rng((seed, step))
    frames, used, _ = phase.mix[rng.choice(len(phase.mix), p=[m[2] for m in phase.mix])]
    cached = shelves[frames]
    size = max(1, phase.tokens // (used * 96))
    rows = rng.choice(cached.shelf.clips, size, p=clip_shares(cached.shelf, seed))
    scenes = [world.scene_at(cached.shelf.seed(seed), int(row)) for row in rows]
    silent = rng.random(size) < CAPTION_DROPOUT
    captions = ["" if quiet else caption(scene, rng) for scene, quiet in zip(scenes, silent, strict=True)]
    right = torch.tensor([[UNREAD] * len(QUESTIONS) if quiet else answers(scene) for scene, quiet in zip(scenes, silent, strict=True)])
    length = int(rng.choice(TEXT_LENGTHS, p=TEXT_LENGTH_SHARES))
    padding = {"padding": "max_length", "max_length": length, "truncation": True} if length else {"padding": "longest"}
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    latents = _drawn(cached.moments[rows][:, :, :, :used], generator) * scale
    beside = torch.zeros_like(latents)
    if pictures:  # the other frames of the picture's channels stay empty, as in diffusers' pipeline
        shown = torch.from_numpy(rng.random(size) < pictures).float().view(-1, 1, 1, 1, 1)
        beside[:, :1] = _drawn(cached.first[rows], generator) * scale * shown
    mask = cached.mask[rows][:, :used]
    u = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = (1000 * focus(u)).long().clamp(0, 999)
    noise = torch.randn(latents.shape, generator=generator)
    ids = tokenizer(captions, return_tensors="pt", **padding).input_ids
    return Batch(latents, beside if pictures else beside[:, :, :0], mask[:, :, None].float() / 255, ids, right, t, noise)


def _drawn(moments: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 2, C, f, h, w) means and deviations -> (B, f, C, h, w), one draw."""
    mean, deviation = moments.float().unbind(1)
    return (mean + torch.randn(mean.shape, generator=generator) * deviation).transpose(1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """Patches as the transformer's output has them: (B, f, C, h, w) -> (B, f * h/2 * w/2, C * 4)."""
    b, f, c, h, w = x.shape
    x = x.reshape(b, f, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(b, f * (h // 2) * (w // 2), c * 4)


def predict(transformer, noisy: Tensor, text: Tensor, t: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The transformer's forward pass, opened up: (v as tokens, video tokens halfway), (B, S, C * 4) and (B, S, width)."""
    emb = transformer.time_embedding(transformer.time_proj(t).to(noisy.dtype))
    tokens = transformer.patch_embed(text, noisy)
    text, video = tokens[:, : text.shape[1]], tokens[:, text.shape[1] :]
    middle = len(transformer.transformer_blocks) // 2
    halfway = video
    for number, block in enumerate(transformer.transformer_blocks):
        halfway = video if number == middle else halfway
        video, text = block(hidden_states=video, encoder_hidden_states=text, temb=emb, image_rotary_emb=rope)
    return transformer.proj_out(transformer.norm_out(transformer.norm_final(video), temb=emb)), halfway


def v_error(transformer, alphas: Tensor, batch: Batch, text: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, float, Tensor]:
    """(subject-weighted mean squared error of v, the plain one, video tokens halfway up).

    `alphas`: the scheduler's alphas_cumprod in fp32. Curves show the plain one, so that different weightings compare.
    """
    a = alphas[batch.t].view(-1, 1, 1, 1, 1)
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    target = to_tokens(a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents)
    output, halfway = predict(transformer, torch.cat([noisy, batch.beside], dim=2), text, batch.t, rope)
    weight = to_tokens(emphasis(batch.cover))
    error = (output.float() - target).square()
    weighted = weight.repeat(1, 1, batch.latents.shape[2]) * error
    return weighted.mean() / weight.mean(), float(error.detach().mean()), halfway


def emphasis(cover: Tensor) -> Tensor:
    """Weight of a latent cell's error, of its share of subject: 1 outside, 1 + SUBJECT_WEIGHT inside, more on the outline.

    Which shape a subject has shows in the cells its outline crosses, a few in a hundred of all.
    """
    return 1 + SUBJECT_WEIGHT * cover + EDGE_WEIGHT * 4 * cover * (1 - cover)


def v_loss(model: nn.ModuleDict, alphas: Tensor, batch: Batch, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, dict]:
    """The error of v and the helpers' losses, for the transformer and the text encoder together."""
    text = model["text_encoder"](batch.ids).last_hidden_state
    reading, facts = reading_loss(model["reading"], text, batch.answers)
    loss, plain, halfway = v_error(model["transformer"], alphas, batch, text, rope)
    sketch = sketch_loss(model["sketch"], halfway, batch)
    return loss + READING_SHARE * reading + SKETCH_SHARE * sketch, facts | {"v_mse": plain, "sketch": float(sketch.detach())}


def sketch_loss(head: nn.Module, halfway: Tensor, batch: Batch) -> Tensor:
    """How badly the tokens halfway up tell, through a linear head, how much of each cell the subject covers."""
    return functional.binary_cross_entropy_with_logits(head(halfway).float(), to_tokens(batch.cover))
