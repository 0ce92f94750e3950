"""Memory of one denoising step beside the weights.

A map is every token of the batch at the full width: n d numbers a row, n = video + text tokens.
    whole      12 maps of the batch at the feed-forward's activation: the residual and its text part's copy (1), the normed
               input (1), the joint input (1), the inner width before and after the activation (4 + 4), and the residual's
               predecessor (1). With diffusers' rotary embedding 13, in attention: it turns queries in float32.
    chunked    the residual of the whole batch, and 5.15 maps of one row in attention (q, k, v, the result, its product)
Latents, text and timestep embeddings come on top, and what a cache keeps between steps (`KEPT_MAPS`).
"""

from __future__ import annotations

from engine.memory.placement import NUMBER_BYTES, Placement
from engine.memory.shapes import Shape, latent_frames, tokens
from engine.spec import ModelSpec

WHOLE_MAPS = {"sincos": 12.0, "rope": 13.0, "learned": 13.0}
ROW_MAPS = 5.15
KEPT_MAPS = {"off": 0.0, "first-block": 2.0, "magcache": 0.0, "taylorseer": 0.0}
"""Maps a row kept between steps or copied for comparing; pab keeps one for every block. The caches that predict the clean
latents keep nothing of that size."""


def sample_bytes(spec: ModelSpec, shape: Shape, compute: str, placement: Placement) -> int:
    """Highest live bytes of one step, weights apart."""
    number = NUMBER_BYTES[compute]
    batch = 2 if shape.guided and placement.passes == 1 else 1
    row = tokens(spec, shape) * spec.width * number
    maps = batch + ROW_MAPS if placement.feed_forward == "chunked" else batch * WHOLE_MAPS[spec.position]
    sampled, _ = latent_frames(spec, shape.frames)
    latents = number * sampled * spec.latent_channels * shape.height * shape.width // spec.spatial_scale**2
    text = batch * spec.max_text_tokens * spec.text_width * number
    tables = 0 if spec.position == "sincos" else 2 * 4 * (tokens(spec, shape) - spec.max_text_tokens) * spec.width // spec.heads
    # State, prediction of each half, the scheduler's history and its result; half of them in float32.
    kept = (spec.layers if shape.cache == "pab" else KEPT_MAPS[shape.cache]) * (2 if shape.guided else 1)
    return int((maps + kept) * row) + (6 + 2 * batch) * latents + text + tables
