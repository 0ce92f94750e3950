"""CogVideoX's transformer block over `fused_ops`: what compiling would save, without compiling.

The block's inputs stay as they are (caches compare them with its outputs), and its modules are called as modules wherever
something hangs on them: hooks, side paths, 8-bit weights and replaced forwards work as with diffusers' block.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from engine.models.attention import JointAttention
from engine.models.fused_ops import Ops, fits

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Greatest relative error (root mean square) against diffusers' block: a few roundings."""
TRIAL_TOKENS = 97


def use_fused(transformer: Any, ops: Ops) -> None:
    """Let every block of `transformer` run over `ops`. Wants `JointAttention` in it."""
    for processor in transformer.attn_processors.values():
        processor.ops = ops
    for block in transformer.transformer_blocks:
        block.ops = ops
        block.forward = MethodType(_block, block)


def use_stock(transformer: Any) -> None:
    """Undo `use_fused`; the attention processor stays, without `ops`."""
    for processor in transformer.attn_processors.values():
        if isinstance(processor, JointAttention):
            processor.ops = None
    for block in transformer.transformer_blocks:
        block.__dict__.pop("forward", None)


@torch.inference_mode()
def try_fused(transformer: Any, ops: Ops, rotary: Tensor | None) -> str:
    """`use_fused` if the first block then gives what it gave; else it stays as it was. '' or why not.

    `rotary`: complex tables of a real clip, or None.
    """
    block = transformer.transformer_blocks[0]
    if reason := fits(block.norm1.norm, block.attn1.to_q.weight.shape[0] // block.attn1.heads):
        return reason
    weight = block.attn1.to_q.weight
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(2, TRIAL_TOKENS if rotary is None else len(rotary), weight.shape[1], generator=generator)
    text = torch.randn(2, 7, weight.shape[1], generator=generator)
    time = torch.randn(2, block.norm1.linear.in_features, generator=generator)
    video, text, time = (x.to(weight.device, weight.dtype) for x in (video, text, time))
    expected = block(video, text, time, image_rotary_emb=rotary)
    use_fused(transformer, ops)
    try:
        given = block(video, text, time, image_rotary_emb=rotary)
        problem = _difference(given, expected)
    except ops.failures as error:
        problem = f"it stopped with {type(error).__name__}: {str(error)[:160]}"
    if problem:
        use_stock(transformer)
    return problem


def _difference(given: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str:
    for mine, stock in zip(given, expected, strict=True):
        error = float((mine.float() - stock.float()).square().mean().sqrt() / stock.float().square().mean().sqrt())
        if not error <= LIMITS[stock.dtype]:  # also NaN
            return f"its result is off by {error:.2%}"
    return ""


def _block(self: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, image_rotary_emb: Any = None,
           attention_kwargs: dict[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """As `CogVideoXBlock.forward`: (batch, video tokens, width) and (batch, text tokens, width)."""
    ops, text, attn = self.ops, encoder_hidden_states.shape[1], self.attn1
    shift, scale, gate, text_shift, text_scale, text_gate = self.norm1.linear(self.norm1.silu(temb)).chunk(6, dim=1)
    joint = ops.modulated(encoder_hidden_states, hidden_states, self.norm1.norm, (1 + text_scale, text_shift), (1 + scale, shift))
    if _watched(attn) or not isinstance(attn.processor, JointAttention):
        video, words = attn(hidden_states=joint[:, text:], encoder_hidden_states=joint[:, :text], image_rotary_emb=image_rotary_emb,
                            **(attention_kwargs or {}))
        change = torch.cat([words, video], dim=1)
    else:
        change = attn.processor.together(attn, joint, text, image_rotary_emb)
    del joint
    encoder_hidden_states, hidden_states = ops.gated(encoder_hidden_states, hidden_states, change, text_gate, gate)
    shift, scale, gate, text_shift, text_scale, text_gate = self.norm2.linear(self.norm2.silu(temb)).chunk(6, dim=1)
    change = ops.modulated(encoder_hidden_states, hidden_states, self.norm2.norm, (1 + text_scale, text_shift), (1 + scale, shift))
    if _watched(self.ff):
        change = self.ff(change)
    else:
        change = ops.widened(change, self.ff.net[0])
        for layer in self.ff.net[1:]:
            change = layer(change)
    encoder_hidden_states, hidden_states = ops.gated(encoder_hidden_states, hidden_states, change, text_gate, gate)
    return hidden_states, encoder_hidden_states


def _watched(module: Any) -> bool:
    """True where calling the module does more than its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
