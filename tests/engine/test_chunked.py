"""Chunked blocks give what stock blocks give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from engine.models.attention import as_complex
from engine.models.chunked import use_chunks, use_whole
from tests.engine.tiny import TRANSFORMERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(TRANSFORMERS))
@torch.inference_mode()
def test_chunked_blocks(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=32, num_layers=3,
        sample_width=12, sample_height=8, sample_frames=9, max_text_seq_length=16, **TRANSFORMERS[kind]).eval().to(dtype)
    frames, patch = (4, 2) if kind == "1.5" else (3, 1)
    rotary = None if kind == "sincos" else get_3d_rotary_pos_embed(16, ((0, 0), (4, 6)), (4, 6), frames // patch)
    latents, text = torch.randn(2, frames, 4, 8, 12, dtype=dtype), torch.randn(2, 16, 32, dtype=dtype)

    def step(table: Any) -> torch.Tensor:
        return model(hidden_states=latents.clone(), encoder_hidden_states=text.clone(), timestep=torch.tensor([500, 30]),
                     image_rotary_emb=table, return_dict=False)[0]

    stock = step(rotary)
    use_chunks(model, tokens=5)
    assert (step(rotary) - stock).abs().max() <= 1e-5
    if rotary is not None:
        assert (step(as_complex(rotary)) - stock).abs().max() <= 1e-5
    use_whole(model)
    assert torch.equal(step(rotary), stock)
