"""Attention over tokens that lie on several ranks, in place of a kernel that sees them all.

    Ulysses   all-to-all: my tokens of all heads -> all tokens of my heads; the kernel as it is; and back
    ring      keys and values walk from station to station; each gives a partial result o_i with its log-sum-exp l_i, and

                  l = log sum exp l_i,      o = sum exp(l_i - l) o_i          (https://arxiv.org/abs/2310.01889)

Queries, keys and values come as a rank has them: words first, then the video, of its own part. Across ranks words and video are
therefore mixed; attention without a mask does not mind. It takes the place of `JointAttention.attend`, so rotation, packed products,
fused passes and side paths of LoRAs work as before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.models.kernels import Attend
from engine.parallel.degrees import Share, starts
from engine.parallel.mesh import Mesh

Partial = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""As `Attend`, with the log-sum-exp of the scores, float32 (batch, heads, queries)."""


class SequenceAttend:
    """An `Attend` of one rank for clips divided by `share`. `kernel` does what is left to do here."""

    def __init__(self, kernel: Attend, mesh: Mesh, share: Share) -> None:
        self.kernel, self.mesh, self.share = kernel, mesh, share
        size = mesh.degrees.ulysses
        self.here = slice(mesh.ring * size, (mesh.ring + 1) * size)
        """The parts of this station."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(batch, heads, my tokens, width) each; of the query's shape."""
        if self.mesh.degrees.ulysses == 1:
            return self._around(query, key, value)
        mine = self._heads_here(torch.stack([query, key, value]))
        seen = self._around(mine[0], mine[1], mine[2])
        return self._tokens_here(seen, query.shape)

    def _heads_here(self, joint: Tensor) -> Tensor:
        """(3, batch, my heads, the station's tokens, width) of (3, batch, heads, my tokens, width)."""
        kinds, batch, _, _, width = joint.shape
        tokens, heads = self.share.tokens[self.here], self.share.heads
        mine = heads[self.mesh.ulysses]
        got = self.mesh.swap("ulysses", joint.split(list(heads), dim=2), [kinds * batch * mine * count * width for count in tokens])
        return torch.cat([one.view(kinds, batch, mine, count, width) for one, count in zip(got, tokens, strict=True)], dim=3)

    def _tokens_here(self, seen: Tensor, shape: torch.Size) -> Tensor:
        """The inverse for one kind."""
        batch, _, mine, width = shape
        got = self.mesh.swap("ulysses", seen.split(list(self.share.tokens[self.here]), dim=2),
                             [batch * count * mine * width for count in self.share.heads])
        return torch.cat([one.view(batch, count, mine, width) for one, count in zip(got, self.share.heads, strict=True)], dim=1)

    def _around(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention to the keys and values of every station."""
        stations = self.share.stations()
        if len(stations) == 1:
            return self.kernel(query, key, value)
        batch, heads, _, width = key.shape
        held = torch.stack([key, value]).reshape(-1)
        total = weight = None
        for step in range(len(stations)):
            last = step == len(stations) - 1
            source = (self.mesh.ring - step) % len(stations)
            if not last:  # on its way while this one is looked at
                coming = stations[source - 1]
                following, works = self.mesh.pass_on(held, 2 * batch * heads * coming * width)
            keys, values = held.view(2, batch, heads, stations[source], width)
            seen, sums = partial(query, keys, values)
            if total is None or weight is None:
                total, weight = seen.float(), sums
            else:
                joint = torch.logaddexp(weight, sums)
                total = total * (weight - joint).exp()[..., None] + seen.float() * (sums - joint).exp()[..., None]
                weight = joint
            if not last:
                self.mesh.arrived(works)
                held = following
        assert total is not None
        return total.to(query.dtype)


def partial(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """torch's own kernels that also give the log-sum-exp: flash attention; on a GPU in float32, memory-efficient attention."""
    if query.device.type == "cpu":
        seen, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[:2]
    elif query.dtype == torch.float32:
        seen, sums = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[:2]
        sums = sums[:, :, :query.shape[2]]  # padded to whole tiles
    else:
        seen, sums = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    return seen, sums.float()


def token_part(tokens: Tensor, sizes: tuple[int, ...], part: int, dim: int) -> Tensor:
    """Part `part` of `tokens` along `dim`, where part i has `sizes[i]`."""
    return tokens.narrow(dim, starts(sizes)[part], sizes[part])
