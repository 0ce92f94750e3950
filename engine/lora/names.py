"""What the tensors of a LoRA file are called, and which layer of a CogVideoX transformer they mean. Pure.

    diffusers, peft     transformer.transformer_blocks.0.attn1.to_q.lora_A.weight, .lora_B.weight
    older diffusers     transformer.transformer_blocks.0.attn1.to_q.lora.down.weight, .lora.up.weight
    kohya and kin       lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight, .lora_up.weight, .alpha
    peft by itself      base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight
    ComfyUI             diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight
"""

from __future__ import annotations

import re

PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.")
IN_BLOCK = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear")
OUTSIDE = ("patch_embed.proj", "patch_embed.text_proj", "time_embedding.linear_1", "time_embedding.linear_2",
           "ofs_embedding.linear_1", "ofs_embedding.linear_2", "norm_out.linear", "proj_out")
"""Every matrix of diffusers' `CogVideoXTransformer3DModel`, inside and outside its blocks."""
BLOCK = re.compile(r"transformer_blocks\.(\d{1,4})\.(.+)")
FLAT = re.compile(r"lora_(?:unet|transformer)_{1,2}(.+)")
FLAT_BLOCK = re.compile(r"transformer_blocks_(\d{1,4})_(.+)")
TENSOR = re.compile(r"(.{1,200}?)\.(?:(lora_A|lora_B)(?:\.default)?\.weight|(?:lora|lora_linear_layer)[._](down|up)\.weight|(alpha))")
PARTS = {"lora_A": "A", "down": "A", "lora_B": "B", "up": "B", "alpha": "alpha"}
OTHER_KINDS = {"dora": ("lora_magnitude_vector", "dora_scale"), "LoHa": (".hada_",), "LoKr": (".lokr_",), "IA3": ("ia3_", ".on_input"),
               "LoRA with a bias": ("lora_B.bias", "lora_up.bias", ".diff_b")}
"""Relatives of LoRA by what only they have in their tensors' names."""
TEXT_ENCODER = ("text_encoder", "lora_te", "te1_", "te2_")


def parse(tensor: str) -> tuple[str, str] | None:
    """(layer as the model names it, 'A' | 'B' | 'alpha'); None: no part of a LoRA. The layer need not exist."""
    found = TENSOR.fullmatch(tensor)
    if found is None:
        return None
    part = PARTS[next(group for group in found.groups()[1:] if group)]
    return layer_name(found[1]), part


def layer_name(text: str) -> str:
    """'lora_unet_transformer_blocks_0_attn1_to_q' or 'transformer.transformer_blocks.0.attn1.to_q' -> the latter's end."""
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    flat = FLAT.fullmatch(text)
    if flat is None:
        return text
    block = FLAT_BLOCK.fullmatch(flat[1])
    start, rest, known = (f"transformer_blocks.{block[1]}.", block[2], IN_BLOCK) if block else ("", flat[1], OUTSIDE)
    return next((start + name for name in known if name.replace(".", "_") == rest), text)


def is_layer(name: str) -> bool:
    """True for a matrix that some CogVideoX transformer has."""
    block = BLOCK.fullmatch(name)
    return block[2] in IN_BLOCK if block else name in OUTSIDE


def target(name: str) -> str:
    """The layer without its block's number, as LoRA configs name targets: 'attn1.to_q'."""
    block = BLOCK.fullmatch(name)
    return block[2] if block else name


def block_of(name: str) -> int | None:
    """The number of the layer's block."""
    block = BLOCK.fullmatch(name)
    return int(block[1]) if block else None


def other_kind(tensors: list[str]) -> str | None:
    """What else than a LoRA the file holds, for people."""
    for kind, marks in OTHER_KINDS.items():
        if any(mark in tensor for mark in marks for tensor in tensors):
            return kind
    return None


def of_text_encoder(tensor: str) -> bool:
    return tensor.startswith(TEXT_ENCODER)
