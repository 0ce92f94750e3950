"""Matrices stored in 8 bits, and widened as they are used, one layer at a time, or multiplied in 8 bits.

    INT8   w ~ scale[row] * code,  code in -127..127, scale = max|row| / 127            as torchao's Int8WeightOnlyConfig
    FP8    w ~ scale[row] * code,  code a float8_e4m3fn (3 bits of mantissa, at most 448), scale = max|row| / 448

The scale keeps FP8 out of its subnormal numbers, where most weights of a trained model would lie without one (a plain cast,
as diffusers' layerwise casting, has the same storage and several times the error on small weights).
The arithmetic is that of the input's precision: storage and transport shrink, products do not. 'int8-dynamic' and 'fp8-dynamic'
multiply in 8 bits too: each token of the input gets codes and a scale of its own on the way (as torchao's dynamic activations). That is
further off, and faster only where the processor has such products and the small kernels around them are fused; published
figures have it at half the speed without torch.compile (diffusers-torchao), so no plan chooses it by itself.

Norms, embeddings, biases and the last projection stay as they are (`engine.models.layout.shrinks`). INT4 is not offered:
CogVideoX overflows in it (its model card; https://github.com/sayakpaul/diffusers-torchao).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.layout import shrinks

CODES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn, "int8-dynamic": torch.int8, "fp8-dynamic": torch.float8_e4m3fn}
ROWS, FEW = 2048, 16
"""Tokens multiplied at once in 8 bits, and how many are too few for cuBLAS."""
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class EightBitLinear(nn.Linear):
    """As `nn.Linear`, with `codes` (out, in) in 8 bits and a `scale` (out,) in place of a weight."""

    def __init__(self, like: nn.Linear, codes: torch.dtype, *, dynamic: bool = False) -> None:
        """Of the shape of `like`, without numbers; they are bound later. `dynamic`: the products are in 8 bits too."""
        nn.Module.__init__(self)
        self.dynamic = dynamic
        self.in_features, self.out_features, self.bias = like.in_features, like.out_features, like.bias
        self.register_parameter("weight", None)  # T5 asks for its precision and takes none for an answer
        self.codes = nn.Parameter(torch.empty(like.weight.shape, dtype=codes, device="meta"), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(like.out_features, device="meta"), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., out) of `input` (..., in), in the precision of `input`."""
        if self.dynamic:
            tokens = input.reshape(-1, self.in_features)
            return torch.cat([self._product(part) for part in tokens.split(ROWS)]).unflatten(0, input.shape[:-1])
        return self._widened(input)

    def _widened(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad:
            out: Tensor = _Widened.apply(input, self.codes, self.scale, self.bias)
            return out
        return F.linear(input, self.codes.to(input.dtype).mul_(self.scale[:, None]), self.bias)

    def _product(self, tokens: Tensor) -> Tensor:
        """Of `tokens` (n, in) and the weight, both in 8 bits: (n, out)."""
        if len(tokens) <= FEW:
            return self._widened(tokens)
        codes, scale = in_eight_bits(tokens.float(), self.codes.dtype, torch.float32)
        if codes.dtype == torch.int8:
            exact = torch._int_mm(codes, self.codes.t()).float()
            out = exact.mul_(scale[:, None]).mul_(self.scale).to(tokens.dtype)
        else:
            out = torch._scaled_mm(codes, self.codes.t(), scale_a=scale[:, None], scale_b=self.scale.float()[None], out_dtype=tokens.dtype)
        return out if self.bias is None else out.add_(self.bias)


class _Widened(torch.autograd.Function):
    """The product with a widened weight, which is widened again for the gradient of the input: kept wide from the forward pass on,
    as autograd would, the weights of a whole model would be there in full. The same bits."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return F.linear(input, codes.to(input.dtype).mul_(scale[:, None]), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ codes.to(gradient.dtype).mul_(scale[:, None]), None, None, None


def narrow(module: nn.Module, precision: str) -> None:
    """Let every matrix of `module` that `shrinks` be kept in `precision`, of `CODES`. The module must be without numbers."""
    for path, layer in list(module.named_modules()):
        if type(layer) is nn.Linear and shrinks(f"{path}.weight", tuple(layer.weight.shape)):
            parent, _, name = path.rpartition(".")
            owner: Any = module.get_submodule(parent)
            setattr(owner, name, EightBitLinear(layer, CODES[precision], dynamic=precision.endswith("-dynamic")))


def in_eight_bits(wide: Tensor, codes: torch.dtype, scales: torch.dtype) -> tuple[Tensor, Tensor]:
    """(codes (out, in), scale (out,) in `scales`) of the matrix `wide` (out, in)."""
    most = LARGEST[codes]
    scale = (wide.abs().amax(dim=1) / most).clamp(min=torch.finfo(scales).tiny).to(scales)
    spread = (wide / scale.float()[:, None]).clamp(-most, most)
    return (spread.round() if codes == torch.int8 else spread).to(codes), scale
