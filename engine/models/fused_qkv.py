"""Queries, keys and values of a self-attention in one matrix product.

`pack` lays the three weights behind each other in one piece of memory, and makes each layer's own weight a view of its
part: no memory more, every name and state dict as before. `project` uses the piece as one weight wherever it still is one.
It is not, and the three layers run as they are, once anything stands on them: a LoRA's side path, a hook, 8-bit weights, or
weights that were moved to another device one by one. So nothing has to be told to unpack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kept = list[tuple[nn.Parameter, Tensor]]
"""Parameters and the numbers they held before they were packed."""


def pack(attn: Any) -> Kept | None:
    """Pack the weights of one attention; what `unpack` wants to take it back, or None where they cannot be packed."""
    layers = (attn.to_q, attn.to_k, attn.to_v)
    if not all(map(plain, layers)) or len({(x.weight.shape, x.weight.dtype, x.weight.device, x.bias is None) for x in layers}) > 1:
        return None
    if layers[0].weight.device.type == "meta":
        return None
    kept = []
    for name in ("weight", "bias"):
        if layers[0]._parameters[name] is None:
            continue
        whole = torch.cat([layer._parameters[name].data for layer in layers])
        for layer, part in zip(layers, whole.chunk(3), strict=True):
            kept.append((layer._parameters[name], layer._parameters[name].data))
            layer._parameters[name].data = part
    attn.qkv_packed = True
    return kept


def unpack(attn: Any, kept: Kept) -> None:
    """Every weight where it was: the last bits of some kernels depend on where numbers lie in memory."""
    for parameter, numbers in kept:
        parameter.data = numbers
    attn.qkv_packed = False


def project(attn: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (batch, tokens, inner width) of `tokens` (batch, tokens, width); views of one tensor if packed."""
    layers = (attn.to_q, attn.to_k, attn.to_v)
    if packed(attn):
        weight, bias = _joined(attn.to_q.weight), None if attn.to_q.bias is None else _joined(attn.to_q.bias)
        query, key, value = F.linear(tokens, weight, bias).chunk(3, dim=2)
        return query, key, value
    return layers[0](tokens), layers[1](tokens), layers[2](tokens)


def packed(attn: Any) -> bool:
    """True where the three layers are plain and their weights lie behind each other."""
    layers = (attn.to_q, attn.to_k, attn.to_v)
    if not getattr(attn, "qkv_packed", False) or not all(map(plain, layers)):
        return False
    # A compiler cannot see addresses; it is only used where weights stay in their place.
    return torch.compiler.is_compiling() or all(_adjacent([layer._parameters[name] for layer in layers]) for name in ("weight", "bias"))


def plain(layer: Any) -> bool:
    """A Linear and nothing on it, with its own ordinary numbers."""
    return (type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer._forward_hooks
            and not layer._forward_pre_hooks and "forward" not in vars(layer)
            and layer.weight.dtype in (torch.float32, torch.bfloat16, torch.float16))


def _adjacent(parts: list[Tensor | None]) -> bool:
    if parts[0] is None:
        return all(part is None for part in parts)
    first = parts[0]
    return all(part is not None and part.is_contiguous() and part.shape == first.shape and part.dtype == first.dtype
               and part.device == first.device and part.data_ptr() == first.data_ptr() + i * first.numel() * first.element_size()
               and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for i, part in enumerate(parts))


def _joined(first: Tensor) -> Tensor:
    """The three parts as one tensor, from the first."""
    return first.as_strided((3 * first.shape[0], *first.shape[1:]), first.stride())
