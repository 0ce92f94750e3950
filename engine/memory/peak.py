"""The highest memory of a job: on its device, and in the computer's own memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.memory.decoder import decode_bytes, decode_ram_bytes
from engine.memory.encoder import encode_frames_bytes, encode_frames_ram_bytes
from engine.memory.placement import NUMBER_BYTES, Placement
from engine.memory.shapes import Shape
from engine.memory.text import encode_bytes
from engine.memory.transformer import sample_bytes
from engine.memory.weights import layout, moved_bytes, slot_bytes, stored_bytes, working_bytes
from engine.spec import ModelSpec

PROGRAM_BYTES = 580 * 2**20
"""Resident set of the interpreter after the imports, measured."""
CONTEXT_BYTES = 640 * 2**20
"""On a GPU: the CUDA context with cuBLAS and cuDNN, and slack of the allocator. Not part of `Forecast.stages`."""
STAGES = {"encode": "text_encoder", "sample": "transformer", "decode": "vae"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes a job takes."""

    device_bytes: int
    """Highest memory of the device: the highest stage and what the program itself holds there."""
    stages: Mapping[str, int]
    """Highest bytes of live tensors by stage: 'encode', 'sample', 'decode'."""
    ram_bytes: int
    """Highest memory of the computer itself. On a processor the same as `device_bytes`."""
    moved_bytes: int
    """Weights that cross to the device in one denoising step."""
    disk_bytes: int
    """Weights on disk, as published."""
    correction: float = 1.0
    """Factor by which this machine's own jobs differ from the formulas; `device_bytes` and `stages` hold it already."""

    def to_json(self) -> dict[str, Any]:
        return {"device_bytes": self.device_bytes, "stages": dict(self.stages), "ram_bytes": self.ram_bytes,
                "moved_bytes": self.moved_bytes, "disk_bytes": self.disk_bytes, "correction": self.correction}


def forecast(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, device: str) -> Forecast:
    """What a clip of `shape` takes on `device` ('cpu' or 'cuda:N'), with arithmetic in `compute` ('bf16', 'fp16', 'fp32')."""
    parts = {part: (layout(spec, part), home) for part, home in placement.homes.items()}
    resident = sum(working_bytes(found, home, compute) for found, home in parts.values() if home.residency == "resident")
    used = {"encode": encode_bytes(spec, compute), "sample": sample_bytes(spec, shape, compute, placement),
            "decode": decode_bytes(spec, shape, compute, placement, device)}
    stages = {}
    for stage, part in STAGES.items():
        found, home = parts[part]
        own = 0 if home.residency == "resident" else working_bytes(found, home, compute)
        stages[stage] = resident + own + used[stage]
    if shape.given:  # the image or video is encoded after the words
        found, home = parts["vae"]
        own = 0 if home.residency == "resident" else working_bytes(found, home, compute)
        stages["encode"] = max(stages["encode"], resident + own + encode_frames_bytes(spec, shape, compute, placement, device))
    on_gpu = device.startswith("cuda")
    waiting = sum(stored_bytes(found, home, compute) for found, home in parts.values()
                  if home.residency != "resident" and home.source == "ram")
    picture = 3 * shape.height * shape.width * (NUMBER_BYTES["fp32"] * 9 + shape.given)
    highest = max(stages.values()) + (CONTEXT_BYTES if on_gpu else PROGRAM_BYTES + picture)
    between = max(slot_bytes(found, home, compute) if home.source == "disk" else 0 for found, home in parts.values())
    beside = max(between, decode_ram_bytes(spec, shape, compute, placement, device),  # blocks have passed when frames are decoded
                 encode_frames_ram_bytes(spec, shape, compute, placement, device))
    ram = PROGRAM_BYTES + picture + waiting + beside if on_gpu else highest
    passes = placement.passes if shape.guided else 1
    moved = moved_bytes(*parts["transformer"], compute) * passes
    return Forecast(highest, stages, ram, moved, sum(spec.component_bytes.values()))
