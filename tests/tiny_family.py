"""Tiny random weights in the layouts of two published families that are shown more than a first frame, as whole folders."""

from __future__ import annotations

import json
from pathlib import Path

from tests.engine.tiny import save_tiny

CHANNELS = 4
"""Of the tiny latents; published: 16."""


def save_ends(folder: Path, *, as_published: bool = True) -> Path:
    """First and last frame in 2 C channels. `as_published`: by the class in its model_index; else it says so in its sprocket.json."""
    save_tiny(folder, "i2v-sincos")
    if as_published:
        _change(folder / "model_index.json", _class_name="CogVideoXInterpolationPipeline")
    else:
        (folder / "sprocket.json").write_text(json.dumps({"shown": "ends"}))
    return folder


def save_masked(folder: Path, *, noisy: bool = False, kind: str = "rope", class_name: str = "CogVideoXFunInpaintPipeline") -> Path:
    """Mask and masked video in 2 C + 1 channels, as CogVideoX-Fun saves them; `noisy`: as its version 1.1."""
    import torch
    from diffusers import CogVideoXTransformer3DModel
    from torch import nn

    save_tiny(folder, kind)
    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
    torch.manual_seed(5)
    old = model.patch_embed.proj
    if isinstance(old, nn.Conv2d):
        model.patch_embed.proj = nn.Conv2d(2 * CHANNELS + 1, old.out_channels, old.kernel_size, old.stride)
    else:
        cells = old.in_features // CHANNELS
        model.patch_embed.proj = nn.Linear((2 * CHANNELS + 1) * cells, old.out_features)
    model.register_to_config(in_channels=2 * CHANNELS + 1)
    model.save_pretrained(folder / "transformer")
    if noisy:
        _change(folder / "transformer" / "config.json", add_noise_in_inpaint_model=True)
    _change(folder / "model_index.json", _class_name=class_name)
    return folder


def _change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
