"""What is kept of a block's arithmetic for its gradient: all, its input only (recomputed), or that input in the computer's memory.

diffusers asks one function for every block it checkpoints, so the choice is made block by block. Recomputing gives the same bits.
Vchitect-2.0, section V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


def use_policy(transformer: Any, policy: Sequence[str]) -> None:
    """`policy`: 'keep', 'recompute' or 'offload' for each block, in order."""
    if all(word == "keep" for word in policy):
        transformer.disable_gradient_checkpointing()
        return
    words = {id(block): word for block, word in zip(transformer.transformer_blocks, policy, strict=True)}

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        word = words[id(block)]
        if word == "keep":
            return block(*inputs)
        if word == "offload":
            with save_on_cpu(pin_memory=torch.cuda.is_available()):
                return checkpoint(block, *inputs, use_reentrant=False)
        return checkpoint(block, *inputs, use_reentrant=False)

    transformer.enable_gradient_checkpointing(run)
