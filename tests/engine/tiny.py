"""True architectures with random weights, small enough to run in milliseconds. Saved once a test process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.hardware import Hardware

CPU = Hardware(device="cpu", name="test processor", total_bytes=16 * 10**9, free_bytes=12 * 10**9, cores=1, bf16=False)

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "rope": {"use_rotary_positional_embeddings": True},
    "sincos": {"use_rotary_positional_embeddings": False},
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
}
IMAGE_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "rope": {"use_learned_positional_embeddings": True},  # as CogVideoX-5B-I2V
    "sincos": {},
    "1.5": {"ofs_embed_dim": 8},  # as CogVideoX1.5-5B-I2V
}


def save_tiny(folder: Path, kind: str = "rope", scheduler: str = "dpm", layers: tuple[int, int] = (3, 2),
              heads: int = 2, words: int = 16) -> Path:
    """A CogVideoX pipeline in diffusers layout: 96 x 64 pixels, 9 frames, 4 latent channels, 16 text tokens.

    `kind`: of TRANSFORMERS; 'i2v-' and a kind is its image-to-video form. `layers`: of transformer and text encoder.
    `heads`, `words`: attention heads of the transformer, and its text tokens.
    """
    import torch
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXDPMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    image, kind = kind.startswith("i2v-"), kind.removeprefix("i2v-")
    letters = [(c, -5.0) for c in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *letters], extra_ids=0)
    text = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=layers[1], num_heads=4,
                                   feed_forward_proj="gated-gelu", is_encoder_decoder=False))
    vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
                                 sample_height=64, sample_width=96, invert_scale_latents=image and kind == "1.5")
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=16, in_channels=8 if image else 4, out_channels=4, time_embed_dim=8,
        text_embed_dim=32, num_layers=layers[0], sample_width=12, sample_height=8, sample_frames=9, max_text_seq_length=words,
        **TRANSFORMERS[kind], **(IMAGE_TRANSFORMERS[kind] if image else {}))
    noise = CogVideoXDPMScheduler if scheduler == "dpm" else CogVideoXDDIMScheduler
    steps = noise(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0,
                  timestep_spacing="trailing", clip_sample=False)
    saved_as = CogVideoXImageToVideoPipeline if image else CogVideoXPipeline
    pipe = saved_as(tokenizer=tokenizer, text_encoder=text.eval(), vae=vae.eval(), transformer=transformer.eval(),
                    scheduler=steps)
    pipe.save_pretrained(folder)
    return folder
