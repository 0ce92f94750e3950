"""Several ranks on one processor: forks of the test's process, so that nothing is imported twice."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from engine.parallel.mesh import join, leave

DEVICE = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def together(world: int, body: Callable[..., Any], *given: Any, seconds: float = 120.0) -> list[Any]:
    """What `body(*given)` returned on each rank (numpy, numbers, text: nothing of torch). Raises what the first failing one raised."""
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes, processes = [], []
    for rank in range(world):
        mine, theirs = context.Pipe()
        process = context.Process(target=_rank, args=(theirs, rank, world, port, body, given), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    try:
        found = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(seconds), f"rank {rank} of {world} said nothing for {seconds} s"
            found.append(pipe.recv())
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    wrong = [text for well, text in found if not well]
    assert not wrong, "\n".join(wrong)
    return [value for _, value in found]


def _rank(pipe: Any, rank: int, world: int, port: int, body: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        join(DEVICE)
        dist.barrier()  # a rank that is done before its neighbours have connected would look dead to them
        pipe.send((True, body(*given)))
        leave()
    except BaseException:  # noqa: BLE001  (whatever it is, the test's process says it)
        pipe.send((False, traceback.format_exc()))
    pipe.close()
    os._exit(0)
