"""torchao's AdamW with its state in 8 bits (https://arxiv.org/abs/2110.02861), without its compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchao.optim import AdamW8bit


class EagerAdamW8bit(AdamW8bit):
    """torchao compiles the update of every shape, which takes a C++ or Triton compiler and minutes; a LoRA's matrices are so small that
    the plain kernels lose nothing, and they give the same bits wherever the run goes on."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, as torchao's."""
        with torch.compiler.set_stance("force_eager"):
            return super().step(closure)
