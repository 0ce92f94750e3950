"""How much memory and arithmetic a clip takes, from shapes alone. Pure formulas, no torch.

Symbols: B batch (2 with guidance), N video tokens, T text tokens, d transformer width, L layers, h x w latent size.

Work (multiply-adds x 2), per stage:
    sample   steps * B * L * (24 n d^2 + 4 n^2 d),  n = N + T      a transformer layer: 12 d^2 weights, two n x n products
    decode   2 * 27 * sum over VAE levels of (frames * height * width at that level) * weights of its 3x3x3 convolutions
Memory, peak over the stages:
    weights  parameters * bytes per number
    sample   weights + B n d * 14 numbers (residual, norm, q, k, v, attention, 4d inner of the feed-forward twice) + latents
    decode   weights + for the last VAE level, one chunk of frames at full size: 8 maps of its widest channels
    program  what the interpreter with torch holds before any weight
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.spec import ModelSpec

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
PROGRAM_BYTES = {"cpu": 580 * 2**20, "cuda": 900 * 2**20}
"""CPU: resident set after the imports, measured. CUDA: context and allocator slack on the device."""
SAMPLE_MAPS = 14
DECODE_MAPS = 8
CHUNK_FRAMES = 9
"""Frames of the first, largest decoded chunk (3 latent frames)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A clip's size in pixels and frames, and whether guidance doubles the batch."""

    frames: int
    height: int
    width: int
    guided: bool


def latent_frames(spec: ModelSpec, frames: int) -> tuple[int, int]:
    """(latent frames sampled, how many of the first ones are padding): 1.5 pads to whole patches in time."""
    real = (frames - 1) // spec.temporal_scale + 1
    patch = spec.patch_size_t or 1
    padding = -real % patch
    return real + padding, padding


def tokens(spec: ModelSpec, shape: Shape) -> int:
    """Video and text tokens the transformer sees."""
    sampled, _ = latent_frames(spec, shape.frames)
    area = (shape.height // spec.size_multiple) * (shape.width // spec.size_multiple)
    return sampled // (spec.patch_size_t or 1) * area + spec.max_text_tokens


def stage_work(spec: ModelSpec, shape: Shape, steps: int, *, given_frames: int = 0) -> dict[str, float]:
    """Work by stage; only ratios between two clips of one model and machine mean anything.

    load: bytes of weights; encode: text passes, and half a decoder's work for each of the `given_frames` of an image or
    video; sample, decode: arithmetic; verify: pixels.
    """
    n, batch, d = tokens(spec, shape), 2 if shape.guided else 1, spec.width
    pixels = float(shape.frames * shape.height * shape.width)
    return {
        "load": float(sum(spec.component_bytes.values())),
        "encode": float(batch * spec.component_parameters["text_encoder"] * spec.max_text_tokens)
                  + given_frames * shape.height * shape.width * decode_flops_per_pixel(spec) / 4,
        "sample": float(steps) * batch * spec.layers * (24.0 * n * d * d + 4.0 * n * n * d),
        "decode": pixels * decode_flops_per_pixel(spec),
        "verify": pixels,
    }


def decode_flops_per_pixel(spec: ModelSpec) -> float:
    """Of the VAE decoder, averaged over an output pixel; the 3x3x3 convolutions are all that counts."""
    channels = spec.vae_channels[::-1]
    levels = len(channels) - 1
    time_levels = spec.temporal_scale.bit_length() - 1
    total, before = 0.0, channels[0]
    for level, width in enumerate(channels):
        share = 4.0 ** -(levels - level) * 2.0 ** -max(time_levels - level, 0)
        blocks = spec.vae_layers + 1 + (2 if level == 0 else 0)  # the middle block works at the first level's size
        weights = before * width + width * width + (blocks - 1) * 2 * width * width
        total += share * 2 * 27 * weights
        before = width
    return total


def peak_bytes(spec: ModelSpec, shape: Shape, dtype: str, *, device: str, staged: bool, tile: tuple[int, int]) -> int:
    """Highest memory of the device during the clip. `tile`: pixels (height, width) decoded at once."""
    number = DTYPE_BYTES[dtype]
    weights = {part: count * number for part, count in spec.component_parameters.items()}
    batch = 2 if shape.guided else 1
    sampled, _ = latent_frames(spec, shape.frames)
    latents = 4 * sampled * spec.latent_channels * (shape.height * shape.width) // spec.spatial_scale**2
    sample = batch * tokens(spec, shape) * spec.width * SAMPLE_MAPS * number + 6 * latents
    widest = max(spec.vae_channels[0], spec.vae_channels[1] if len(spec.vae_channels) > 1 else 0)
    decode = DECODE_MAPS * widest * CHUNK_FRAMES * min(tile[0], shape.height) * min(tile[1], shape.width) * number
    decode += latents + 3 * 4 * CHUNK_FRAMES * shape.height * shape.width
    encode = batch * spec.max_text_tokens * spec.text_width * 16 * number
    stages = {"text_encoder": encode, "transformer": sample, "vae": decode}
    resident = sum(weights.values())
    need = max((weights[part] if staged else resident) + extra for part, extra in stages.items())
    return PROGRAM_BYTES["cuda" if device.startswith("cuda") else "cpu"] + need
