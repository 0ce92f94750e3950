"""Matrices stored in 8 bits and widened as they are used, one layer at a time.

    INT8   w ~ scale[row] * code,  code in -127..127, scale = max|row| / 127            as torchao's Int8WeightOnlyConfig
    FP8    w ~ scale[row] * code,  code a float8_e4m3fn (3 bits of mantissa, at most 448), scale = max|row| / 448

The scale keeps FP8 out of its subnormal numbers, where most weights of a trained model would lie without one (a plain cast,
as diffusers' layerwise casting, has the same storage and several times the error on small weights).
The arithmetic is that of the input's precision: storage and transport shrink, products do not. Norms, embeddings, biases and
the last projection stay as they are (`engine.models.layout.shrinks`). INT4 is not offered: CogVideoX overflows in it
(its model card; https://github.com/sayakpaul/diffusers-torchao).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.layout import shrinks

CODES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class EightBitLinear(nn.Linear):
    """As `nn.Linear`, with `codes` (out, in) in 8 bits and a `scale` (out,) in place of a weight."""

    def __init__(self, like: nn.Linear, codes: torch.dtype) -> None:
        """Of the shape of `like`, without numbers; they are bound later."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = like.in_features, like.out_features, like.bias
        self.register_parameter("weight", None)  # T5 asks for its precision and takes none for an answer
        self.codes = nn.Parameter(torch.empty(like.weight.shape, dtype=codes, device="meta"), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(like.out_features, device="meta"), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., out) of `input` (..., in), in the precision of `input`."""
        return F.linear(input, self.codes.to(input.dtype).mul_(self.scale[:, None]), self.bias)


def narrow(module: nn.Module, precision: str) -> None:
    """Let every matrix of `module` that `shrinks` be kept in `precision` ('int8' or 'fp8'). The module must be without numbers."""
    for path, layer in list(module.named_modules()):
        if type(layer) is nn.Linear and shrinks(f"{path}.weight", tuple(layer.weight.shape)):
            parent, _, name = path.rpartition(".")
            owner: Any = module.get_submodule(parent)
            setattr(owner, name, EightBitLinear(layer, CODES[precision]))


def in_eight_bits(wide: Tensor, codes: torch.dtype, scales: torch.dtype) -> tuple[Tensor, Tensor]:
    """(codes (out, in), scale (out,) in `scales`) of the matrix `wide` (out, in)."""
    most = LARGEST[codes]
    scale = (wide.abs().amax(dim=1) / most).clamp(min=torch.finfo(scales).tiny).to(scales)
    spread = (wide / scale.float()[:, None]).clamp(-most, most)
    return (spread.round() if codes == torch.int8 else spread).to(codes), scale
