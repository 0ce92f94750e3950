"""The pocket architecture: ordinary diffusers and transformers classes at toy size.

Declares sizes only; nothing here trains. `save_pipeline` writes the layout that a stock
`CogVideoXPipeline.from_pretrained` loads.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from engine.models.convolution import use_onednn

from .tokenizer import build_tokenizer, fold_table

LATENT_CHANNELS = 8
TEXT_TOKENS = 48
"""Longest prompt the pipeline is asked to encode; the longest caption is shorter."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the family. Tests use a smaller one; released weights use the defaults."""

    vae_channels: tuple[int, ...] = (16, 32, 64, 80)
    vae_groups: int = 8
    heads: int = 8
    head_dim: int = 32
    layers: int = 6
    time_dim: int = 128
    text_dim: int = 128
    text_layers: int = 2


def build_vae(arch: Architecture) -> AutoencoderKLCogVideoX:
    kinds = len(arch.vae_channels)
    model = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * kinds,
        up_block_types=("CogVideoXUpBlock3D",) * kinds,
        block_out_channels=arch.vae_channels,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=arch.vae_groups,
        temporal_compression_ratio=4,
        sample_height=128,
        sample_width=192,
        scaling_factor=1.0,
    )
    use_onednn(model)
    return model


def build_transformer(arch: Architecture, *, pictures: bool = False) -> CogVideoXTransformer3DModel:
    """`pictures`: for image to video, with the picture's latents in as many channels again."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=arch.heads,
        attention_head_dim=arch.head_dim,
        in_channels=LATENT_CHANNELS * (2 if pictures else 1),
        out_channels=LATENT_CHANNELS,
        time_embed_dim=arch.time_dim,
        text_embed_dim=arch.text_dim,
        num_layers=arch.layers,
        sample_width=24,
        sample_height=16,
        sample_frames=25,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )


def build_text_encoder(arch: Architecture) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(fold_table()),
            d_model=arch.text_dim,
            d_kv=32,
            d_ff=2 * arch.text_dim,
            num_layers=arch.text_layers,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            decoder_start_token_id=0,
        )
    )


def build_scheduler() -> CogVideoXDPMScheduler:
    """Zero terminal SNR and trailing steps, so that sampling starts from the noise that training saw."""
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def unfold_embedding(text_encoder: T5EncoderModel) -> None:
    """Give every Title and UPPER case token the row of its lower-case twin, in place."""
    table = torch.from_numpy(fold_table())
    with torch.no_grad():
        text_encoder.shared.weight.copy_(text_encoder.shared.weight[table])


def save_pipeline(
    folder: Path,
    vae: AutoencoderKLCogVideoX,
    transformer: CogVideoXTransformer3DModel,
    text_encoder: T5EncoderModel,
    *,
    latent_rgb: dict,
    recommended: dict,
) -> None:
    """Write the diffusers layout in bf16, plus `latent_rgb.json` and `sprocket.json`."""
    unfold_embedding(text_encoder)
    pipeline = CogVideoXPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder.to(torch.bfloat16),
        vae=vae.to(torch.bfloat16),
        transformer=transformer.to(torch.bfloat16),
        scheduler=build_scheduler(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner only
    (folder / "latent_rgb.json").write_text(json.dumps(latent_rgb, indent=1) + "\n")
    _recommend(folder, recommended)


def _recommend(folder: Path, recommended: dict) -> None:
    (folder / "sprocket.json").write_text(json.dumps({"recommended": recommended, "max_frames": 49}, indent=1) + "\n")


def save_animator(folder: Path, transformer: CogVideoXTransformer3DModel, text_to_video: Path, *, recommended: dict) -> None:
    """Write an image-to-video pipeline in bf16 beside the text-to-video one it was trained from.

    Everything but the transformer is that one's, and is linked, not copied.
    """
    transformer.to(torch.bfloat16).save_pretrained(folder / "transformer", safe_serialization=True)
    for path in (folder / "transformer").glob("*.safetensors"):
        path.chmod(0o644)
    index = json.loads((text_to_video / "model_index.json").read_text())
    index["_class_name"] = "CogVideoXImageToVideoPipeline"
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for shared in ("scheduler", "text_encoder", "tokenizer", "vae", "latent_rgb.json"):
        link = folder / shared
        link.unlink(missing_ok=True)
        link.symlink_to(Path(os.path.relpath(text_to_video / shared, folder)))
    _recommend(folder, recommended)
