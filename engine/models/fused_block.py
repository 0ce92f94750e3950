"""CogVideoX's transformer block over `fused_ops`: what compiling would save, without compiling.

The block's inputs stay as they are (caches compare them with its outputs), and its modules are called as modules wherever
something hangs on them or stands in their place: hooks, side paths, 8-bit weights, caches and replaced forwards work as
with diffusers' block.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
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
        _use(block, ops)


def _use(block: Any, ops: Ops) -> None:
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
def try_fused(transformer: Any, ops: Ops, rotary: Tensor | None, *, device: torch.device, dtype: torch.dtype) -> str:
    """`use_fused` if a block of this size and kernel then gives what diffusers' gives; else nothing changes. '' or why not.

    `rotary`: complex tables of a real clip, or None. The block is one of its own with random weights: the transformer's may
    be elsewhere.
    """
    block = _trial_block(transformer, device, dtype)
    if reason := fits(block.norm1.norm, transformer.config.attention_head_dim):
        return reason
    width, generator = block.attn1.inner_dim, torch.Generator().manual_seed(0)
    video = torch.randn(2, TRIAL_TOKENS if rotary is None else len(rotary), width, generator=generator)
    text = torch.randn(2, 7, width, generator=generator)
    time = torch.randn(2, block.norm1.linear.in_features, generator=generator)
    video, text, time = (x.to(device, dtype) for x in (video, text, time))
    expected = block(video, text, time, image_rotary_emb=rotary)
    _use(block, ops)
    block.attn1.processor.ops = ops
    try:
        problem = _difference(block(video, text, time, image_rotary_emb=rotary), expected)
    except ops.failures as error:
        problem = f"it stopped with {type(error).__name__}: {str(error)[:160]}"
    if not problem:
        use_fused(transformer, ops)
    return problem


def _trial_block(transformer: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A block like the transformer's, with the same attention kernel."""
    config, kernel = transformer.config, transformer.transformer_blocks[0].attn1.processor
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(0)
        block = CogVideoXBlock(
            dim=config.num_attention_heads * config.attention_head_dim, num_attention_heads=config.num_attention_heads,
            attention_head_dim=config.attention_head_dim, time_embed_dim=config.time_embed_dim, activation_fn=config.activation_fn,
            attention_bias=config.attention_bias, norm_elementwise_affine=config.norm_elementwise_affine, norm_eps=config.norm_eps)
    block.attn1.set_processor(JointAttention(kernel.attend, kernel.name))
    return block.to(dtype).eval()


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
    if type(attn) is not Attention or _watched(attn) or not isinstance(attn.processor, JointAttention):
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
