"""Blocks of a component pass through its device one after the other: two slots, and the next block arrives while one works.

    block    0        1        2        3       ...
    works             [ 0   ]  [ 1   ]  [ 2   ]
    arrives  [ 0   ]  [ 1   ]  [ 2   ]  [ 3   ]        block i comes into slot i % 2

The weights of block i are views of slot i % 2, bound once; what changes are the bytes in the slot. So both halves of
guidance meet a block while it is there, each weight crosses once a pass, and nothing is allocated on the way. Before block i + 1
may overwrite block i - 1, everything that was asked of the device before block i must be done: on a GPU an event says so, and
copies run on a stream of their own out of page-locked memory. A pass that is broken off leaves nothing behind: the next one
looks at what the slots hold.

Blocks wait in memory, packed into one run of bytes each, or in their files, which are read anew at every pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.models.loading import Weight, WeightFiles

SLOTS = 2
ALIGNED = 256
"""Bytes that every weight in a slot begins at a multiple of, as torch's own allocations: kernels are chosen by it."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the weights of one block stand in its run of bytes."""

    weights: tuple[Weight, ...]
    begins: tuple[tuple[int, ...], ...]
    """For each weight, of its tensors (two in 8 bits)."""
    size: int
    """Of the run, gaps included."""
    nbytes: int
    """Of the weights."""

    def views(self, run: Tensor) -> list[list[Tensor]]:
        """The tensors of each weight in `run` (bytes)."""
        return [[run[begin:begin + one.nbytes].view(one.dtype).view(one.shape) for one, begin in zip(weight.all, begins, strict=True)]
                for weight, begins in zip(self.weights, self.begins, strict=True)]

    def bind(self, run: Tensor) -> None:
        """The weights are those in `run` from now on."""
        for weight, views in zip(self.weights, self.views(run), strict=True):
            for one, view in zip(weight.all, views, strict=True):
                one.bind(view)

    def unbind(self) -> None:
        """The weights have no numbers."""
        for weight in self.weights:
            for one in weight.all:
                one.unbind()


def pack(weights: Sequence[Weight]) -> Packing:
    """The packing of one block."""
    end, begins = 0, []
    for weight in weights:
        here = []
        for one in weight.all:
            here.append(end + one.lead)
            end += -(-(one.lead + one.nbytes) // ALIGNED) * ALIGNED
        begins.append(tuple(here))
    return Packing(tuple(weights), tuple(begins), end, sum(one.nbytes for weight in weights for one in weight.all))


class Source(Protocol):
    """Where blocks wait."""

    def copy(self, index: int, slot: Tensor) -> None:
        """Block `index` into `slot` (bytes, on the device). On a GPU the copy may be under way at return, on the current stream."""

    def rest(self) -> None:
        """Let go what is only needed while blocks pass."""

    def close(self) -> None: ...


class FromMemory:
    """Blocks in the computer's own memory, page-locked where a GPU fetches them."""

    def __init__(self, packings: Sequence[Packing], files: WeightFiles, device: torch.device) -> None:
        self.runs = [_host(packing.size) for packing in packings]
        self._locked = [run for run in self.runs if _lock(run, device)]
        try:
            for packing, run in zip(packings, self.runs, strict=True):
                for weight, views in zip(packing.weights, packing.views(run), strict=True):
                    files.fill(weight, views)
        except BaseException:  # memory that is freed while it is page-locked stays so until the process ends
            self.close()
            raise

    def copy(self, index: int, slot: Tensor) -> None:
        slot[:len(self.runs[index])].copy_(self.runs[index], non_blocking=True)

    def rest(self) -> None:
        """Nothing: the blocks wait here."""

    def close(self) -> None:
        _unlock(self._locked)
        self.runs, self._locked = [], []


class FromFiles:
    """Blocks in their files: read straight into the slot, on a GPU by way of two page-locked slots beside it."""

    def __init__(self, packings: Sequence[Packing], files: WeightFiles, device: torch.device) -> None:
        self.packings, self.files, self.device = packings, files, device
        self._between: list[Tensor] = []
        self._locked: list[Tensor] = []
        self._left: list[Any] = [None] * SLOTS

    def copy(self, index: int, slot: Tensor) -> None:
        packing, turn = self.packings[index], index % SLOTS
        if slot.device.type == "cpu":
            self._read(packing, slot)
            return
        if not self._between:
            self._between = [_host(len(slot)) for _ in range(SLOTS)]
            self._locked = [run for run in self._between if _lock(run, self.device)]
        if self._left[turn] is not None:
            self._left[turn].synchronize()  # the block before last may still be on its way from here
        self._read(packing, self._between[turn])
        slot[:packing.size].copy_(self._between[turn][:packing.size], non_blocking=True)
        self._left[turn] = torch.cuda.current_stream(self.device).record_event()

    def _read(self, packing: Packing, run: Tensor) -> None:
        for weight, views in zip(packing.weights, packing.views(run), strict=True):
            self.files.fill(weight, views)

    def rest(self) -> None:
        _unlock(self._locked)
        self._between, self._locked, self._left = [], [], [None] * SLOTS

    def close(self) -> None:
        self.rest()


class BlockStream:
    """Lets `blocks` pass through two slots of `device`. Owns the slots, the hooks and a thread; `close()` lets them go."""

    def __init__(self, blocks: Sequence[nn.Module], packings: Sequence[Packing], source: Source, device: torch.device) -> None:
        self.packings, self.source, self.device = packings, source, device
        self.moved = 0
        """Bytes of weights that came so far."""
        self.peak_blocks = 0
        """Most blocks that were in the slots at once, whole or arriving."""
        with torch.inference_mode(False):  # slots are written to outside of it
            size = max(packing.size for packing in packings)
            self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(SLOTS, len(blocks)))]
            for index, packing in enumerate(packings):
                packing.bind(self._slots[index % SLOTS])
        self._held: dict[int, tuple[int, Future[Any]]] = {}
        """Slot -> the block in it, and what to wait for before it is whole."""
        self._lane = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._porter = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._hooks = [block.register_forward_pre_hook(partial(self._before, index)) for index, block in enumerate(blocks)]

    @property
    def slot_bytes(self) -> int:
        """Memory of the device that the slots take."""
        return sum(slot.nbytes for slot in self._slots)

    def close(self) -> None:
        """Wait for what is under way, and let slots and hooks go; no block has numbers after."""
        for hook in self._hooks:
            hook.remove()
        self._porter.shutdown(wait=True, cancel_futures=True)
        if self._lane is not None:
            self._lane.synchronize()
        self.source.rest()
        for packing in self.packings:
            packing.unbind()
        self._held, self._slots = {}, []

    def _before(self, index: int, block: nn.Module, inputs: Any) -> None:
        """Block `index` is about to work: wait for it, and send for the next."""
        self._send_for(index)
        arrived = self._held[index % SLOTS][1].result()
        if arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(arrived)
        if index + 1 < len(self.packings):
            self._send_for(index + 1)

    def _send_for(self, index: int) -> None:
        """Have block `index` brought into its slot, unless it is there or on its way."""
        slot = index % SLOTS
        there, arrival = self._held.get(slot, (None, None))
        if there == index and arrival is not None and not (arrival.done() and arrival.exception()):
            return
        # What was asked of the device so far may still read the slot; the copy starts after that.
        free = None if self._lane is None else torch.cuda.current_stream(self.device).record_event()
        self._held[slot] = (index, self._porter.submit(self._bring, index, slot, free))
        self.moved += self.packings[index].nbytes
        self.peak_blocks = max(self.peak_blocks, len(self._held))

    def _bring(self, index: int, slot: int, free: Any) -> Any:
        """In the porter's thread. Returns the event that says the block is whole; None where it is already."""
        with nullcontext() if self._lane is None else torch.cuda.stream(self._lane):
            if self._lane is not None:
                self._lane.wait_event(free)
            self.source.copy(index, self._slots[slot])
            return None if self._lane is None else self._lane.record_event()


def _host(size: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty(size, dtype=torch.uint8)


def _lock(run: Tensor, device: torch.device) -> bool:
    """Page-lock `run` where it lies, so that a GPU fetches from it at full speed; False where that is not to be had.

    (torch's own page-locked memory comes in powers of two: 368 MiB would take 512.)
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        locked = int(torch.cuda.cudart().cudaHostRegister(run.data_ptr(), run.nbytes, 0)) == 0
        if not locked:  # CUDA reports the refusal once more with the next kernel: let it be this one
            with suppress(RuntimeError):
                torch.zeros(1, device=device)
    return locked


def _unlock(runs: Sequence[Tensor]) -> None:
    for run in runs:
        torch.cuda.cudart().cudaHostUnregister(run.data_ptr())
