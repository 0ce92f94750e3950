"""The LoRAs of a request: their files by hash in one folder, and whether they fit a checkpoint. No torch.

    loras/<sha256>.safetensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.digest import file_sha256
from engine.errors import InvalidRequest
from engine.lora import names
from engine.lora.file import Lora, read_lora
from engine.models.weights import component_weights

if TYPE_CHECKING:
    from engine.spec import ModelSpec


def lora_file(folder: Path | None, name: str) -> Path:
    """The file of a LoRA. Raises `InvalidRequest` if it is not there."""
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        raise InvalidRequest("loras", f"{name[:12]}... is not among the LoRAs of this studio. Add its file again (`sprocket loras "
                                      "add FILE`): the same file gets the same name. Or leave it out.")
    return path


def model_layers(spec: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """Shape of the weight of every layer of the transformer, by the layer's name. Raises `ModelInvalid`."""
    return _layers(spec.path, spec.fingerprint)


@lru_cache(maxsize=8)
def _layers(folder: Path, _fingerprint: str) -> Mapping[str, tuple[int, ...]]:
    return {name.removesuffix(".weight"): shape for file in component_weights(folder / "transformer")
            for name, (_, shape) in file.tensors.items() if name.endswith(".weight") and len(shape) > 1}


def check_fit(lora: Lora, layers: Mapping[str, tuple[int, ...]], model: str, called: str) -> None:
    """Raises `InvalidRequest` where `lora` changes a layer that the model has not, or has in another shape."""
    shown = repr(called[:80])
    for name, layer in lora.layers.items():
        shape = layers.get(name)
        if shape is None:
            blocks = 1 + max((block for known in layers if (block := names.block_of(known)) is not None), default=-1)
            raise InvalidRequest("loras", f"{shown} changes {name}, which {model} does not have (it has {blocks} blocks, the LoRA "
                                          f"wants {lora.blocks}). It was made for another model.")
        if len(shape) != 2:
            raise InvalidRequest("loras", f"{shown} changes {name}, which is a convolution in {model}; only matrices can be changed.")
        if shape != (layer.gives, layer.takes):
            raise InvalidRequest("loras", f"{shown} changes a {name} of {layer.gives} x {layer.takes}; that of {model} is {shape[0]} x "
                                          f"{shape[1]}. It was made for another model.")


def read_stack(loras: Sequence[tuple[str, float]], folder: Path | None, spec: ModelSpec, *,
               verify: bool = False) -> tuple[Lora, ...]:
    """The files of `loras` (name, weight), in order, each known to fit `spec`.

    `verify`: read every byte and compare with its hash. Raises `InvalidRequest`, `ModelInvalid`.
    """
    stack = []
    for name, _weight in loras:
        path = lora_file(folder, name)
        called = f"{name[:12]}..."
        try:
            same = not verify or file_sha256(path) == path.stem
        except OSError as error:
            raise InvalidRequest("loras", f"{called} cannot be read ({error.strerror}).") from error
        if not same:
            raise InvalidRequest("loras", f"{called} was changed after it was added. Add its file again.")
        lora = _read(path, path.stat().st_mtime_ns)
        check_fit(lora, model_layers(spec), spec.name, called)
        stack.append(lora)
    return tuple(stack)


@lru_cache(maxsize=32)
def _read(path: Path, _changed: int) -> Lora:
    """Reading a file takes as long as reading all its numbers, and a page forecasts with every click."""
    return read_lora(path, f"{path.name[:12]}...")


def lora_bytes(stack: Sequence[Lora], bytes_per_number: int) -> int:
    """What `stack` takes on the device beside the model."""
    return sum(lora.numbers for lora in stack) * bytes_per_number
