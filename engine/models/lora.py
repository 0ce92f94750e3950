"""LoRAs on a loaded transformer: a low-rank path beside each layer they change; the layer itself is never touched.

    y = layer(x) + sum over LoRAs of  B (A x) * (weight * alpha / rank)

As peft computes it, bit for bit, in the order of the request. It works whatever the layer is (8-bit weights cannot take a
LoRA in), in any order with casting weights to 8 bits, and without the paths the base model is as it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import InvalidRequest
from engine.lora import Lora, lora_file, read_stack
from engine.spec import ModelSpec

Wanted = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """The part of one LoRA at one layer."""

    down: Tensor
    """A (rank, inputs)."""
    up: Tensor
    """B (outputs, rank)."""
    alpha: float
    divisor: float


class SidePath:
    """A forward hook on one layer. It stands outside the module tree: names, devices and precisions of the base stay its own."""

    def __init__(self) -> None:
        self.changes: list[tuple[Tensor, Tensor, float]] = []
        """A, B and the factor of each LoRA."""
        self.ran = False

    def __call__(self, _layer: Any, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        x, total = inputs[0], result
        for down, up, factor in self.changes:
            x = x.to(down.dtype)
            total = total + F.linear(F.linear(x, down), up) * factor
        if not self.ran:
            self.ran = True
        return total.to(result.dtype)


class LoraStack:
    """The LoRAs on one transformer. Nothing but the LoRAs' own weights is loaded or dropped when they change."""

    def __init__(self, transformer: Any, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._transformer, self._spec, self._dtype, self._device = transformer, spec, dtype, device
        self._wanted: Wanted = ()
        self._loaded: dict[str, dict[str, Change]] = {}
        self._paths: dict[str, SidePath] = {}
        self._hooks: list[Any] = []

    def use(self, wanted: Wanted, folder: Path | None) -> None:
        """From now on exactly the LoRAs `wanted` (name, weight) of `folder` work.

        Raises `InvalidRequest` for a file that is gone, changed, damaged or of another model; then nothing has changed.
        """
        if wanted == self._wanted:
            return
        new = tuple(pair for pair in wanted if pair[0] not in self._loaded)
        read = read_stack(new, folder, self._spec, verify=True)
        loaded = {name: self._load(lora_file(folder, name), lora) for (name, _), lora in zip(new, read, strict=True)}
        self.close()
        self._loaded = {name: loaded.get(name) or self._loaded[name] for name, _ in wanted}
        for name, weight in wanted:
            for layer, change in self._loaded[name].items():
                factor = weight * change.alpha / change.divisor
                self._paths.setdefault(layer, SidePath()).changes.append((change.down, change.up, factor))
        self._hooks = [self._transformer.get_submodule(layer).register_forward_hook(path) for layer, path in self._paths.items()]
        self._wanted = wanted
        _forget_compiled()

    def check(self) -> None:
        """Raises RuntimeError if a prediction was made past a side path: code that replaces a layer must call it, or lose the LoRA."""
        if missed := [layer for layer, path in self._paths.items() if not path.ran]:
            raise RuntimeError(f"{len(missed)} layers with a LoRA did not run as layers ({missed[0]}), so it had no effect there.")

    def close(self) -> None:
        """The base model alone."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._paths, self._wanted = [], {}, ()

    def _load(self, path: Path, lora: Lora) -> dict[str, Change]:
        try:
            with safe_open(path, framework="pt") as file:
                matrices = {tensor: file.get_tensor(tensor).to(self._device, self._dtype)
                            for layer in lora.layers.values() for tensor in (layer.down, layer.up)}
        except (SafetensorError, OSError) as error:
            raise InvalidRequest("loras", f"{path.name[:12]}... cannot be loaded ({str(error)[:200]}). Add its file again.") from error
        return {name: Change(matrices[layer.down], matrices[layer.up], layer.alpha, layer.divisor)
                for name, layer in lora.layers.items()}


def _forget_compiled() -> None:
    """Compiled code does not notice that hooks come and go. Where nothing was compiled there is nothing to forget."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
