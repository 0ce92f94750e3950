"""The reader of wishes: words as sums of letter pieces, three transformer layers, one pooled answer a question.

    pieces (N words) -> EmbeddingBag -> + place -> 3 x (attention, feed-forward), pre-norm -> for each question a weighted mean
    of the words, its weights from a learned query (Yang et al. 2016, "Hierarchical attention networks") -> logits
    and for each word one logit: is it something the world has not?

`engine.refine.reader` computes the same in numpy from the same weights; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.refine.words import MAX_WORDS, pieces

from .wishes import QUESTIONS, Wish

ANSWERS = sum(len(options) for _, options in QUESTIONS)


@dataclass(frozen=True)
class Shape:
    """Sizes of the reader."""

    buckets: int = 8192
    width: int = 96
    heads: int = 4
    layers: int = 3


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """x: (B, L, D); there: bool (B, L), which places hold a word."""
        b, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).reshape(b, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class WishReader(nn.Module):
    """See the module. Weights are named as the numpy reader reads them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.embed = nn.EmbeddingBag(shape.buckets, width, mode="mean")
        self.place = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(len(QUESTIONS), width) * 0.1)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.answer, self.outside = nn.Linear(width, ANSWERS), nn.Linear(width, 1)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, rows: Tensor, offsets: Tensor, there: Tensor) -> tuple[list[Tensor], Tensor]:
        """rows, offsets: of the EmbeddingBag, one bag for each True of `there` (B, L), in order.

        Returns one (B, options) a question, and (B, L) logits of being outside the world.
        """
        x = self.place[: there.shape[1]].expand(*there.shape, -1).clone()
        x[there] = x[there] + self.embed(rows, offsets)
        for layer in self.layers:
            x = layer(x, there)
        x = self.norm(x)
        weights = self.key(x) @ self.query.T / x.shape[-1] ** 0.5  # (B, L, questions)
        weights = weights.masked_fill(~there[..., None], float("-inf")).softmax(1)
        pooled = weights.transpose(1, 2) @ self.value(x)  # (B, questions, D)
        answers, begin = [], 0
        for number, (_, options) in enumerate(QUESTIONS):
            part = slice(begin, begin := begin + len(options))
            answers.append(functional.linear(pooled[:, number], self.answer.weight[part], self.answer.bias[part]))
        return answers, self.outside(x).squeeze(-1)


def batch_of(wishes: list[Wish], buckets: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(rows, offsets, there, right answers (B, questions), outside (B, L) as 0 or 1)."""
    length = max(len(wish.words) for wish in wishes)
    there = torch.zeros(len(wishes), length, dtype=torch.bool)
    outside = torch.zeros(len(wishes), length)
    rows: list[int] = []
    offsets: list[int] = []
    for number, wish in enumerate(wishes):
        there[number, : len(wish.words)] = True
        outside[number, : len(wish.words)] = torch.tensor(wish.outside, dtype=torch.float32)
        for word in wish.words:
            offsets.append(len(rows))
            rows += pieces(word, buckets)
    right = [[options.index(fact) for (_, options), fact in zip(QUESTIONS, wish.facts, strict=True)] for wish in wishes]
    return torch.tensor(rows), torch.tensor(offsets), there, torch.tensor(right), outside


def reading_loss(model: WishReader, batch: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the questions and of the outside words; the share of wishes read without any mistake."""
    rows, offsets, there, right, outside = batch
    answers, strange = model(rows, offsets, there)
    losses = [functional.cross_entropy(part, column) for part, column in zip(answers, right.T, strict=True)]
    tagging = functional.binary_cross_entropy_with_logits(strange[there], outside[there])
    whole = torch.stack([part.argmax(-1) == column for part, column in zip(answers, right.T, strict=True)]).all(0)
    return torch.stack(losses).sum() + tagging, {"whole": float(whole.float().mean()), "outside": float(tagging.detach())}
