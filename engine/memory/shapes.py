"""A clip's sizes, the tokens they make, and the arithmetic of each stage.

Symbols: B batch (2 with guidance), N video tokens, T text tokens, d transformer width, L layers.

Work (multiply-adds x 2), per stage:
    sample   steps * B * L * (24 n d^2 + 4 n^2 d),  n = N + T      a transformer layer: 12 d^2 weights, two n x n products
    decode   2 * 27 * sum over VAE levels of (frames * height * width at that level) * weights of its 3x3x3 convolutions
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Shape:
    """A clip's size in pixels and frames, whether guidance doubles the batch, what it starts from, and what is kept from step to step."""

    frames: int
    height: int
    width: int
    guided: bool
    given: int = 0
    """Frames of the image (1) or video that is encoded first; 0 for words alone."""
    cache: str = "off"
    """A cache of `engine.cache`."""


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
