"""3D convolutions of one clip in fp32 on a processor, through oneDNN, which torch leaves aside where it would help most.

torch hands an fp32 `conv3d` to oneDNN if the batch is above 1, or if channels x frames x rows are above 20,480. One clip through a small
autoencoder, and the first layers of a large one, are neither: they go to `slow_conv3d_forward`, which writes every window out (27 copies of
the input) before it multiplies. oneDNN does the same sums four to eight times as fast, in another order: results differ in their last bits.
Source of the rule: torch's `ConvParams::use_mkldnn` (aten/src/ATen/native/Convolution.cpp).

Everything else is torch's own: GPUs, other precisions, autocast, tensors without numbers or with a class of their own (quantised, fake),
compiled graphs, kernels of one pixel (which are one product of matrices either way), and a torch without oneDNN or told not to use it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)
ONE = (1, 1, 1)


def use_onednn(model: nn.Module) -> None:
    """Let the 3D convolutions of `model` be those of `conv3d`, in place; its weights, and other models, are not touched."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module._conv_forward = MethodType(_conv_forward, module)  # type: ignore[method-assign]


def conv3d(given: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] = ONE, padding: tuple[int, ...] = (0, 0, 0),
           dilation: tuple[int, ...] = ONE, groups: int = 1) -> Tensor:
    """As `F.conv3d`. Where it is oneDNN's, the result is contiguous; gradients are torch's."""
    if _fits(given, weight, bias):
        return torch.mkldnn_convolution(given.contiguous(), weight.contiguous(), bias, padding, stride, dilation, groups)
    return F.conv3d(given, weight, bias, stride, padding, dilation, groups)


def _fits(given: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can take them and is of use."""
    tensors = (given, weight) if bias is None else (given, weight, bias)
    plain = all(type(one) in PLAIN and one.dtype == torch.float32 and one.device.type == "cpu" and one.layout == torch.strided
                for one in tensors)
    return (plain and given.dim() == 5 and given.numel() > 0 and max(weight.shape[2:]) > 1
            and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
            and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling())


def _conv_forward(self: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return conv3d(given, weight, bias, self.stride, self.padding, self.dilation, self.groups)
