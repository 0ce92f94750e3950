"""CogVideoX's joint attention with the rotary embedding as one complex product per number pair.

Stock code turns a pair (x, y) by building (-y, x), two products and a sum, each over a full-size float copy. The complex
product (x + iy)(cos + i sin) makes the same two products and the same sum per number, in one pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Rotary = tuple[Tensor, Tensor]


class ComplexRotaryAttention:
    """Takes the place of `CogVideoXAttnProcessor2_0`; `image_rotary_emb` is what `as_complex` gives, or None."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
                 attention_mask: Tensor | None = None, image_rotary_emb: Tensor | None = None) -> tuple[Tensor, Tensor]:
        text = encoder_hidden_states.shape[1]
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (layer(joint).unflatten(2, (attn.heads, -1)).transpose(1, 2)
                             for layer in (attn.to_q, attn.to_k, attn.to_v))
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            for vectors in (query, key):
                _turn(vectors[:, :, text:], image_rotary_emb)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out = attn.to_out[1](attn.to_out[0](seen.transpose(1, 2).flatten(2)))
        return out[:, text:], out[:, :text]


def _turn(vectors: Tensor, rotary: Tensor) -> None:
    """Rotate every pair of `vectors` (batch, heads, tokens, width) in place by `rotary` (tokens, width / 2), complex."""
    pairs = torch.view_as_complex(vectors.float().unflatten(3, (-1, 2)).contiguous())
    vectors.copy_(torch.view_as_real(pairs.mul_(rotary)).flatten(3))


def as_complex(rotary: Rotary) -> Tensor:
    """cos + i sin, complex64 (tokens, width / 2), from diffusers' tables (tokens, width), where each value stands twice."""
    cos, sin = rotary
    return torch.complex(cos[:, ::2].contiguous(), sin[:, ::2].contiguous())


@torch.inference_mode()
def speed_up(transformer: Any, rotary: Rotary) -> bool:
    """Use `ComplexRotaryAttention` in `transformer` if it gives the very same bits on this machine; says whether it does.

    `rotary`: the tables of a real clip. Whether a multiply-add is fused depends on the processor, so it is tried.
    """
    attn = transformer.transformer_blocks[0].attn1
    weight = attn.to_q.weight
    generator = torch.Generator().manual_seed(0)
    text, video = (torch.randn(2, n, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
                   for n in (3, len(rotary[0])))
    expected = attn(video, encoder_hidden_states=text, image_rotary_emb=rotary)
    stock = transformer.attn_processors
    transformer.set_attn_processor(ComplexRotaryAttention())
    given = attn(video, encoder_hidden_states=text, image_rotary_emb=as_complex(rotary))
    if all(torch.equal(a, b) for a, b in zip(given, expected, strict=True)):
        return True
    transformer.set_attn_processor(stock)
    return False
