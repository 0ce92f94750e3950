"""A checkpoint with a LoRA in its weights: every file of the base but those about it, and the transformer's weights changed, one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from engine.errors import InvalidRequest
from engine.video.publish import storage_errors
from training.lora.export import merged, read_matrices

OF_THE_BASE = ("README.md", "eval.json", "sprocket-download.json")
"""Files that speak of the base and of it alone: of its quality, and of the checksums, the commit and the licence it came with."""


def merge_into(base: Path, lora: Path, out: Path, strength: float = 1.0) -> None:
    """Write the merged model to the new folder `out`, complete or not at all.

    One weight file is in memory at a time. Raises `InvalidRequest` for layers the base has not, `StorageBlocked`.
    """
    layers, _lora, _notes = read_matrices(lora)
    part = out.with_name(f".{out.name}.part")
    with storage_errors(out.parent):
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(base, part, symlinks=False)
            for name in OF_THE_BASE:
                (part / name).unlink(missing_ok=True)
            left = set(layers)
            for path in sorted((part / "transformer").glob("*.safetensors")):
                with safe_open(path, "pt") as file:
                    weights, notes = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
                here = {name: layer for name, layer in layers.items() if f"{name}.weight" in weights}
                left -= here.keys()
                save_file(merged(weights, here, strength), path, metadata=notes or {"format": "pt"})
            if left:
                raise InvalidRequest("loras", f"changes {min(left)}, which this model has not.")
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
