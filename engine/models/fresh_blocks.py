"""Blocks of a component pass through its device while gradients are taken: each time into memory of its own.

    forward    0 1 2 ... n-1        recomputed for the gradient    n-1 ... 2 1 0

`BlockStream` writes the next block over the last but one, which a gradient may still need: it keeps the very weights its block worked
with. So here every block comes into fresh memory, which goes when nobody holds it any more: after the block where nothing is kept
for a gradient (recomputing), or when its gradient is taken. The block that comes next, in whichever direction, arrives meanwhile.
The bits are those of resident weights. On a GPU, which works behind this program, a block comes once the GPU is done with the one before
the last: memory for more of them would be taken ahead of the work. (Tested with events written down, not on a GPU.)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.streaming import Packing, Source


class FreshBlocks:
    """As `engine.models.streaming.BlockStream`, for modules that are trained through. Owns hooks and a thread; `close()` lets them go."""

    def __init__(self, blocks: Sequence[nn.Module], packings: Sequence[Packing], source: Source, device: torch.device) -> None:
        self.packings, self.source, self.device = packings, source, device
        self.moved = 0
        """Bytes of weights that came so far."""
        self._room = max(packing.size for packing in packings)
        self._last = -1
        self._coming: dict[int, Future[tuple[Tensor, Any]]] = {}
        self._lane = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._porter = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        for index in range(len(packings)):
            self._leave(index)
        self._hooks = [hook for index, block in enumerate(blocks) for hook in (
            block.register_forward_pre_hook(partial(self._before, index)),
            block.register_forward_hook(partial(self._after, index), always_call=True))]  # recomputing may end a block early

    def close(self) -> None:
        """Wait for what is under way; no block has numbers after."""
        for hook in self._hooks:
            hook.remove()
        self._porter.shutdown(wait=True, cancel_futures=True)
        self._coming = {}
        if self._lane is not None:
            self._lane.synchronize()
        self.source.rest()
        for packing in self.packings:
            packing.unbind()

    def _before(self, index: int, block: nn.Module, inputs: Any) -> None:
        before = self._so_far()
        self._send_for(index, before)
        run, arrived = self._coming.pop(index).result()
        if arrived is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(arrived)
            run.record_stream(here)
        with torch.inference_mode(False):
            self.packings[index].bind(run)
        following = index + (1 if index > self._last else -1)
        self._last = index
        self._coming = {number: coming for number, coming in self._coming.items() if number == following}
        if 0 <= following < len(self.packings):
            self._send_for(following, before)

    def _after(self, index: int, block: nn.Module, inputs: Any, result: Any) -> None:
        self._leave(index)

    def _leave(self, index: int) -> None:
        """The block keeps shapes and precisions, and one zero for all numbers, so that layers beside its own find their place."""
        with torch.inference_mode(False):
            for weight in self.packings[index].weights:
                for one in weight.all:
                    one.bind(torch.zeros((), dtype=one.dtype, device=self.device).expand(one.shape))

    def _so_far(self) -> Any:
        """An event after all that the GPU has been given so far: the block before this one, and its gradient; None on a processor."""
        if self._lane is None:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _send_for(self, index: int, before: Any) -> None:
        coming = self._coming.get(index)
        if coming is None or (coming.done() and coming.exception()):
            self._coming[index] = self._porter.submit(self._bring, index, before)
            self.moved += self.packings[index].nbytes

    def _bring(self, index: int, before: Any) -> tuple[Tensor, Any]:
        """In the porter's thread, once `before` has happened: (the block's bytes, the event that says they are whole)."""
        if before is not None:
            before.synchronize()
        with torch.inference_mode(False), nullcontext() if self._lane is None else torch.cuda.stream(self._lane):
            run = torch.empty(self._room, dtype=torch.uint8, device=self.device)
            self.source.copy(index, run)
            return run, None if self._lane is None else self._lane.record_event()
