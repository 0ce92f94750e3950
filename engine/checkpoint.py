"""Saved sampling states: a job that was killed goes on where it was, and ends with the same pixels.

    workspace/step-0012.safetensors     tensors latents, clean, generator, anchor-N (of a cache); JSON (fingerprint, step, sha256)

A new file replaces nothing until it is whole on the disk, and the one before it is kept; whatever cannot be trusted is
passed over, at worst to step 0. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import CheckpointMismatch
from engine.plan import Plan
from engine.sample import SampleState
from engine.video.publish import write_atomic

log = logging.getLogger(__name__)
CHECKPOINT_VERSION = 1
KEEP = 2
PATTERN = "step-*.safetensors"
ANCHOR = "anchor-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state and the generator's state at that moment."""

    state: SampleState
    generator: Tensor
    """uint8, `torch.Generator.get_state()`."""
    seconds: float
    """Wall time of the sampling so far, over all attempts."""

    def to(self, device: torch.device) -> Checkpoint:
        """The same with its latents on `device`; the generator's state stays on the processor."""
        old = self.state
        clean = None if old.clean is None else old.clean.to(device)
        anchors = tuple((step, latents.to(device)) for step, latents in old.anchors)
        return replace(self, state=SampleState(old.step, old.latents.to(device), clean, anchors))


def fingerprint(plan: Plan, changes: Sequence[float] | None = None) -> dict[str, Any]:
    """What must be equal for a saved state to lead to the same pixels: request, weights, arithmetic, versions.

    `changes`: MagCache's, which decide what is skipped. On how many devices a clip is made changes last bits only, so one that is
    begun on two goes on on one.
    """
    import diffusers

    return {"version": CHECKPOINT_VERSION, "request": plan.request().to_json() | {"model": "", "parallel": None},
            "model": plan.spec.fingerprint, "dtype": plan.dtype, "device": plan.device.split(":")[0],
            "attention": plan.attention, "compile": plan.compile,
            "torch": torch.__version__, "diffusers": diffusers.__version__} | ({} if changes is None else {"changes": list(changes)})


def save_checkpoint(workspace: Path, state: SampleState, generator: torch.Generator, mark: Mapping[str, Any],
                    seconds: float) -> Path:
    """Write `state` durably, then drop all but the `KEEP` files up to it. Raises `StorageBlocked`.

    Files of later steps are of another request or version, or damaged: this run would have begun there otherwise.
    """
    tensors = {"latents": state.latents, "generator": generator.get_state()}
    if state.clean is not None:
        tensors["clean"] = state.clean
    tensors |= {f"{ANCHOR}{step}": latents for step, latents in state.anchors}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = {"fingerprint": mark, "step": state.step, "seconds": seconds,
            "sha256": _digest(tensors)}
    path = workspace / f"step-{state.step:04d}.safetensors"
    write_atomic(path, save(tensors, {"sprocket": json.dumps(note, sort_keys=True)}))
    files = sorted(workspace.glob(PATTERN))
    last = files.index(path) + 1
    for other in files[last:] + files[:max(0, last - KEEP)]:
        other.unlink(missing_ok=True)
    return path


def newest_checkpoint(workspace: Path, mark: Mapping[str, Any], shape: tuple[int, ...], steps: int) -> Checkpoint | None:
    """The newest saved state that is whole and belongs to `mark`, on the processor; None: start from step 0. Never raises for a bad
    file."""
    for path in sorted(workspace.glob(PATTERN), reverse=True):
        try:
            return _read(path, mark, shape, steps)
        except (CheckpointMismatch, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is passed over: %s", path.name, error)
    return None


def _read(path: Path, mark: Mapping[str, Any], shape: tuple[int, ...], steps: int) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        note = json.loads((file.metadata() or {})["sprocket"])
        if note["fingerprint"] != json.loads(json.dumps(mark)):
            raise CheckpointMismatch("it belongs to another request, model or version")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if note["sha256"] != _digest(tensors):
        raise CheckpointMismatch("its content does not match its checksum")
    step, latents, clean = note["step"], tensors["latents"], tensors.get("clean")
    if not isinstance(step, int) or not 1 <= step <= steps or tuple(latents.shape) != tuple(shape):
        raise CheckpointMismatch(f"step {step} of {steps} with latents {tuple(latents.shape)} does not fit")
    anchors = sorted((int(name.removeprefix(ANCHOR)), kept) for name, kept in tensors.items() if name.startswith(ANCHOR))
    if any(not 0 <= index < step or kept.shape != latents.shape for index, kept in anchors):
        raise CheckpointMismatch("the steps its cache was filled by do not fit")
    return Checkpoint(SampleState(step, latents, clean, tuple(anchors)), tensors["generator"], float(note["seconds"]))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """safetensors has no checksum of its own, and a flipped bit in a latent would be a wrong clip without an error."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
