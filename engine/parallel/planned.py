"""The devices of one clip: what a request's `parallel` means on this computer. Pure.

Every device holds the whole model and works on a part of the clip: it gets done sooner, and does not fit where one device could not
hold it. On the processor all ranks share one memory, so each plans with its part of what is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.errors import InvalidRequest
from engine.hardware import Gpu, Hardware
from engine.memory.shapes import Shape, tokens
from engine.parallel.cost import GPU, LEAST_WORK, PROCESSOR, Choice, Machine, choices, step_cost
from engine.parallel.degrees import ALONE, Degrees, parse_degrees, why_not
from engine.spec import ModelSpec
from engine.speed import LOSSY

MOST_ON_CPU = 4
"""Ranks of a processor with fewer cores."""
BUSY_LOAD = 50
"""Per cent of work at which a GPU counts as another's."""
BUSY_MEMORY = 0.5
"""Share of its memory below which so little is free that it does."""
BY_BLOCK = ("first-block", "pab")
"""Caches that keep what blocks made, by half of guidance."""


@dataclass(frozen=True, slots=True)
class Division:
    """Over which devices a clip is divided, and how."""

    hardware: Hardware
    """What one rank may use."""
    degrees: Degrees = ALONE
    devices: tuple[str, ...] = ()
    """Of each rank; empty for one device."""
    notes: tuple[str, ...] = ()
    speed_up: float = 1.0
    """Of a denoising step; predicted."""

    @property
    def text(self) -> str:
        return str(self.degrees) if self.devices else ""

    def sooner(self, work: Mapping[str, float], rows: int) -> dict[str, float]:
        """`work` by stage (`engine.memory.stage_work`) as the slowest rank has it, of latents with so many `rows`."""
        ranks = max(len(self.devices), 1)
        shared = self.hardware.device == "cpu" or rows < ranks or work["decode"] < LEAST_WORK
        return dict(work) | {"sample": work["sample"] / self.speed_up, "decode": work["decode"] / (1 if shared else ranks)}


@dataclass(frozen=True, slots=True)
class Ways:
    """What a clip allows of degrees."""

    gated: bool = False
    """Its negative half stops before the last step."""
    kernel: str = "auto"
    """Of attention."""

    def trouble(self, degrees: Degrees, shape: Shape) -> str | None:
        """Why these do not go, as the end of a sentence that begins with 'parallel'; None where they do."""
        if self.gated and degrees.cfg == 2 and shape.cache in BY_BLOCK:  # after the gate half of the devices would lack what it kept
            return (f"has cfg=2 beside the cache {shape.cache} and a cfg_gate below 1: after the gate half of the devices lack what the "
                    "cache kept. Use cfg=1, or another cache.")
        if degrees.ring > 1 and self.kernel in LOSSY:
            return (f"has a ring of {degrees.ring}, and the attention kernel {self.kernel} does not give the sums a ring needs. Use "
                    "ulysses instead, or set SPROCKET_ATTENTION to auto.")
        return None


def check_degrees(degrees: Degrees, spec: ModelSpec, shape: Shape, ways: Ways) -> None:
    """Raises `InvalidRequest` (parallel) for degrees that this clip or this model cannot do, however many devices there are."""
    video = tokens(spec, shape) - spec.max_text_tokens
    if reason := why_not(degrees, guided=shape.guided, heads=spec.heads, video=video):
        raise InvalidRequest("parallel", f"{reason}.")
    if trouble := ways.trouble(degrees, shape):
        raise InvalidRequest("parallel", trouble)


def divide(wish: str | None, spec: ModelSpec, shape: Shape, hardware: Hardware, ways: Ways = Ways()) -> Division:
    """What `wish` (`GenerationRequest.parallel`) comes to here.

    Raises `InvalidRequest` (parallel) for degrees that this clip, this model or this computer cannot do.
    """
    degrees = ALONE if wish is None else parse_degrees(wish)
    if degrees.ranks == 1:
        return Division(hardware)
    check_degrees(degrees, spec, shape, ways)
    if hardware.device == "cpu":
        return _on_cpu(degrees, spec, shape, hardware, ways)
    free = usable(hardware)
    alike = [gpu for gpu in hardware.gpus if gpu.name == hardware.name]
    if degrees.ranks > len(alike):
        kinds = sorted({gpu.name for gpu in hardware.gpus})
        mixed = f" of one model ({', '.join(kinds)} are mixed)" if len(kinds) > 1 else ""
        raise InvalidRequest("parallel", f"asks for {degrees.ranks} GPUs{mixed}, and there {'is' if len(alike) == 1 else 'are'} "
                                         f"{len(alike)}. {_instead(spec, shape, len(alike), ways)}",
                             suggestion=_best(spec, shape, len(alike), ways))
    notes = []
    if degrees.ranks > len(free):
        fewer = _fewer(spec, shape, len(free), ways)
        notes.append(f"{len(alike) - len(free)} of {len(alike)} GPUs are busy, so this clip is made on {fewer.ranks}, not "
                     f"{degrees.ranks}.")
        degrees = fewer
    used = sorted(free[:degrees.ranks], key=lambda gpu: int(gpu.device.partition(":")[2]))  # ranks that are there keep their GPUs
    if degrees.ranks <= 1:
        return Division(hardware, notes=tuple(notes))
    least = min(gpu.free_bytes for gpu in used)
    rank = replace(hardware, free_bytes=min(hardware.free_bytes, least), device=used[0].device,
                   ram_bytes=None if hardware.ram_bytes is None else hardware.ram_bytes // degrees.ranks)
    return _told(degrees, tuple(gpu.device for gpu in used), notes, spec, shape, rank)


def usable(hardware: Hardware) -> list[Gpu]:
    """GPUs of one model that nobody else keeps busy: those that ranks have already, then most free memory first."""
    idle = [gpu for gpu in hardware.gpus if gpu.name == hardware.name and (gpu.held_bytes > 0 or (gpu.load or 0) < BUSY_LOAD)
            and gpu.free_bytes >= BUSY_MEMORY * gpu.total_bytes]
    return sorted(idle, key=lambda gpu: (gpu.held_bytes == 0, -gpu.free_bytes, gpu.device))


def machine_of(hardware: Hardware) -> tuple[Machine, int]:
    """(what predictions are made for, bytes of a number): the link as ranks measured it here, where they have."""
    machine = PROCESSOR if hardware.device == "cpu" else GPU
    if hardware.link is not None:
        machine = replace(machine, link=hardware.link[0], latency=hardware.link[1])
    return machine, 2 if hardware.bf16 else 4


def most_ranks(hardware: Hardware) -> int:
    """Ranks this computer may be asked for."""
    return max(MOST_ON_CPU, hardware.cores) if hardware.device == "cpu" else max(1, len(usable(hardware)))


def offers(spec: ModelSpec, shape: Shape, hardware: Hardware, ranks: int | None = None) -> tuple[Choice, ...]:
    """The best legal ways for each number of devices from 2 to `ranks` (what this computer has), by number, the fastest first."""
    machine, number = machine_of(hardware)
    most = most_ranks(hardware)
    if ranks is not None:  # GPUs that are not here may be asked about; cores are what there is
        most = min(ranks, most) if hardware.device == "cpu" else ranks
    return tuple(choice for count in range(2, most + 1) for choice in choices(spec, shape, count, machine, number))


def _on_cpu(degrees: Degrees, spec: ModelSpec, shape: Shape, hardware: Hardware, ways: Ways) -> Division:
    most = most_ranks(hardware)
    if degrees.ranks > most:
        raise InvalidRequest("parallel", f"asks for {degrees.ranks} ranks on a processor with {hardware.cores} cores; {most} is the most "
                                         f"here. {_instead(spec, shape, most, ways)}", suggestion=_best(spec, shape, most, ways))
    rank = replace(hardware, free_bytes=hardware.free_bytes // degrees.ranks, name=f"{hardware.name}, one of {degrees.ranks} ranks")
    notes = [f"{degrees.ranks} ranks on {hardware.cores} cores: no faster than one for each core."]
    notes = notes if degrees.ranks > hardware.cores else []
    return _told(degrees, ("cpu",) * degrees.ranks, notes, spec, shape, rank)


def _told(degrees: Degrees, devices: tuple[str, ...], notes: list[str], spec: ModelSpec, shape: Shape, rank: Hardware) -> Division:
    machine, number = machine_of(rank)
    alone = step_cost(spec, shape, ALONE, machine, number).seconds
    speed_up = alone / step_cost(spec, shape, degrees, machine, number).seconds
    what = "GPUs ({}): faster, not smaller; each holds the whole model, so it must fit on one"
    if rank.device == "cpu":
        what = ("ranks on the processor ({}): not smaller; each holds the whole model, in one memory, and they share the cores that one "
                "process has alone")
    notes.append(f"{degrees.ranks} {what.format(degrees)}. A step is predicted to be {speed_up:.1f} times as fast.")
    return Division(rank, degrees, devices, tuple(notes), speed_up)


def _fewer(spec: ModelSpec, shape: Shape, ranks: int, ways: Ways) -> Degrees:
    """The fastest way over at most `ranks` devices that `divide` does not refuse."""
    found = [one for count in range(2, ranks + 1) for one in choices(spec, shape, count, GPU)
             if ways.trouble(one.degrees, shape) is None]
    return max(found, key=lambda one: one.speed_up).degrees if found else ALONE


def _best(spec: ModelSpec, shape: Shape, ranks: int, ways: Ways) -> str | None:
    fewer = _fewer(spec, shape, ranks, ways)
    return None if fewer.ranks == 1 else str(fewer)


def _instead(spec: ModelSpec, shape: Shape, ranks: int, ways: Ways) -> str:
    best = _best(spec, shape, ranks, ways)
    return "Leave parallel out." if best is None else f"Use {best}, or leave parallel out."
