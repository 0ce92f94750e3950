"""A trained LoRA as a file, in every form that programs read, its scale written so that it is applied exactly once.

    diffusers   transformer.<layer>.lora_A.weight, alpha and rank in the metadata (`lora_adapter_metadata`), as diffusers saves them
    kohya       lora_unet_<layer_with_underscores>.lora_down.weight, and an .alpha beside each: what ComfyUI and others read
    comfyui     diffusion_model.<layer>.lora_A.weight and .alpha

A loader that reads alpha scales by alpha / rank; where a form has no room for alpha, or a rank of its own, it is multiplied in and said
to be the rank. `read_matrices` takes any of these back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import InvalidRequest
from engine.lora import Lora, read_lora
from engine.video.publish import write_atomic

FORMATS = ("diffusers", "kohya", "comfyui")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Matrices:
    """One layer: the change of its weight is up @ down * scale."""

    down: Tensor
    up: Tensor
    alpha: float
    rslora: bool = False

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def change(self) -> Tensor:
        """float32 (outputs, inputs)."""
        return self.up.float() @ self.down.float() * self.scale


def of_adapter(tensors: Mapping[str, Tensor], alpha: float, *, rslora: bool) -> dict[str, Matrices]:
    """Layer -> matrices, of `Adapter.final()`."""
    ends = (".lora_A.weight", ".lora_B.weight")
    layers = sorted({name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])})
    return {layer: Matrices(tensors[layer + ends[0]], tensors[layer + ends[1]], alpha, rslora) for layer in layers}


def read_matrices(path: Path) -> tuple[dict[str, Matrices], Lora, dict[str, str]]:
    """(layers, what the file is, its own notes). Raises `InvalidRequest` as `read_lora`."""
    lora = read_lora(path)
    with safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
        layers = {name: Matrices(file.get_tensor(layer.down), file.get_tensor(layer.up), layer.alpha,
                                 layer.divisor != layer.rank) for name, layer in lora.layers.items()}
    return layers, lora, notes


def save_lora(path: Path, layers: Mapping[str, Matrices], notes: Mapping[str, str], *, form: str = "diffusers", dtype: str = "fp32",
              extra: Mapping[str, Tensor] | None = None) -> None:
    """Write `layers` to `path`, whole or not at all. `extra`: further tensors by peft's names (DoRA's magnitudes; diffusers only).

    Raises `InvalidRequest` for an unknown form or precision, `StorageBlocked`.
    """
    if form not in FORMATS:
        raise InvalidRequest("format", f"is {form[:20]!r}. Use one of {', '.join(FORMATS)}.", suggestion="diffusers")
    if dtype not in DTYPES:
        raise InvalidRequest("dtype", f"is {dtype[:20]!r}. Use one of {', '.join(DTYPES)}.", suggestion="fp32")
    kind = DTYPES[dtype]
    tensors: dict[str, Tensor] = {}
    said = {key: value for key, value in notes.items() if key not in ("lora_adapter_metadata", "format")}
    if form == "diffusers":
        for name, layer in layers.items():
            tensors[f"transformer.{name}.lora_A.weight"] = layer.down.to(kind)
            tensors[f"transformer.{name}.lora_B.weight"] = layer.up.to(kind)
        for name, tensor in (extra or {}).items():
            tensors[f"transformer.{name}"] = tensor.to(kind)
        said |= {"format": "pt", "lora_adapter_metadata": json.dumps(_adapter_config(layers, dora=bool(extra)), sort_keys=True)}
    else:
        for name, layer in layers.items():
            flat = f"lora_unet_{name.replace('.', '_')}" if form == "kohya" else f"diffusion_model.{name}"
            down, up = ("lora_down", "lora_up") if form == "kohya" else ("lora_A", "lora_B")
            tensors[f"{flat}.{down}.weight"] = layer.down.to(kind)
            tensors[f"{flat}.{up}.weight"] = layer.up.to(kind)
            tensors[f"{flat}.alpha"] = torch.tensor(layer.scale * layer.rank, dtype=torch.float32)  # readers divide by the rank
        said |= {"format": "pt", "ss_network_dim": str(max(layer.rank for layer in layers.values()))}
    write_atomic(path, _ordered(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=said)))


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header's names in order: the library writes notes in any, and equal LoRAs should be equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    notes = header.pop("__metadata__", {})
    text = json.dumps({"__metadata__": dict(sorted(notes.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length:]


def _adapter_config(layers: Mapping[str, Matrices], *, dora: bool) -> dict[str, Any]:
    """peft's config of the transformer, as diffusers writes it. Layers that differ from the most have an entry of their own."""
    ranks = [layer.rank for layer in layers.values()]
    alphas = [layer.alpha for layer in layers.values()]
    rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
    config = {"r": rank, "lora_alpha": alpha if alpha != int(alpha) else int(alpha),
              "rank_pattern": {name: layer.rank for name, layer in layers.items() if layer.rank != rank},
              "alpha_pattern": {name: layer.alpha for name, layer in layers.items() if layer.alpha != alpha},
              "target_modules": sorted({name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name for name in layers}),
              "use_rslora": any(layer.rslora for layer in layers.values()), "use_dora": dora, "bias": "none", "lora_bias": False,
              "lora_dropout": 0.0, "peft_type": "LORA"}
    return {f"transformer.{key}": value for key, value in config.items()}


def resized(layers: Mapping[str, Matrices], rank: int) -> tuple[dict[str, Matrices], float]:
    """(the nearest LoRA of `rank` at most, share of the change that is kept).

    By the singular values of each layer's change (Eckart-Young), without ever forming it: U S V of up @ down = Qu (Ru Rd^T) Qd^T.
    Raises `InvalidRequest` for a rank below 1.
    """
    if rank < 1:
        raise InvalidRequest("rank", f"is {rank}; at least 1.", suggestion=1)
    made: dict[str, Matrices] = {}
    kept = whole = 0.0
    for name, layer in layers.items():
        up_q, up_r = torch.linalg.qr(layer.up.double())
        down_q, down_r = torch.linalg.qr(layer.down.double().T)
        u, s, v = torch.linalg.svd(up_r @ down_r.T * layer.scale)
        most = min(rank, len(s))
        root = s[:most].sqrt()
        made[name] = Matrices((root[:, None] * (v[:most] @ down_q.T)).float(), ((up_q @ u[:, :most]) * root).float(), float(most))
        kept, whole = kept + float(s[:most].square().sum()), whole + float(s.square().sum())
    return made, math.sqrt(kept / whole) if whole else 1.0


def merged(weights: Mapping[str, Tensor], layers: Mapping[str, Matrices], strength: float = 1.0) -> dict[str, Tensor]:
    """A transformer's weights with the LoRA in them, each in the precision it had. Raises `InvalidRequest` for layers it has not."""
    result = dict(weights)
    for name, layer in layers.items():
        key = f"{name}.weight"
        change = layer.change() * strength
        if key not in weights or weights[key].shape != change.shape:
            raise InvalidRequest("loras", f"changes {name}, which this model has not in that shape.")
        result[key] = (weights[key].float() + change).to(weights[key].dtype)
    return result
