"""The stage-two adapter of a model, one safetensors file: what `StageTwo` trains, and what it was trained for.

    patch.weight .bias     lora.<layer>.down .up     rate.linear_1.weight ...     metadata: `Facts` as JSON

`read_facts` needs no torch (the planner asks it); the numbers are read by `load_adapter`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelInvalid
from engine.video.publish import write_atomic

if TYPE_CHECKING:
    import torch

    from engine.interpolate.stage_two import StageTwo

FILE = "stage2.safetensors"
METADATA_KEY = "sprocket_stage2"
VERSION = 1
MAX_HEADER = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What an adapter says about itself."""

    base: str
    """`ModelSpec.fingerprint` of the model it stands on; '' where it is not bound to one."""
    layout: str
    """'frames' or 'packed', see `engine.interpolate.conditioning`."""
    slots: int
    """Latent frames of a block, as trained."""
    channels: int
    rank: int
    modulation_rank: int
    steps: int = 8
    """Denoising steps of a block that are enough."""
    trained_steps: int = 0
    version: int = VERSION


def write_adapter(path: Path, stage: StageTwo, facts: Facts, *, dtype: Any = None) -> None:
    """Write `stage`, in `dtype` (a torch dtype; None: bf16). Replaces a file only when it is whole."""
    import torch
    from safetensors.torch import save

    tensors = {name: value.detach().to(dtype or torch.bfloat16).cpu().contiguous() for name, value in _named(stage).items()}
    write_atomic(path, save(tensors, {METADATA_KEY: json.dumps(dataclasses.asdict(facts), sort_keys=True)}))


def read_facts(path: Path) -> Facts:
    """The facts of an adapter file. Raises `ModelInvalid` for anything else."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MAX_HEADER:
                raise ValueError("its header is too long")
            said = json.loads(json.loads(file.read(size))["__metadata__"][METADATA_KEY])
        facts = Facts(**said)
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ModelInvalid(f"{path} is no stage-two adapter of Sprocket ({str(error)[:120]}). Make it again with "
                           "`python -m training.pocket --stages interpolator`, or fetch the model again.") from error
    if facts.version != VERSION or facts.layout not in ("frames", "packed") or facts.slots < 3:
        raise ModelInvalid(f"{path} was written by another version of Sprocket (version {facts.version}, layout {facts.layout!r}); "
                           f"this one reads {VERSION}.")
    return facts


def load_adapter(path: Path, base: Any, facts: Facts, *, device: torch.device | None = None,
                 dtype: torch.dtype | None = None) -> StageTwo:
    """`StageTwo` over the transformer `base` with the numbers of `path`, on `device`, in `dtype`: where and in what the base works.

    None: where and in what the base's weights are now; a base that is not at work may have them elsewhere, or none.

    Raises `ModelInvalid` where they do not fit, or are not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from engine.interpolate.stage_two import StageTwo

    try:
        stage = StageTwo(base, facts.channels, rank=facts.rank, modulation_rank=facts.modulation_rank)
        tensors = load_file(path)
        parameters = _named(stage)
        if set(parameters) != set(tensors):
            raise ValueError(f"it lacks or has too many of {sorted(set(parameters) ^ set(tensors))[:3]}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != tensors[name].shape:
                    raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}")
                if not torch.isfinite(tensors[name]).all():
                    raise ValueError(f"{name} holds numbers that are not finite")
                parameter.copy_(tensors[name])
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelInvalid(f"{path} does not fit its model ({str(error)[:160]}). Fetch or make the model again.") from error
    weight = base.patch_embed.proj.weight
    return stage.to(device or weight.device, dtype or weight.dtype).requires_grad_(False)


def _named(stage: StageTwo) -> dict[str, Any]:
    named = {f"patch.{name}": value for name, value in stage.patch.named_parameters()}
    for layer, down, up in zip(stage.names, stage.down, stage.up, strict=True):
        named |= {f"lora.{layer}.down": down, f"lora.{layer}.up": up}
    return named | {f"rate.{name}": value for name, value in stage.rate.named_parameters()}
