"""The processes of one run, as accelerate started them."""

from __future__ import annotations

import os

import torch

from engine.hardware import Hardware
from training.lora.loop import World


def the_world(machine: Hardware) -> World:
    """One process unless `accelerate launch` started more; then gradients are summed over all of them: data parallel, where the passes
    of a step are shared out (`order.share`) and every process ends it with the same weights."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return World()
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=machine.device == "cpu")

    def add(tensor: torch.Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    return World(accelerator.process_index, accelerator.num_processes, add)
