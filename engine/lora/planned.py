"""A plan for a request with LoRAs: they fit the checkpoint, and what they take is in the forecast. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.hardware import Hardware
from engine.ladder import Lapse
from engine.lora.file import Lora
from engine.lora.stack import lora_bytes, read_stack
from engine.memory.placement import NUMBER_BYTES
from engine.plan import DEFAULT, DEFAULT_SPEED, Plan, Policy, plan
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.speed import Speed


def plan_with_loras(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, folder: Path | None,
                    policy: Policy = DEFAULT, speed: Speed = DEFAULT_SPEED, *, lapses: Sequence[Lapse] = ()) -> Plan:
    """`engine.plan.plan`, with the LoRAs of `request` out of `folder` held on the device beside everything else.

    Raises what `plan` raises, and `InvalidRequest` (field 'loras') for one that is not there or was made for another model.
    """
    if not request.loras:
        return plan(request, spec, hardware, policy, speed, lapses=lapses)
    stack = read_stack(request.loras, folder, spec)
    need = lora_bytes(stack, NUMBER_BYTES["bf16" if hardware.bf16 else "fp32"])
    made = plan(request, spec, replace(hardware, free_bytes=max(hardware.free_bytes - need, 0)), policy, speed, lapses=lapses)
    forecast = replace(made.forecast, device_bytes=made.forecast.device_bytes + need,
                       stages={stage: held + need for stage, held in made.forecast.stages.items()},
                       ram_bytes=made.forecast.ram_bytes + (0 if made.device.startswith("cuda") else need))
    return replace(made, predicted_bytes=made.predicted_bytes + need, forecast=forecast,
                   notes=(*made.notes, *map(_note, made.loras, stack)))


def _note(pair: tuple[str, float], lora: Lora) -> str:
    name, weight = pair
    said = f", called up by {lora.trigger!r}" if lora.trigger else ""
    return f"LoRA {name[:12]}... of rank {lora.rank} is applied with weight {weight:g}{said}."
