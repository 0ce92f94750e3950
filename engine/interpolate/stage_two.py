"""A transformer of text or image to video as a stage-two model, and back: the transform that is trained and shipped.

    patch embedding   takes the channels of `conditioning.beside` too; new ones weigh nothing at first
    LoRA              beside attention, feed-forward and modulation layers; adds nothing at first
    frame rate        sin-cos features -> two layers -> added to the time embedding, as 1.5 does with `ofs`; zero at first

So an untrained stage two does what its base does with a first frame in slot 0. The base stays as it is: `StageTwo.installed`
swaps the one layer and hangs hooks on the others, and takes all of it away again.

Method: CogVideo, section 3.2 (https://arxiv.org/abs/2205.15868); conditioning by channels as in CogVideoX-I2V.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from engine.interpolate.conditioning import PACK

RATE_FEATURES = 256
ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
MODULATION = ("norm1.linear", "norm2.linear")


class StageTwo(nn.Module):
    """The trainable part. `base`: a `CogVideoXTransformer3DModel`; it is not a submodule, so its weights are neither trained
    nor saved."""

    def __init__(self, base: Any, latent_channels: int, *, rank: int, modulation_rank: int) -> None:
        """Raises ValueError where the base takes neither C channels (text to video) nor 2 C (image to video)."""
        super().__init__()
        self._base = [base]  # in a list: not a submodule
        self.channels, self.rank, self.modulation_rank = latent_channels, rank, modulation_rank
        self.patch = widened(base.patch_embed.proj, latent_channels, base.config.patch_size, base.config.patch_size_t)
        self.names = lora_layers(base, modulation=modulation_rank > 0)
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for name in self.names:
            layer = base.get_submodule(name)
            width = modulation_rank if name.endswith(MODULATION) else rank
            self.down.append(torch.randn(width, layer.in_features) * layer.in_features**-0.5)
            self.up.append(torch.zeros(layer.out_features, width))
        self.features = Timesteps(RATE_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0, scale=100)
        self.rate = TimestepEmbedding(RATE_FEATURES, base.config.time_embed_dim)
        nn.init.zeros_(self.rate.linear_2.weight)
        nn.init.zeros_(self.rate.linear_2.bias)
        self.fps: Tensor | None = None
        """float (B,), frames a second of each clip of the next prediction."""

    @property
    def base(self) -> Any:
        """The transformer it stands on."""
        return self._base[0]

    @contextmanager
    def installed(self) -> Iterator[Any]:
        """The base as a stage-two model while the block runs."""
        base = self.base
        narrow = base.patch_embed.proj
        hooks = [base.get_submodule(name).register_forward_hook(_SidePath(down, up))
                 for name, down, up in zip(self.names, self.down, self.up, strict=True)]
        hooks.append(base.time_embedding.register_forward_hook(self._with_rate))
        base.patch_embed.proj = self.patch
        try:
            yield base
        finally:
            base.patch_embed.proj = narrow
            for hook in hooks:
                hook.remove()

    def _with_rate(self, _layer: Any, _inputs: Any, result: Tensor) -> Tensor:
        if self.fps is None:
            raise RuntimeError("the frame rate of the clips was not set")
        # log2: a doubling of the rate is one step wherever it happens, as the rounds are
        embedded = self.rate(self.features(torch.log2(self.fps.float())).to(self.rate.linear_1.weight.dtype))
        return result + embedded.to(result.dtype)


class _SidePath:
    """y + B A x, in the dtype of A."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down, self.up = down, up

    def __call__(self, _layer: Any, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        x = inputs[0].to(self.down.dtype)
        return (result + F.linear(F.linear(x, self.down), self.up)).to(result.dtype)


def lora_layers(base: Any, *, modulation: bool) -> tuple[str, ...]:
    """Names of the layers with a LoRA, block by block."""
    parts = (*ATTENTION, *FEED_FORWARD, *(MODULATION if modulation else ()))
    return tuple(f"transformer_blocks.{block}.{part}" for block in range(len(base.transformer_blocks)) for part in parts)


@torch.no_grad()
def widened(proj: nn.Module, channels: int, patch: int, patch_t: int | None) -> nn.Module:
    """A patch embedding with room for C + 4 channels beside the noise, equal to `proj` where the new ones are zero.

    1.0 has a convolution over (channel, patch, patch); 1.5 a matrix whose columns are flattened as (channel, patch_t, patch,
    patch), channel slowest, so that new channels are columns at the end there too. Where `proj` has no numbers just now (its model
    is not at work) all are zero, for `load_adapter` to fill in. Raises ValueError for other widths.
    """
    weight: Tensor = proj.weight  # type: ignore[assignment]
    cells = patch * patch * (patch_t or 1)
    per_channel = weight.shape[1] if weight.ndim == 4 else weight.shape[1] // cells
    if per_channel not in (channels, 2 * channels):
        raise ValueError(f"the patch embedding takes {per_channel} channels; {channels} (text to video) or {2 * channels} (image "
                         "to video) can be made a stage-two model")
    total = 2 * channels + PACK
    bias = getattr(proj, "bias", None) is not None
    wide: nn.Module
    if weight.ndim == 4:
        wide = nn.Conv2d(total, weight.shape[0], kernel_size=patch, stride=patch, bias=bias)
    else:
        wide = nn.Linear(total * cells, weight.shape[0], bias=bias)
    wide.to("cpu" if weight.is_meta else weight.device, weight.dtype)
    for parameter in wide.parameters():
        parameter.zero_()
    if weight.is_meta:
        return wide
    new: Tensor = wide.weight
    new[:, : weight.shape[1]] = weight
    if wide.bias is not None:
        wide.bias.copy_(proj.get_parameter("bias"))
    return wide
