"""How the processes of one run share its work. Pure.

    process = team * sequence_parallel + part

    a team     passes of a step are dealt out over the teams (data parallel)
    a part     the processes of a team, neighbours, divide the tokens of every clip of its passes (sequence parallel, Ulysses)
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.spec import ModelSpec
from training.lora.config import TrainConfig


def first_process(environ: Mapping[str, str]) -> bool:
    """Whether this is the one process of a run that writes into its folder, as the launcher's environment says."""
    return environ.get("RANK", "0") == "0"


def check_division(config: TrainConfig, spec: ModelSpec, processes: int) -> None:
    """Raises `InvalidRequest` where so many processes cannot share the run, naming what would do."""
    parts = config.sequence_parallel
    legal = [degree for degree in range(1, min(processes, spec.heads) + 1) if processes % degree == 0]
    named = ", ".join(map(str, legal))
    if parts > spec.heads:
        raise InvalidRequest("sequence_parallel", f"is {parts}, and {spec.name} has {spec.heads} heads of attention to deal out. With "
                                                  f"{processes} processes it can be {named}.", suggestion=legal[-1])
    if processes % parts:
        raise InvalidRequest("sequence_parallel", f"is {parts}, which does not divide {processes} process{'es' * (processes > 1)}. It can "
                                                  f"be {named}; or start a multiple of {parts} with --processes.", suggestion=legal[-1])
    if config.accumulate % (processes // parts):
        teams = processes // parts
        who = f"{processes} processes" if parts == 1 else f"{teams} teams of {parts} processes"
        raise InvalidRequest("accumulate", f"is {config.accumulate}, which {who} cannot share evenly; it counts the passes of a step over "
                                           "all of them.", suggestion=teams)


def check_devices(machine: Hardware, processes: int) -> None:
    """Raises `InvalidRequest` where this computer has fewer GPUs than processes that want one each."""
    there = max(1, len(machine.gpus))
    if machine.device != "cpu" and processes > there:
        raise InvalidRequest("processes", f"are {processes}, and this computer has {there} GPU{'s' * (there > 1)}; each process needs one "
                                          "of its own.", suggestion=there)


def division_words(config: TrainConfig) -> str:
    """How the processes share the work, for people; '' for one."""
    if config.ranks == 1:
        return ""
    parts, teams = config.sequence_parallel, config.ranks // config.sequence_parallel
    passes = f"share the {config.accumulate} passes of a step" if teams > 1 else ""
    tokens = f"divide the tokens of each clip by {parts}" if parts > 1 else ""
    weights = "hold a share of the weights each" if config.sharding == "fsdp" else ""
    return f"{config.ranks} processes {', '.join(filter(None, (passes, tokens, weights)))}; memory is that of each"
