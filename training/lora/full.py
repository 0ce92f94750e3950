"""Full fine-tuning: every weight of the transformer, kept in float32 whatever precision the arithmetic has.

    training     float32 weights; products in bf16 by autocast where that is the run's precision
    showing      looks and previews work with the weights as they would be exported: rounded to that precision
    exported     a model folder in diffusers layout: the base's other files (linked, not copied, on one disk), and its transformer's weight
                 files with the trained numbers, each in the precision and the file the base has it in
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import InvalidRequest
from engine.models.loading import WeightFiles
from engine.video.publish import storage_errors
from training.lora.config import TrainConfig
from training.lora.merge import OF_THE_BASE
from training.lora.trained import Trained

PART = ".part"


class FullWeights(Trained):
    """All weights of `transformer`, by its own names."""

    def __init__(self, transformer: Any, config: TrainConfig, folder: Path) -> None:
        """`folder`: of the base, whose files have numbers that a rounded transformer has no more."""
        files = WeightFiles(folder / "transformer")
        self.kept = next(transformer.parameters()).dtype
        try:
            for name, parameter in transformer.named_parameters():
                if parameter.dtype != torch.float32:
                    exact = torch.empty(parameter.shape, dtype=torch.float32)
                    files.read(name, exact)
                    parameter.data = exact.to(parameter.device)
                parameter.requires_grad_(True)
        finally:
            files.close()
        super().__init__(transformer, config, dict(sorted(transformer.named_parameters())))
        self.begin_average()

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Inside, the transformer has the weights that would be exported, in the precision of the arithmetic."""
        if self.kept == torch.float32:
            with super().showing():
                yield
            return
        if self.shared_out:  # FSDP holds the numbers, so the products are rounded instead
            with super().showing(), torch.autocast(next(iter(self.parameters.values())).device.type, self.kept):
                yield
            return
        masters = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = (masters if self.average is None else self.average)[name].to(self.kept)
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = masters[name]


def save_model(base: Path, weights: Mapping[str, Tensor], out: Path, facts: Mapping[str, Any],
               beside: Callable[[Path], None] = lambda folder: None) -> None:
    """The model `base` with `weights` for its transformer's, as the folder `out`, complete or as it was before.

    `beside`: puts further files into it. One weight file is in memory at a time. Raises `InvalidRequest` for weights the base has not,
    `StorageBlocked`.
    """
    part = out.with_name(f".{out.name}{PART}")
    with storage_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(base, part, copy_function=_linked, ignore=lambda folder, names: [
                name for name in names if weights and Path(folder).name == "transformer" and name.endswith(".safetensors")])
            left = set(weights)
            for path in sorted((base / "transformer").glob("*.safetensors")) if weights else ():
                left -= _written(path, part / "transformer" / path.name, weights)
            if left:
                raise InvalidRequest("model", f"has no weight {min(left)}, which was trained.")
            beside(part)
            # What was measured of the base is not so of this. All may be the base's own files under a second name: never written into.
            for name in (*OF_THE_BASE, "magcache.json", "training.json"):
                (part / name).unlink(missing_ok=True)
            (part / "training.json").write_text(json.dumps(dict(facts), indent=1))
            old = out.with_name(f".{out.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if out.exists():
                out.rename(old)
            part.rename(out)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _written(base: Path, out: Path, weights: Mapping[str, Tensor]) -> set[str]:
    """One weight file; the names it holds."""
    with safe_open(base, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    made = {name: weights[name].to(value.dtype).contiguous() if name in weights else value for name, value in tensors.items()}
    save_file(made, out, metadata=notes or {"format": "pt"})
    return set(made)


def _linked(source: str, target: str) -> None:
    """The same bytes under a second name where the disk can do that, else a copy."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copy2(real, target)
