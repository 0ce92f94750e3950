"""Sequence parallel: the tokens of each clip divided over the processes of a team, and in attention the heads (Ulysses).

    words and video     each process has an equal part of both, from the first block to the last product
    attention           all-to-all: my tokens of all heads -> all tokens of my heads; and back (`engine.parallel.attend`)
    gradients           back through the same exchanges (`engine.parallel.backward`); those of weights are summed over all processes as
                        ever, each having what its own tokens say
    LoRA dropout        drawn for the whole clip by each process, which takes its own part: the numbers that one process draws

DeepSpeed-Ulysses, https://arxiv.org/abs/2309.14509; Vchitect-2.0, section V.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.models.attention import JointAttention
from engine.models.kernels import native
from engine.parallel.attend import SequenceAttend, token_part
from engine.parallel.backward import GradientMesh
from engine.parallel.degrees import Share
from engine.parallel.tokens import clip_share, divided_tokens
from engine.spec import ModelSpec


class Sequence:
    """One process's part in the passes of its team. Does not own the transformer."""

    def __init__(self, transformer: Any, spec: ModelSpec, mesh: GradientMesh) -> None:
        """Once the LoRA is in place: its dropout is exchanged for one that knows the whole clip."""
        self.transformer, self.spec, self.mesh = transformer, spec, mesh
        self.dropouts = [made for module in list(transformer.modules()) for made in _replaced(module, mesh.part)]

    @contextmanager
    def sharing(self, latents: tuple[int, ...], text: int) -> Iterator[None]:
        """Within it passes over latents of this shape (rows, frames, channels, height, width) beside `text` tokens of words are shared,
        there and back. All processes of the team must make the same ones. Between two passes nothing of it is on the transformer."""
        share = clip_share(self.mesh.degrees, self.spec, latents, text)
        stock = dict(self.transformer.attn_processors)
        self.transformer.set_attn_processor(JointAttention(SequenceAttend(native, self.mesh, share), "ulysses"))
        for dropout in self.dropouts:
            dropout.share = share
        try:
            with divided_tokens(self.transformer, self.mesh, share):
                yield
        finally:
            for dropout in self.dropouts:
                dropout.share = None
            self.transformer.set_attn_processor(stock)


class PartDropout(torch.nn.Dropout):
    """Dropout of a process's own tokens (batch, words then video, width), by the numbers that are drawn for all of them."""

    def __init__(self, p: float, part: int) -> None:
        super().__init__(p)
        self.part = part
        self.share: Share | None = None

    def forward(self, input: Tensor) -> Tensor:
        share = self.share
        if share is None or not self.training or input.ndim != 3 or input.shape[1] != share.tokens[self.part]:
            return super().forward(input)  # also what is not by token: the modulation's input, which every process has
        words = sum(share.text)
        whole = super().forward(input.new_ones(len(input), words + sum(share.video), input.shape[2]))
        mine = [token_part(of, sizes, self.part, 1) for of, sizes in ((whole[:, :words], share.text), (whole[:, words:], share.video))]
        return input * torch.cat(mine, dim=1)


def _replaced(module: torch.nn.Module, part: int) -> list[PartDropout]:
    """A `PartDropout` for each dropout of a LoRA's layer."""
    held = getattr(module, "lora_dropout", None)
    made = {}
    for name, one in held.items() if isinstance(held, torch.nn.ModuleDict) else ():
        if isinstance(one, torch.nn.Dropout):
            made[name] = PartDropout(one.p, part)
    for name, fresh in made.items():
        held[name] = fresh.train(held[name].training)  # type: ignore[index]
    return list(made.values())
