"""All transformer blocks as one module that can be passed over: what the block caches act on.

diffusers' transformer runs `for block in self.transformer_blocks`. For the time of one prediction that list holds one
`BlockStack` instead, which runs the true blocks or not. So it works with whatever the blocks are (chunked, compiled, streamed:
a step that is skipped moves no weight), and after the prediction the transformer is as it was.

Features are kept by row of guidance (without words, with words), whether both come in one batch or one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Streams = tuple[Tensor, Tensor]
"""(rows, video tokens, width) and (rows, text tokens, width)."""


class BlockStack(nn.Module):
    """Stands where the blocks stood. `act(blocks, video, text, rest)` gives both streams after all of them."""

    def __init__(self, blocks: list[Any], act: Callable[[list[Any], Tensor, Tensor, dict[str, Any]], Streams]) -> None:
        super().__init__()
        self._act = act
        self._kept = (blocks,)  # in a tuple, so that the blocks do not become this module's own

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **rest: Any) -> Streams:
        return self._act(self._kept[0], hidden_states, encoder_hidden_states, rest)


@contextmanager
def stacked(transformer: Any, act: Callable[[list[Any], Tensor, Tensor, dict[str, Any]], Streams]) -> Iterator[None]:
    """Within it, `act` takes the place of the blocks of `transformer`."""
    blocks = transformer.transformer_blocks
    transformer.transformer_blocks = nn.ModuleList([BlockStack(list(blocks), act)])
    try:
        yield
    finally:
        transformer.transformer_blocks = blocks


def run_blocks(blocks: list[Any], video: Tensor, text: Tensor, rest: dict[str, Any]) -> Streams:
    """The blocks one after the other, as diffusers calls them. Some overwrite their input."""
    for block in blocks:
        video, text = block(hidden_states=video, encoder_hidden_states=text, **rest)
    return video, text


def change_of(blocks: list[Any], video: Tensor, text: Tensor, rest: dict[str, Any]) -> tuple[Streams, Tensor]:
    """(streams after `blocks`, what they added to the video tokens). The input is copied first, as it may be overwritten."""
    before = video.clone()
    after, text = run_blocks(blocks, video, text, rest)
    return (after, text), torch.sub(after, before, out=before)
