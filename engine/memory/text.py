"""Memory of the text encoder beside its weights: T5 reads one text at a time."""

from __future__ import annotations

from engine.memory.placement import NUMBER_BYTES
from engine.spec import ModelSpec

MAPS = 17.5
"""At the gated feed-forward: two inner widths of 2.5 maps, their product, the residual, and the position bias of all heads."""


def encode_bytes(spec: ModelSpec, compute: str) -> int:
    """Highest live bytes while one text is encoded, weights apart, and the result for both halves of guidance."""
    return int((MAPS + 1) * spec.max_text_tokens * spec.text_width * NUMBER_BYTES[compute])
