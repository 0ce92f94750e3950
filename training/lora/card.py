"""The model card beside an exported LoRA: what it is, how it was made, how to use it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from training.lora.config import TrainConfig


def card(config: TrainConfig, *, base: str, facts: Mapping[str, Any], previews: Sequence[tuple[str, str]],
         held_out: Sequence[tuple[int, float]], i2v: bool) -> str:
    """README.md. `base`: hub id of the model, where it has one. `previews`: (prompt, file beside the card). `held_out`: (step, mean), in
    order."""
    task = "image-to-video" if i2v else "text-to-video"
    front: dict[str, Any] = {
        "base_model": base, "library_name": "diffusers", "pipeline_tag": task,
        "tags": ["lora", "cogvideox", "diffusers-training", "template:sd-lora", task],
        "widget": [{"text": prompt, "output": {"url": file}} for prompt, file in previews]}
    if config.trigger:
        front["instance_prompt"] = config.trigger
    kind = "CogVideoXImageToVideoPipeline" if i2v else "CogVideoXPipeline"
    loss = "The loss on held-out clips was not looked at." if facts.get("held_out") else "No clips were held out."
    if held_out:
        looks = (held_out[0], held_out[-1]) if len(held_out) > 1 else held_out
        loss = f"Held-out loss {', '.join(f'{mean:.4f} at step {step}' for step, mean in looks)}."
    word = f"\nUse the word `{config.trigger}` to call it up.\n" if config.trigger else ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in (
        ("rank, alpha", f"{config.rank}, {config.effective_alpha:g}"), ("layers", ", ".join(config.layers)),
        ("steps, batch", f"{facts.get('step', config.steps)}, {config.batch * config.accumulate}"),
        ("learning rate", f"{config.learning_rate:g}, {config.optimizer}, {config.schedule}"),
        ("caption dropout", f'{config.caption_dropout:g}, to the encoding of ""'), ("clips", facts.get("clips", "?")),
        ("seed", config.seed)))
    return f"""---
{yaml.safe_dump(front, sort_keys=True, allow_unicode=True)}---

# {config.name}

A LoRA for {base}, trained with Sprocket. {loss}
{word}
```python
import torch
from diffusers import {kind}

pipe = {kind}.from_pretrained("{base}", torch_dtype=torch.bfloat16)
pipe.load_lora_weights(".", weight_name="{config.name}.safetensors")  # its alpha is in the file: set_adapters needs no factor
```

| | |
|---|---|
{rows}
"""
