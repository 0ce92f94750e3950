"""A plan for a request with LoRAs: they fit the checkpoint, and what they take is in the forecast. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.hardware import Hardware
from engine.lora.file import Lora
from engine.lora.stack import lora_bytes, read_stack
from engine.memory.placement import NUMBER_BYTES
from engine.plan import Plan
from engine.precision import compute_dtype
from engine.request import GenerationRequest
from engine.spec import ModelSpec


def plan_with_loras(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, folder: Path | None,
                    planned: Callable[[Hardware], Plan]) -> Plan:
    """What `planned` makes of the request on a machine, with its LoRAs out of `folder` held on the device beside everything else.

    `planned` is given `hardware`, less what the LoRAs take. Raises what it raises, and `InvalidRequest` (field 'loras') for one
    that is not there or was made for another model.
    """
    if not request.loras:
        return planned(hardware)
    stack = read_stack(request.loras, folder, spec)
    need = lora_bytes(stack, NUMBER_BYTES[compute_dtype(request.precision, hardware)])
    usable = hardware.free_bytes if request.budget is None else min(hardware.free_bytes, request.budget)
    made = planned(replace(hardware, free_bytes=max(usable - need, 0)))
    forecast = replace(made.forecast, device_bytes=made.forecast.device_bytes + need,
                       stages={stage: held + need for stage, held in made.forecast.stages.items()},
                       ram_bytes=made.forecast.ram_bytes + (0 if made.device.startswith("cuda") else need))
    return replace(made, predicted_bytes=made.predicted_bytes + need, forecast=forecast,
                   notes=(*made.notes, *map(_note, made.loras, stack)))


def _note(pair: tuple[str, float], lora: Lora) -> str:
    name, weight = pair
    said = f", called up by {lora.trigger!r}" if lora.trigger else ""
    return f"LoRA {name[:12]}... of rank {lora.rank} is applied with weight {weight:g}{said}."
