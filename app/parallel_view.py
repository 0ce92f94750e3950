"""The ways to divide one clip over devices, for `sprocket plan --gpus N` and the devices picker. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.links import link_words
from engine.errors import InvalidRequest
from engine.hardware import Gpu, Hardware
from engine.memory import Shape
from engine.parallel.cost import Choice, Machine
from engine.parallel.degrees import MOST_RANKS
from engine.parallel.planned import machine_of, offers
from engine.plan import Plan
from engine.spec import ModelSpec

SHOWN = 2
"""Ways for each number of devices that the page offers."""


def check_gpus(gpus: int | None) -> None:
    """Raises `InvalidRequest` (gpus) for a number that no plan is made for."""
    if gpus is not None and not 2 <= gpus <= MOST_RANKS:
        raise InvalidRequest("gpus", f"is {gpus}; use 2 to {MOST_RANKS}, or leave it out for one.",
                             suggestion=min(max(gpus, 2), MOST_RANKS))


def choices_json(made: Plan, hardware: Hardware, gpus: int) -> list[dict[str, Any]]:
    """Every legal way over 2 to `gpus` devices with what is predicted of it."""
    return [{"parallel": str(one.degrees), "gpus": one.degrees.ranks, "predicted_speed_up": round(one.speed_up, 3),
             "sent_bytes_per_step": round(one.cost.sent_bytes), "device_bytes": made.predicted_bytes}
            for one in offers(made.spec, made.shape, hardware, gpus)]


def link_json(hardware: Hardware) -> dict[str, Any]:
    """The way between devices that these predictions are made with; `measured`: seconds since 1970, null where it is assumed."""
    machine, _ = machine_of(hardware)
    return {"bytes_per_second": machine.link, "latency_seconds": machine.latency,
            "measured": None if hardware.link is None else hardware.link_at}


def choices_text(made: Plan, hardware: Hardware, gpus: int) -> str:
    """The same for a person; the first of each number is the fastest."""
    kind = "ranks" if hardware.device == "cpu" else "GPUs"
    faster = "no faster than one process, which uses all cores" if hardware.device == "cpu" else "faster, not smaller"
    lines = [f"  Over several {kind}: {faster}. Each holds the whole model ({made.predicted_bytes / 2**30:.2f} GiB), so more of "
             "them do not make room.", f"  {kind:>6}  --parallel                  a step, predicted   sent by each"]
    for one in offers(made.spec, made.shape, hardware, gpus):
        lines.append(f"  {one.degrees.ranks:>6}  {one.degrees!s:26}  {one.speed_up:5.2f} times as fast  "
                     f"{one.cost.sent_bytes / 1e9:8.3f} GB a step")
    if len(lines) == 2:
        lines.append("          none: there is nothing to divide among so many")
    lines.append(f"  Link: {_link(hardware)}.")
    return "\n".join(lines)


def page_choices(spec: ModelSpec | None, hardware: Hardware) -> list[tuple[str, str]]:
    """(words, request value) for the picker: one device, and the fastest ways over more."""
    found = [("One device", "")]
    if spec is None:
        return found
    kind = "ranks" if hardware.device == "cpu" else "GPUs"
    shape = Shape(spec.native_frames, spec.native_height, spec.native_width, spec.recommended_guidance > 1)
    by_number: dict[int, list[Choice]] = {}
    for one in offers(spec, shape, hardware):
        by_number.setdefault(one.degrees.ranks, []).append(one)
    for number, ways in by_number.items():
        found += [(f"{number} {kind}, {_named(one)}: about {one.speed_up:.1f} times as fast", str(one.degrees)) for one in ways[:SHOWN]]
    return found


def devices_words(hardware: Hardware) -> str:
    """What there is, with load and memory, in one line."""
    if hardware.device == "cpu":
        cores = f"{hardware.cores} core{'s' if hardware.cores > 1 else ''}"
        return (f"{cores} here, {hardware.free_bytes / 1e9:.0f} GB free; one process uses them all, and ranks share them. Faster, not "
                f"smaller, on GPUs only. {_link(hardware)}.")
    several = f" {_link(hardware)}." if len(hardware.gpus) > 1 else ""
    return f"{'; '.join(map(_gpu, hardware.gpus))}. Faster, not smaller.{several}"


def _link(hardware: Hardware) -> str:
    machine: Machine = machine_of(replace(hardware, link=None))[0]
    return link_words(hardware, machine.link)


def _gpu(gpu: Gpu) -> str:
    load = "" if gpu.load is None else f", {gpu.load} % busy"
    return f"GPU {gpu.device.partition(':')[2]} {gpu.name}: {gpu.free_bytes / 1e9:.0f} of {gpu.total_bytes / 1e9:.0f} GB free{load}"


def _named(one: Choice) -> str:
    words = [f"{name} {getattr(one.degrees, name)}" for name in ("cfg", "ulysses", "ring") if getattr(one.degrees, name) > 1]
    return " x ".join(words)
