"""Small random LoRA files in the formats in use, for a transformer whose layers are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.lora import model_layers
from engine.spec import read_spec

ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")


def lora_weights(model: Path, *, rank: int = 4, seed: int = 1, targets: tuple[str, ...] = ATTENTION,
                 size: float = 0.3) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{layer: (A, B)} for every layer of the model in `model` that ends in one of `targets`."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(rank, takes, generator=generator) * size, torch.randn(gives, rank, generator=generator) * size)
            for name, shape in sorted(model_layers(read_spec(model)).items()) if len(shape) == 2 and name.endswith(targets)
            for gives, takes in [shape]}


def save_lora(path: Path, weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]], *, style: str = "peft",
              alpha: float | None = None, config: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32,
              metadata: Mapping[str, str] | None = None) -> Path:
    """`style`: 'peft', 'older', 'kohya' or 'bare'. `alpha`: as tensors. `config`: as diffusers' adapter metadata."""
    tensors = {}
    for layer, (down, up) in weights.items():
        stem = {"peft": f"transformer.{layer}", "older": f"transformer.{layer}", "bare": layer,
                "kohya": f"lora_unet_{layer.replace('.', '_')}"}[style]
        ends = {"peft": ("lora_A", "lora_B"), "bare": ("lora_A", "lora_B"), "older": ("lora.down", "lora.up"),
                "kohya": ("lora_down", "lora_up")}[style]
        for end, matrix in zip(ends, (down, up), strict=True):
            tensors[f"{stem}.{end}.weight"] = matrix.to(dtype).contiguous()
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    notes = dict(metadata or {"format": "pt"})
    if config is not None:
        notes["lora_adapter_metadata"] = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    save_file(tensors, path, notes)
    return path
