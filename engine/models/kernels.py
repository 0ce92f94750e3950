"""The attention kernels of `engine.speed`, each as one function of queries, keys and values.

    kernel(name)    (batch, heads, tokens, width) x 3 -> (batch, heads, tokens, width); imports what it needs, or says why not
    trial(...)      runs one on numbers like a transformer's and compares with float32 arithmetic: a kernel that is installed
                    can still be built for another GPU, give NaN, or give noise (SageAttention has given black videos with
                    CogVideoX 1.5)
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.speed import LOSSY

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

HELD = {"sdpa-math": SDPBackend.MATH, "sdpa-flash": SDPBackend.FLASH_ATTENTION, "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION}
TRIAL_TOKENS = 519
"""Not a multiple of any kernel's tile."""
OUTLIER = 12.0
"""Added to one channel of the trial's keys, as trained transformers have them; a careless 8-bit scale drowns in it."""
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Greatest relative error (root mean square) of an exact kernel."""
LOSSY_LIMIT = 0.1


def native(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's own choice, as diffusers calls it."""
    return F.scaled_dot_product_attention(query, key, value)


@cache
def kernel(name: str) -> Attend:
    """The kernel `name` of `engine.speed.KERNELS`. Raises `ImportError` if its package cannot be imported, `KeyError` for no name."""
    if name in HELD:
        return _held(HELD[name])
    return {"native": lambda: native, "flex": _flex, "flash": _flash, "flash3": _flash3, "sage": _sage}[name]()


def trial(attend: Attend, *, lossy: bool, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> str:
    """'' if `attend` gives what float32 arithmetic gives, within its limit; else what it did, as a clause."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, heads, TRIAL_TOKENS, width)
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    key[..., 0] += OUTLIER
    try:
        given = attend(query, key, value)
    except (RuntimeError, ImportError, ValueError, TypeError, AssertionError, NotImplementedError, subprocess.SubprocessError) as error:
        return f"it stopped with {type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else 'no text'}"
    if given.shape != query.shape:
        return f"it gave shape {tuple(given.shape)} for {shape}"
    if not torch.isfinite(given).all():
        return "it gave numbers that are not finite (NaN)"
    scores = query.float() @ key.float().transpose(2, 3) / width**0.5
    expected = scores.softmax(dim=3) @ value.float()
    off = float((given.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    limit = LOSSY_LIMIT if lossy else LIMITS[dtype]
    return "" if off <= limit else f"it is off by {off:.1%}; {limit:.2%} is allowed"


def is_lossy(name: str) -> bool:
    return name in LOSSY


def _held(backend: SDPBackend) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value)
    return attend


def _flex() -> Attend:
    from torch.nn.attention.flex_attention import flex_attention

    from engine.models.compiling import compiled_for_any_size

    compiled: list[Any] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not query.is_cuda:  # uncompiled: writes down every score, for tests and small clips
            return flex_attention(query, key, value)
        if not compiled:
            compiled.append(torch.compile(flex_attention, dynamic=False))
        return compiled_for_any_size(compiled[0], query, key, value)
    return attend


def _flash() -> Attend:
    attend: Any = importlib.import_module("flash_attn").flash_attn_func
    return lambda query, key, value: attend(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)


def _flash3() -> Attend:
    attend: Any = importlib.import_module("flash_attn_interface").flash_attn_func

    def unpacked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = attend(*(x.transpose(1, 2) for x in (query, key, value)))
        return (made[0] if isinstance(made, tuple) else made).transpose(1, 2)  # older releases also give the log-sums
    return unpacked


def _sage() -> Attend:
    attend: Any = importlib.import_module("sageattention").sageattn
    return lambda query, key, value: attend(query.contiguous(), key.contiguous(), value.contiguous(), tensor_layout="HND", is_causal=False)
