"""CogVideoX's transformer blocks with a third of the memory: one row of the batch at a time, feed-forward in chunks, in place.

Stock blocks keep about twelve maps of the whole batch at once (a map: every token, the full width), most of them for the
feed-forward's inner width of four maps. Here the residual is updated in place, attention takes one row (one half of
guidance) after the other, and the feed-forward a few thousand tokens at a time. Each row and chunk is large enough to keep
a GPU busy, and each weight is still read from one place, once for both halves.

The products and sums of a number are stock's, in stock's order (a test compares); what differs is only how many rows a matrix product
gets at once, which some kernels round differently.

Not together with caches that compare a block's input with its output: the input is overwritten.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from engine.models.attention import attend_of

FEED_FORWARD_TOKENS = 2048
"""Tokens whose inner width is in memory at once: 2 x 4 x 3072 x 2048 x 2 bytes = 100 MB for a 5B model in bf16."""
ROTATED_HEADS = 8


def use_chunks(transformer: Any, tokens: int = FEED_FORWARD_TOKENS) -> None:
    """Let every block of `transformer` work in place and `tokens` (at least 1) tokens of the feed-forward at a time."""
    for block in transformer.transformer_blocks:
        block.feed_forward_tokens = tokens
        _replace(block, _block)
    _replace(transformer.norm_out, _norm_out)


def use_whole(transformer: Any) -> None:
    """Undo `use_chunks`: what stood there before, fused passes or compiled blocks, stands there again."""
    for module in (*transformer.transformer_blocks, transformer.norm_out):
        if "before_chunks" in vars(module):
            module.__dict__.pop("forward", None)
            if (before := vars(module).pop("before_chunks")) is not None:
                module.forward = before


def _replace(module: Any, forward: Any) -> None:
    if "before_chunks" not in vars(module):
        module.before_chunks = vars(module).get("forward")
    module.forward = MethodType(forward, module)


def _block(self: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor,
           image_rotary_emb: Any = None, attention_kwargs: dict[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """As `CogVideoXBlock.forward`; overwrites and returns (batch, video tokens, width) and (batch, text tokens, width)."""
    streams = (encoder_hidden_states, hidden_states)
    text = encoder_hidden_states.shape[1]
    modulation = _modulation(self.norm1, temb)
    for row in range(len(temb)):
        joint = torch.cat([_modulated(self.norm1.norm, stream[row:row + 1], *(m[row] for m in made[:2]))
                           for stream, made in zip(streams, modulation, strict=True)], dim=1)
        seen = _attention(self.attn1, [joint], text, image_rotary_emb)
        del joint
        for stream, part, made in zip(streams, (seen[:, :text], seen[:, text:]), modulation, strict=True):
            stream[row:row + 1].add_(part.mul_(made[2][row]))
        del seen, part
    modulation = _modulation(self.norm2, temb)
    for row in range(len(temb)):
        for stream, made in zip(streams, modulation, strict=True):
            for part in stream[row:row + 1].split(self.feed_forward_tokens, dim=1):
                part.add_(self.ff(_modulated(self.norm2.norm, part, *(m[row] for m in made[:2]))).mul_(made[2][row]))
    return hidden_states, encoder_hidden_states


def _modulation(norm: Any, temb: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """(1 + scale, shift, gate) for the text and for the video tokens, each (batch, 1, width)."""
    shift, scale, gate, text_shift, text_scale, text_gate = norm.linear(norm.silu(temb))[:, None].chunk(6, dim=2)
    return (1 + text_scale, text_shift, text_gate), (1 + scale, shift, gate)


def _modulated(norm: Any, tokens: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return norm(tokens).mul_(scale).add_(shift)


def _attention(attn: Any, joint: list[Tensor], text: int, rotary: Any) -> Tensor:
    """Joint attention of one row. `joint` holds the only reference to its tensor, so that it goes before the product.

    `rotary`: diffusers' tables of cosines and sines, or `as_complex` of them, or None.
    """
    tokens = joint.pop()
    heads = []
    for layer, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, None)):
        vectors = layer(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        if norm is not None:
            vectors = norm(vectors)
        if norm is not None or layer is attn.to_k:
            _rotate(vectors[:, :, text:], rotary)
        heads.append(vectors)
        del vectors
    del tokens
    seen = attend_of(attn)(heads[0], heads[1], heads[2])
    heads.clear()
    return attn.to_out[1](attn.to_out[0](seen.transpose(1, 2).flatten(2)))


def _rotate(vectors: Tensor, rotary: Any) -> None:
    """Rotate the video tokens of `vectors` (1, heads, tokens, width) in place, a few heads at a time."""
    if rotary is None:
        return
    for heads in vectors.split(ROTATED_HEADS, dim=1):
        if isinstance(rotary, Tensor):
            pairs = torch.view_as_complex(heads.float().unflatten(3, (-1, 2)).contiguous())
            heads.copy_(torch.view_as_real(pairs * rotary).flatten(3))
        else:
            heads.copy_(apply_rotary_emb(heads, rotary))


def _norm_out(self: Any, x: Tensor, timestep: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
    """As `AdaLayerNorm.forward` with `chunk_dim` 1, without two copies of all tokens."""
    shift, scale = self.linear(self.silu(temb)).chunk(2, dim=1)
    return _modulated(self.norm, x, (1 + scale)[:, None], shift[:, None])
