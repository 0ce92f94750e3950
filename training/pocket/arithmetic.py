"""Which arithmetic training and its benches run in: bf16 where the device multiplies it natively, else fp32.

A processor that has only AVX2 emulates bf16 products 60 times slower than it multiplies fp32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from engine.hardware import detect


def native(device: str = "cpu") -> torch.dtype:
    """torch.bfloat16, or torch.float32 on a processor without instructions for it."""
    return torch.bfloat16 if not device.startswith("cpu") or detect("cpu").bf16 else torch.float32


def mixed(device: str) -> AbstractContextManager:
    """Autocast of products to `native`; weights stay fp32."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16) if native(device) == torch.bfloat16 else nullcontext()
