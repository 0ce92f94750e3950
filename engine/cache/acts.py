"""What the caches do inside one prediction. A cache's features are kept by row of guidance: 0 without the words, 1 with them.

Both rows may come in one batch or one after the other; the decision is one for both, made when the first of them is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.cache.first_block import FirstBlock
from engine.cache.stack import Streams, change_of, run_blocks, stacked


class RhythmAct:
    """Runs a step, or nothing of it."""

    def __init__(self, schedule: Sequence[bool]) -> None:
        self.schedule = schedule
        self.full = True

    @contextmanager
    def step(self, transformer: Any, index: int, since: int, rows: Sequence[int], forced: bool) -> Iterator[None]:
        """As `FirstBlockAct.step`; where `full` is false, nothing is to be predicted within it."""
        self.full = forced or self.schedule[index]
        yield


class FirstBlockAct:
    """Runs the first block, then the others if it says so. Where it does not, the prediction means nothing."""

    def __init__(self, policy: FirstBlock, steps: int, added: Callable[[Tensor], Tensor] | None = None) -> None:
        """`added`: see `engine.cache.shortcut.Shortcut`."""
        self.policy, self.steps, self.added = policy, steps, added
        self._first: dict[int, Tensor] = {}

    @contextmanager
    def step(self, transformer: Any, index: int, since: int, rows: Sequence[int], forced: bool) -> Iterator[None]:
        """Within it, one prediction for `rows` may be made; then `full` says whether it was. `forced`: it is."""
        self._index, self._since, self._waiting = index, since, list(rows)
        self._full: bool | None = True if forced else None
        with stacked(transformer, self._act):
            yield

    @property
    def full(self) -> bool:
        return self._full is not False

    def _act(self, blocks: list[Any], video: Tensor, text: Tensor, rest: dict[str, Any]) -> Streams:
        rows = [self._waiting.pop(0) for _ in video]
        (video, text), first = change_of(blocks[:1], video, text, rest)
        if self._full is None:
            distance = self._distance(rows, first)
            self._full = self.policy.decide(self._index, self.steps, self._since, distance)
        if not self._full:
            return video, text
        self._first |= dict(zip(rows, first.split(1), strict=True))
        return run_blocks(blocks[1:], video, text, rest)

    def _distance(self, rows: Sequence[int], first: Tensor) -> float:
        """d of `first_block`, over all of `rows` at once, wherever they are."""
        known = [self._first[row] for row in rows]
        if self.added is not None:
            pairs = zip(first.split(1), known, strict=True)
            sums = [((now - before).abs().double().sum(), before.abs().double().sum()) for now, before in pairs]
            differ, all_before = self.added(torch.stack([torch.stack(pair) for pair in sums]).sum(0)).tolist()
            return float(differ / all_before) if all_before else float("nan")
        differ = sum((now - before).abs().float().mean() for now, before in zip(first.split(1), known, strict=True))
        return float(differ / sum(before.abs().float().mean() for before in known))


class BroadcastAct:
    """Runs attention, or gives what it gave last."""

    def __init__(self, schedule: Sequence[bool]) -> None:
        self.schedule = schedule
        self._kept: dict[tuple[int, int], Streams] = {}
        self.full = True

    @contextmanager
    def step(self, transformer: Any, index: int, since: int, rows: Sequence[int], forced: bool) -> Iterator[None]:
        """As `FirstBlockAct.step`."""
        self.full = forced or self.schedule[index]
        blocks = list(transformer.transformer_blocks)
        true = [block.attn1 for block in blocks]
        for number, block in enumerate(blocks):
            block.attn1 = _KeptAttention(true[number], self, number, list(rows))
        try:
            yield
        finally:
            for block, attention in zip(blocks, true, strict=True):
                block.attn1 = attention

    def attend(self, attention: Any, number: int, rows: Sequence[int], given: dict[str, Any]) -> Streams:
        """Attention of block `number` for `rows`."""
        if not self.full:
            kept = [self._kept[number, row] for row in rows]
            return torch.cat([video for video, _ in kept]), torch.cat([text for _, text in kept])
        video, text = attention(**given)
        for row, parts in zip(rows, zip(video.split(1), text.split(1), strict=True), strict=True):
            self._kept[number, row] = parts
        return video, text


class _KeptAttention(nn.Module):
    """Stands where a block's attention stood."""

    def __init__(self, attention: Any, act: BroadcastAct, number: int, rows: list[int]) -> None:
        super().__init__()
        self._true, self._act, self._number, self._waiting = (attention,), act, number, rows

    def forward(self, **given: Any) -> Streams:
        rows = [self._waiting.pop(0) for _ in given["hidden_states"]]
        return self._act.attend(self._true[0], self._number, rows, given)
