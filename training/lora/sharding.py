"""FSDP2: each process holds a share of the weights, and gathers a block when it works.

    a LoRA         the frozen base is shared out; the LoRA is small, so every process has all of it and gradients are summed as ever
    all weights    weights, gradients and the optimizer's state are shared out; checkpoints hold them whole, so that any number of
                   processes goes on with them

torch's own `fully_shard`, one group for each block. https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(transformer: Any, device: torch.device) -> None:
    """Share the weights of `transformer` out over all processes, but for those of a LoRA in it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nothing is done to it in place
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    own = {parameter for name, parameter in transformer.named_parameters() if "lora_" in name} or None
    for block in transformer.transformer_blocks:
        fully_shard(block, mesh=mesh, ignored_params=own)
    fully_shard(transformer, mesh=mesh, ignored_params=own)


def whole(tensor: Tensor) -> Tensor:
    """All of it. Where it is shared out every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_is(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, which every process has, shared out as `like` is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
