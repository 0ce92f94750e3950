"""The memory-bound parts of a CogVideoX block, each in one pass over its numbers: CUDA kernels written in Triton.

    modulated    joint = [LN(text) (1 + s_t) + b_t ; LN(video) (1 + s_v) + b_v]     stock: two norms, four products and sums, a copy
    turned       LayerNorm of each head of queries and keys, then the rotary embedding of the video tokens, in place
    gated        joint + gate * change
    widened      the feed-forward's first product with its GELU in the product's own last pass (cuBLASLt)

Stock code makes five to nine passes for each; on a GPU they cost what their bytes cost. Roundings to the model's precision
happen where torch rounds, so results differ from torch's at most where float32 arithmetic inside a pass is contracted or
summed in another order.

Each has a twin in plain torch in `TORCH`, which is the meaning of the kernel and what runs without a GPU or Triton.
`load_triton()` gives the kernels, or why not. NEVER RUN ON A GPU SO FAR: tests run them in Triton's interpreter on the
processor, which proves the arithmetic and the addressing, not the speed. `accelerate` tries them before it uses them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.fused_qkv import plain

Scale = tuple[Tensor, Tensor]
"""(1 + scale, shift), each (batch, width)."""
FAILURES = (RuntimeError, OSError, ValueError, TypeError, AttributeError, AssertionError, ImportError, subprocess.SubprocessError)
"""What building and launching a kernel can raise beside the compiler's own errors: the last two from a C compiler that fails on the
launcher (no Python.h) and from a launcher that cannot be loaded (a cache on a file system without execution)."""


@dataclass(frozen=True)
class Ops:
    """The operations."""

    name: str
    modulated: Callable[[Tensor, Tensor, nn.LayerNorm, Scale, Scale], Tensor]
    """(text (B, T, d), video (B, N, d), norm, text's scale, video's scale) -> (B, T + N, d)."""
    turned: Callable[[Tensor, Tensor, Any, Any, int, Tensor | None], None]
    """(queries, keys (B, T + N, heads, width), their norms or None, T, complex (N, width / 2) or None): changed in place."""
    gated: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(text, video, change (B, T + N, d), text's gate, video's gate (B, d)) -> new text, new video; views of one tensor."""
    widened: Callable[[Tensor, nn.Module], Tensor]
    """(tokens (B, n, d), diffusers' `GELU` module) -> (B, n, 4 d)."""
    failures: tuple[type[Exception], ...] = FAILURES
    """What a kernel's compiler and driver raise."""


def _modulated(text: Tensor, video: Tensor, norm: nn.LayerNorm, text_scale: Scale, video_scale: Scale) -> Tensor:
    parts = [norm(tokens) * scale[:, None] + shift[:, None] for tokens, (scale, shift) in ((text, text_scale), (video, video_scale))]
    return torch.cat(parts, dim=1)


def _turned(query: Tensor, key: Tensor, norm_q: Any, norm_k: Any, text: int, rotary: Tensor | None) -> None:
    for vectors, norm in ((query, norm_q), (key, norm_k)):
        if norm is not None:
            vectors.copy_(norm(vectors))
        if rotary is not None:
            video = vectors[:, text:]
            pairs = torch.view_as_complex(video.float().unflatten(3, (-1, 2)).contiguous())
            video.copy_(torch.view_as_real(pairs.mul_(rotary[:, None])).flatten(3))


def _gated(text: Tensor, video: Tensor, change: Tensor, text_gate: Tensor, video_gate: Tensor) -> tuple[Tensor, Tensor]:
    length = text.shape[1]
    joint = torch.cat([text + text_gate[:, None] * change[:, :length], video + video_gate[:, None] * change[:, length:]], dim=1)
    return joint[:, :length], joint[:, length:]


def _widened(tokens: Tensor, layer: Any) -> Tensor:
    out: Tensor = layer(tokens)
    return out


def _widened_in_one(tokens: Tensor, layer: Any) -> Tensor:
    """tanh-approximated GELU as the epilogue of the product; any other layer as it is."""
    if getattr(layer, "approximate", None) != "tanh" or not plain(layer.proj) or layer.proj.bias is None or not tokens.is_cuda:
        return _widened(tokens, layer)
    flat: Tensor = torch._addmm_activation(layer.proj.bias, tokens.flatten(0, 1), layer.proj.weight.t(), use_gelu=True)
    return flat.unflatten(0, tokens.shape[:2])


TORCH = Ops("torch", _modulated, _turned, _gated, _widened)


def load_triton() -> Ops | str:
    """The operations as Triton kernels, or why they are not here."""
    try:
        from engine.models import triton_kernels
    except (ImportError, OSError, RuntimeError) as error:  # no package, or one that finds no compiler or driver
        return f"Triton cannot be imported ({type(error).__name__}: {str(error)[:120]})"
    return Ops("triton", triton_kernels.modulated, triton_kernels.turned, triton_kernels.gated, _widened_in_one,
               (triton_kernels.TritonError, *FAILURES))


def fits(norm: nn.LayerNorm, heads_width: int) -> str:
    """Why the kernels cannot work on a model of these sizes; '' where they can."""
    if heads_width & (heads_width - 1) or not 16 <= heads_width <= 256:
        return f"heads of {heads_width} channels are no power of two from 16 to 256"
    if norm.normalized_shape[0] > 16384:
        return f"a width of {norm.normalized_shape[0]} does not fit a kernel's registers"
    return ""
