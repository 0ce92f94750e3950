"""How a loaded transformer computes: the kernel, fused products, fused passes, compiled blocks. One place decides the order.

    processor (bits compared with diffusers') or kernel (tried) -> packed weights (bits compared) -> fused passes on a GPU
    (tried), or compiled blocks

On the processor everything that is used gives diffusers' very bits. On a GPU results may differ in last roundings, as they do
between two of torch's own attention kernels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from engine.models import attention
from engine.models.compiling import CompiledBlocks
from engine.models.fused_block import try_fused
from engine.models.fused_ops import load_triton

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ways:
    """What a plan says about it."""

    kernel: str
    """Of `engine.speed.KERNELS`."""
    asked: bool
    """A person named it: it is used or refused."""
    compile: bool
    untouched: bool = False
    """diffusers' modules as they are: everything faster here is without gradients."""


STOCK = Ways("native", False, False)
TRAINED = Ways("native", False, False, untouched=True)


def prepare(transformer: Any, ways: Ways, rotary: attention.Rotary | None, *, device: torch.device, dtype: torch.dtype,
            staged: bool, stored: bool = False) -> bool:
    """Make `transformer` compute as `ways` says; True if it then wants `as_complex` tables instead of diffusers'.

    `rotary`: diffusers' tables of a real clip on `device`, or None for a model without. `dtype`: of the arithmetic.
    `staged`: its weights are elsewhere until it works. `stored`: they are here, but in another precision (8 bits). With neither
    can anything be tried; the latter can be compiled.
    Raises `InvalidRequest` (attention) for a kernel that was asked for and fails.
    """
    if ways.untouched:
        return False
    compiled = ways.compile and not staged
    if ways.kernel != "native" or device.type == "cuda":
        attention.install(transformer, ways.kernel, asked=ways.asked, device=device, dtype=dtype)
        turned = rotary is not None and not compiled  # compilers do not see through complex numbers
    elif staged or stored:
        return False
    else:
        turned = attention.speed_up(transformer, rotary) and rotary is not None
    if not (staged or stored):
        attention.pack_if_equal(transformer, 3 + (attention.TRIAL_TOKENS if rotary is None else len(rotary[0])))
    if compiled:
        CompiledBlocks(transformer)
    elif device.type == "cuda":
        _fuse(transformer, None if rotary is None else attention.as_complex(rotary), device, dtype)
    return turned


def _fuse(transformer: Any, table: torch.Tensor | None, device: torch.device, dtype: torch.dtype) -> None:
    ops = load_triton()
    problem = ops if isinstance(ops, str) else try_fused(transformer, ops, table, device=device, dtype=dtype)
    if problem:
        log.warning("fused passes are not used: %s. diffusers' blocks are used instead; the result is the same.", problem)
