"""The processes of one run, as accelerate started them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import torch

from engine.hardware import Hardware
from engine.parallel.backward import GradientMesh
from engine.parallel.degrees import Degrees
from engine.parallel.mesh import meet
from engine.parallel.wire import STORE
from training.lora.loop import World
from training.lora.processes import check_devices

PATIENCE = timedelta(hours=6)
"""Of any exchange: the others wait while the first process makes previews. That one of them died the launcher notices."""


def of_rank(machine: Hardware, environment: Mapping[str, str]) -> Hardware:
    """The machine as one of several processes sees it: each has the GPU of its own number.

    Raises `InvalidRequest` (processes) where there are more processes than GPUs.
    """
    size, rank = int(environment.get("WORLD_SIZE", "1")), int(environment.get("LOCAL_RANK", "0"))
    if size < 2 or machine.device == "cpu":
        return machine
    check_devices(machine, int(environment.get("LOCAL_WORLD_SIZE", size)))
    own = next(gpu for gpu in machine.gpus if gpu.device == f"cuda:{rank}")
    return replace(machine, device=own.device, name=own.name, total_bytes=own.total_bytes, free_bytes=own.free_bytes)


def the_world(machine: Hardware, sequence: int = 1) -> World:
    """One process unless `accelerate launch` started more; then gradients are summed over all of them. The passes of a step are dealt out
    (`order.share`) over teams of `sequence` processes, which divide the tokens of each clip (`training.lora.sequence`); every process
    ends the step with the same weights. `training.lora.processes` says what divides."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return World()
    from accelerate import Accelerator, InitProcessGroupKwargs

    if os.environ.get(STORE):
        meet("gloo", PATIENCE)
    accelerator = Accelerator(cpu=machine.device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])

    def add(tensor: torch.Tensor) -> None:
        if accelerator.device.type == tensor.device.type:
            torch.distributed.all_reduce(tensor)
            return
        there = tensor.to(accelerator.device)  # NCCL sums on GPUs only
        torch.distributed.all_reduce(there)
        tensor.copy_(there)

    size = accelerator.num_processes
    mesh = None if sequence == 1 else GradientMesh(Degrees(ulysses=sequence), accelerator.device, teams=size // sequence)
    return World(accelerator.process_index, size, add, mesh)
