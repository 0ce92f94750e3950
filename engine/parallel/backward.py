"""A mesh that gradients go back through: each exchange of numbers has its opposite for theirs.

    all-to-all of tokens and heads      the all-to-all back
    gathering the result                each rank's own part of what it is told: every rank computes the same loss of the whole
                                        result, and it counts once

So each rank's gradient of a weight is what its own tokens say about it, and the sum over the ranks is the gradient that one rank would
have; nothing is scaled. Gradients must be told in the same order on every rank, as they are where all ranks run the same program;
blocks that are recomputed exchange again what they exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function

from engine.parallel.attend import token_part
from engine.parallel.mesh import Mesh


class GradientMesh(Mesh):
    """A `Mesh` of `ulysses` alone whose `swap` and `gathered` can be differentiated, once. A ring's walk cannot."""

    def swapped(self, kind: str, flat: Tensor, given: Sequence[int], sizes: Sequence[int]) -> Tensor:
        result: Tensor = _Swap.apply(flat, self, kind, tuple(given), tuple(sizes))
        return result

    def gathered(self, part: Tensor, sizes: Sequence[int], dim: int) -> Tensor:
        if len(sizes) == 1:
            return part
        result: Tensor = _Gather.apply(part, self, tuple(sizes), dim)
        return result


class _Swap(Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, mesh: GradientMesh, kind: str, given: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        ctx.mesh, ctx.kind, ctx.given, ctx.sizes = mesh, kind, given, sizes
        return Mesh.swapped(mesh, kind, flat, given, sizes)

    @staticmethod
    def backward(ctx: Any, *told: Tensor) -> tuple[Tensor | None, ...]:
        return Mesh.swapped(ctx.mesh, ctx.kind, told[0].contiguous(), ctx.sizes, ctx.given), None, None, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, mesh: GradientMesh, sizes: tuple[int, ...], dim: int) -> Tensor:
        ctx.part, ctx.sizes, ctx.dim = mesh.part, sizes, dim
        return Mesh.gathered(mesh, part, sizes, dim)

    @staticmethod
    def backward(ctx: Any, *told: Tensor) -> tuple[Tensor | None, ...]:
        return token_part(told[0], ctx.sizes, ctx.part, ctx.dim), None, None, None
