"""One clip under `torchrun`, on one computer or several, without a studio: every rank plans the same and works on its part.

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m app.cli_torchrun \\
        --prompt "a red ball bounces" --model /models/CogVideoX-5b --parallel cfg=2,ulysses=4 --out clip.mp4

Also `--request FILE`, a request as JSON. The first rank writes `--out` and, beside it, a folder `OUT.work` with checkpoints, from which
the same command goes on. Step times go to standard error: the measured side of `bench/parallel_prediction.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from app.errors import exit_code
from engine.errors import InvalidRequest, SprocketError
from engine.events import ClipWritten, StageStarted, StepDone
from engine.hardware import Hardware, detect
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.parallel.degrees import parse_degrees
from engine.parallel.mesh import Mesh, join, leave
from engine.parallel.planned import Ways, check_degrees
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from engine.video.recipe import build_recipe

NO_LIMIT = 2**62
"""Bytes, where none are known."""


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 done, 2 for a bad request, 3 cannot fit these devices, 1 otherwise."""
    options = _options(arguments)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        request, degrees = _wished(options)
        hardware, local_rank = detect(request.device), int(os.environ.get("LOCAL_RANK", "0"))
        if world > 1:
            join(torch.device("cpu" if hardware.device == "cpu" else f"cuda:{local_rank}"))
            hardware = least(hardware, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        made = planned(options, request, degrees, hardware, world, local_rank)
        if world == 1:
            return _make(made, options, None)
        code = _make(made, options, Mesh(parse_degrees(made.parallel), torch.device(made.device)))
        leave()
        return code
    except SprocketError as error:
        where = f"rank {rank} on {socket.gethostname()}: " if world > 1 else ""  # one alone may lack a model or memory
        print(f"sprocket: {where}{error}", file=sys.stderr)
        return exit_code(error)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torchrun ... -m app.cli_torchrun", description="One clip on the ranks of a torchrun.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--request", type=Path, help="a request as JSON; the options below stand above it")
    for name in ("prompt", "model", "parallel", "device"):
        parser.add_argument(f"--{name}")
    for name in ("seed", "steps", "frames"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--models-dir", type=Path)
    return parser.parse_args(arguments)


def _wished(options: argparse.Namespace) -> tuple[GenerationRequest, str | None]:
    """(what to make, on which degrees). Raises `InvalidRequest`."""
    values = _read(options.request) if options.request else {}
    values |= {name: value for name in ("prompt", "model", "device", "seed", "steps", "frames")
               if (value := getattr(options, name)) is not None}
    wish = options.parallel or values.pop("parallel", None)
    return GenerationRequest.from_mapping({key: value for key, value in values.items() if key != "parallel"}), wish


def _read(path: Path) -> dict[str, Any]:
    """The values of a request in a file. Raises `InvalidRequest` (request)."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest("request", f"{str(path)[:200]!r} holds no JSON that can be read ({str(error)[:100]}).") from error
    if not isinstance(values, dict):
        raise InvalidRequest("request", f"{str(path)[:200]!r} holds a {type(values).__name__}; it must be an object of named fields, such "
                                        'as {"prompt": "a red ball"}.')
    return values


def least(hardware: Hardware, here: int) -> Hardware:
    """What this rank plans with: the least that any of them has, so that all come to one plan. With plans of their own (another card,
    memory that a neighbour took meanwhile) they would exchange pieces of different sizes and wait for each other for ever.

    here: ranks on this computer, which share what is not a GPU's own.
    """
    shared = here if hardware.device == "cpu" else 1
    ram = NO_LIMIT if hardware.ram_bytes is None else hardware.ram_bytes // here
    found = torch.tensor([hardware.free_bytes // shared, hardware.total_bytes // shared, ram, int(hardware.bf16)])
    dist.all_reduce(found, dist.ReduceOp.MIN)
    free, total, ram, bf16 = found.tolist()
    return replace(hardware, free_bytes=free, total_bytes=total, ram_bytes=None if ram == NO_LIMIT else ram, bf16=bool(bf16))


def planned(options: argparse.Namespace, request: GenerationRequest, wish: str | None, hardware: Hardware, world: int,
            local_rank: int) -> Plan:
    """The plan of this rank. Raises `InvalidRequest` where the degrees are not those of the ranks that were started."""
    spec = read_spec(find(request.model, models_dir=options.models_dir), request.model)
    made = plan(request, spec, hardware)
    if world == 1 and wish is None:
        return made
    degrees = parse_degrees(wish)
    if degrees.ranks != world:
        raise InvalidRequest("parallel", f"is {degrees}, {degrees.ranks} ranks, and torchrun started {world}. Make them equal.")
    check_degrees(degrees, spec, made.shape, Ways(made.cfg_gate < 1, made.attention))
    device = "cpu" if made.device == "cpu" else f"cuda:{local_rank}"
    return replace(made, parallel=str(degrees), devices=(device,) * world, device=device, compile=False)


def _make(made: Plan, options: argparse.Namespace, mesh: Mesh | None) -> int:
    leads, models, last = mesh is None or mesh.leads, ModelCache(), time.perf_counter()
    workspace, part = options.out.with_name(options.out.name + ".work"), options.out.with_name(options.out.name + ".part")
    for event in run(made, part=part, workspace=workspace, recipe=build_recipe(made), models=models, cancelled=lambda: False, mesh=mesh):
        now = time.perf_counter()
        if leads and isinstance(event, StageStarted):
            print(event.stage.value, file=sys.stderr)
        elif leads and isinstance(event, StepDone):
            print(f"  {event.step} of {event.steps}: {now - last:.3f} s", file=sys.stderr)
        elif leads and isinstance(event, ClipWritten):
            event.part.replace(options.out)
            shutil.rmtree(workspace, ignore_errors=True)
            print(options.out)
        last = now
    models.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
