"""The two checkpoints at true size with random-normal weights made on the device, and toys of the same classes for a self-test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu.device import Device
from engine.facts import configs, published
from engine.memory import Shape, latent_frames, tokens
from engine.spec import ModelSpec

TOY = {
    "transformer": {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
                    "text_embed_dim": 32, "num_layers": 3, "sample_width": 12, "sample_height": 8, "sample_frames": 9,
                    "max_text_seq_length": 16},
    "vae": {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
            "sample_height": 64, "sample_width": 96},
    "text_encoder": {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}
"""What a toy's configs have instead of the published ones'."""


@dataclass(frozen=True)
class Case:
    """One checkpoint and the clip it makes."""

    name: str
    configs: dict[str, dict[str, Any]]
    index: dict[str, Any]
    spec: ModelSpec
    shape: Shape

    @property
    def tokens(self) -> int:
        return tokens(self.spec, self.shape)

    @property
    def latents(self) -> tuple[int, int, int, int, int]:
        frames, _ = latent_frames(self.spec, self.shape.frames)
        scale = self.spec.spatial_scale
        return 1, frames, self.spec.latent_channels, self.shape.height // scale, self.shape.width // scale


def case(name: str, *, toy: bool) -> Case:
    """'CogVideoX-2b' or 'CogVideoX-5b' at 49 x 480 x 720 with guidance; a toy at 9 x 64 x 96."""
    spec, found, index = published(name), configs(name), _index(name)
    if not toy:
        return Case(name, found, index, spec, Shape(49, 480, 720, True))
    found = {part: values | TOY.get(part, {}) for part, values in found.items()}
    own = found["transformer"]
    spec = replace(spec, layers=own["num_layers"], heads=own["num_attention_heads"],
                   width=own["num_attention_heads"] * own["attention_head_dim"], latent_channels=4, native_width=96, native_height=64,
                   native_frames=9, max_text_tokens=16, text_width=32, vae_channels=(8, 8, 8, 8), vae_layers=1)
    return Case(f"toy {name}", found, index, spec, Shape(9, 64, 96, True))


def _index(name: str) -> dict[str, Any]:
    from engine import facts

    return dict(facts._facts(name)["model_index"])


def build(case: Case, part: str, device: Device) -> Any:
    """One component on `device` in its dtype: 'transformer', 'vae' or 'text_encoder'."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    config = case.configs[part]
    with torch.device("meta"):
        module = (T5EncoderModel(T5Config(**config)) if part == "text_encoder" else
                  (CogVideoXTransformer3DModel if part == "transformer" else AutoencoderKLCogVideoX).from_config(config))
    module = module.to(device.dtype).to_empty(device=device.torch).eval().requires_grad_(False)
    if part == "text_encoder":
        module.tie_weights()
    fill(module, device)
    if part == "transformer" and not config.get("use_rotary_positional_embeddings"):
        _fill_positions(module)
    return module


@torch.no_grad()
def fill(module: nn.Module, device: Device) -> None:
    """Random numbers of standard deviation 1 / sqrt(inputs) for matrices and convolutions, 1 for norms, small ones for biases."""
    generator = torch.Generator(device.torch).manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=generator)
        elif name.endswith("bias"):
            weight.normal_(0, 0.02, generator=generator)
        else:
            weight.fill_(1)


def _fill_positions(transformer: Any) -> None:
    """The sine table, which is no weight: made from nothing by its own class."""
    embed = transformer.patch_embed
    table = embed._get_positional_embeddings(embed.sample_height, embed.sample_width, embed.sample_frames)
    embed.pos_embedding.copy_(table)


@dataclass
class Stepping:
    """One transformer and what a true step needs: latents, text, tables, scheduler."""

    case: Case
    device: Device
    transformer: Any

    def __post_init__(self) -> None:
        from diffusers import CogVideoXDDIMScheduler

        from engine.models.attention import as_complex
        from engine.models.cogvideox import CogVideoX
        from engine.models.steps import DdimSteps

        spec = self.case.spec
        self.text = self.device.normal(2, spec.max_text_tokens, spec.text_width, seed=1)
        self.start = self.device.normal(*self.case.latents, seed=2)
        self.tables: Any = None
        self.picture: Any = None
        """Tables of one frame, which the engine prepares a transformer with."""
        if spec.position == "rope":
            owner: Any = SimpleNamespace(transformer=self.transformer, spec=spec, device=self.device.torch)
            self.tables = CogVideoX._new_rotary_table(owner, self.case.latents)
            config = self.transformer.config
            frame = (1, spec.patch_size_t or 1, spec.latent_channels, config.sample_height, config.sample_width)
            self.picture = CogVideoX._new_rotary_table(owner, frame)
        self.complex = None if self.tables is None else as_complex(self.tables)
        scheduler = CogVideoXDDIMScheduler.from_config(self.case.configs["scheduler"])
        self.stepper = DdimSteps(scheduler, 50, 50, self.device.torch)

    @torch.inference_mode()
    def velocity(self, rotary: Any, index: int = 10) -> Tensor:
        """The prediction for both halves of guidance at step `index`: what precision is judged by."""
        made: Tensor = self.transformer(hidden_states=torch.cat([self.start] * 2), encoder_hidden_states=self.text, image_rotary_emb=rotary,
                                        timestep=self.stepper.timesteps[index].expand(2), return_dict=False)[0]
        return made.float()

    @torch.inference_mode()
    def step(self, rotary: Any, index: int = 10) -> Tensor:
        """One denoising step: both halves of guidance in one batch, their weighting, the scheduler."""
        without, given = self.velocity(rotary, index).chunk(2)
        stepped, _ = self.stepper.step(without + 6.0 * (given - without), index, self.start, None, torch.Generator())
        return stepped.to(self.device.dtype)


def save(case: Case, folder: Path, device: Device) -> None:
    """The whole checkpoint in diffusers layout, weights made on the device one component after the other."""
    import json

    from diffusers import CogVideoXDDIMScheduler
    from transformers import T5Tokenizer

    for part in ("transformer", "vae", "text_encoder"):
        module = build(case, part, device)
        if hasattr(module, "register_to_config"):
            module.save_pretrained(folder / part, max_shard_size="5GB")
        else:
            module.save_pretrained(folder / part, max_shard_size="5GB", safe_serialization=True)
        del module
        device.free()
    letters = [(char, -5.0) for char in "abcdefghijklmnopqrstuvwxyz"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *letters]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder / "tokenizer")
    CogVideoXDDIMScheduler.from_config(case.configs["scheduler"]).save_pretrained(folder / "scheduler")
    index = case.index | {"scheduler": ["diffusers", "CogVideoXDDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
