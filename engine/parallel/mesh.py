"""The ranks of one fleet as a mesh cfg x ring x ulysses, and every exchange between them, counted.

Control (cancel wishes, checkpoints) goes over gloo and the computer's memory whatever the device; tensors over NCCL on GPUs, gloo else.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from engine.parallel.degrees import Degrees
from engine.parallel.watch import Pulse
from engine.parallel.wire import STORE

TIMEOUT = timedelta(minutes=10)
"""Of any exchange: the last resort. Ranks that died or stopped are found sooner, by `engine.parallel.watch`."""

LINK_BYTES = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}
"""What is sent to measure the link: as much as a layer sends, and done in a moment."""
LINK_TRIES = 3


def join(device: torch.device) -> None:
    """Become a rank, as the launcher's environment says. Raises RuntimeError or `DistStoreError` if the others cannot be reached."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meet("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", TIMEOUT)


def meet(backend: str, patience: timedelta) -> None:
    """The process group: by the file of `engine.parallel.launch` where it started this rank, else as torchrun's environment says, for
    over several computers a port is the only way."""
    if not (path := os.environ.get(STORE)):
        dist.init_process_group(backend, timeout=patience)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, timeout=patience, store=dist.FileStore(path, world), rank=rank, world_size=world)


def leave() -> None:
    """No rank any more."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Beat:
    """Counts the exchanges of this process, for whoever watches it from another thread."""

    def __init__(self) -> None:
        self._lock, self._begun, self._depth = threading.Lock(), 0, 0

    @contextmanager
    def exchange(self) -> Iterator[None]:
        with self._lock:
            self._begun, self._depth = self._begun + 1, self._depth + 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1

    def pulse(self) -> Pulse:
        with self._lock:
            return Pulse(self._begun, self._depth > 0)


class Mesh:
    """One rank's view of the fleet. All ranks must call the same methods in the same order."""

    def __init__(self, degrees: Degrees, device: torch.device, beat: Beat | None = None, *, teams: int = 1) -> None:
        """Wants `join` first, with `degrees.ranks` ranks in all.

        `teams`: so many times as many, where each team of neighbours divides clips of its own (training): then only `swap`, `pass_on` and
        `gathered` are for use, which stay within the team.
        """
        if dist.get_world_size() != degrees.ranks * teams:
            of = "" if teams == 1 else f" in {teams} teams"
            raise ValueError(f"{degrees}{of} wants {degrees.ranks * teams} ranks, and there are {dist.get_world_size()}")
        self.degrees, self.device, self.rank, self.beat, self.teams = degrees, device, dist.get_rank(), beat or Beat(), teams
        self.cfg, self.ring, self.ulysses = degrees.place(self.rank % degrees.ranks)
        self.part = self.ring * degrees.ulysses + self.ulysses
        """Of the tokens."""
        mesh = init_device_mesh(device.type, (teams, degrees.cfg, degrees.ring, degrees.ulysses),
                                mesh_dim_names=("team", "cfg", "ring", "ulysses"))
        self._groups = {name: mesh.get_group(name) for name in ("cfg", "ring", "ulysses")}
        self.sent: Counter[str] = Counter()
        """Bytes this rank sent, by kind of exchange."""

    def link(self) -> tuple[float, float]:
        """(bytes a second that a rank sends to all others while it receives as many, seconds of an exchange of next to nothing),
        measured now, of the slowest rank; the same answer on every rank."""
        size = LINK_BYTES[self.device.type] // self.degrees.ranks * self.degrees.ranks
        large, small = (torch.zeros(count, dtype=torch.uint8, device=self.device) for count in (size, self.degrees.ranks))
        latency = min(self._timed(small) for _ in range(LINK_TRIES))
        seconds = min(self._timed(large) for _ in range(LINK_TRIES))
        sent = size * (self.degrees.ranks - 1) / self.degrees.ranks
        slowest = torch.tensor([seconds, latency], dtype=torch.float64)
        with self.beat.exchange():
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
        seconds, latency = slowest.tolist()
        return sent / max(seconds - latency, 1e-9), latency

    def _timed(self, sending: Tensor) -> float:
        """Seconds of one all-to-all of `sending` over all ranks, begun together."""
        into = torch.empty_like(sending)
        with self.beat.exchange():
            dist.barrier()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            begun = time.perf_counter()
            dist.all_to_all_single(into, sending)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun

    @property
    def leads(self) -> bool:
        """True for the one rank that writes files and answers."""
        return self.rank == 0

    def agree(self, wish: bool) -> bool:
        """True if any rank wishes it."""
        voice = torch.tensor([wish], dtype=torch.uint8)
        with self.beat.exchange():
            dist.all_reduce(voice, dist.ReduceOp.MAX)
        return bool(voice.item())

    def tell(self, value: Any) -> Any:
        """The first rank's `value`, on every rank; small things only. It is pickled, between processes of one fleet."""
        box = [value]
        with self.beat.exchange():
            dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def same(self, tensor: Tensor) -> Tensor:
        """The first rank's numbers in place of every other's; of the same shape everywhere."""
        tensor = tensor.contiguous()
        with self.beat.exchange():
            dist.broadcast(tensor, 0)
        return tensor

    def added(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks that share the tokens of one half of guidance, and over the halves."""
        with self.beat.exchange():
            dist.all_reduce(tensor)
        self.sent["decisions"] += tensor.numel() * tensor.element_size() * (self.degrees.ranks > 1)
        return tensor

    def swap(self, kind: str, sending: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """All-to-all within `kind`: `sending[i]` goes to part i, whose answer has `sizes[i]` numbers; flat tensors."""
        flat = torch.cat([one.reshape(-1) for one in sending])
        return list(self.swapped(kind, flat, [one.numel() for one in sending], sizes).split(list(sizes)))

    def swapped(self, kind: str, flat: Tensor, given: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """The same of what is one tensor already: `given[i]` numbers go to part i, behind each other."""
        group = self._groups[kind]
        into = flat.new_empty(sum(sizes))
        with self.beat.exchange():
            dist.all_to_all_single(into, flat, list(sizes), list(given), group=group)
        self.sent[kind] += flat.element_size() * (flat.numel() - given[dist.get_rank(group)])
        return into

    def pass_on(self, tensor: Tensor, size: int) -> tuple[Tensor, list[Any]]:
        """Begins to send `tensor` to the next station of the ring and to receive `size` numbers from the one before: (they, once
        `arrived` says so, and what it wants)."""
        group, station = self._groups["ring"], self.ring
        into = tensor.new_empty(size)
        here, there = (dist.get_global_rank(group, (station + step) % self.degrees.ring) for step in (1, -1))
        with self.beat.exchange():
            works = dist.batch_isend_irecv([dist.P2POp(dist.isend, tensor, here, group), dist.P2POp(dist.irecv, into, there, group)])
        self.sent["ring"] += tensor.numel() * tensor.element_size()
        return into, works

    def arrived(self, works: Sequence[Any]) -> None:
        """Waits for what `pass_on` or `edges` began."""
        with self.beat.exchange():
            for work in works:
                work.wait()

    def gathered(self, part: Tensor, sizes: Sequence[int], dim: int) -> Tensor:
        """All parts of the tokens, joined along `dim`, on every rank of this half of guidance; part i has `sizes[i]` there."""
        if len(sizes) == 1:
            return part
        return self._joined("gather", self._sequence(), part, sizes, dim)

    def halves(self, velocity: Tensor) -> Tensor:
        """Both halves of guidance (2, ...) on every rank, from one (1, ...) each."""
        return self._joined("cfg", self._groups["cfg"], velocity, (1,) * self.degrees.cfg, 0)

    def rows(self, part: Tensor, sizes: Sequence[int], dim: int) -> Tensor:
        """Rows of a picture from all ranks, joined on every rank."""
        return self._joined("rows", dist.group.WORLD, part, sizes, dim)

    def to_first(self, part: Tensor, sizes: Sequence[int], dim: int) -> Tensor | None:
        """The same on the first rank alone; None elsewhere."""
        part = part.contiguous()
        shape = list(part.shape)
        if not self.leads:
            with self.beat.exchange():
                dist.send(part, 0)
            self.sent["rows"] += part.numel() * part.element_size()
            return None
        parts = [part]
        for rank in range(1, self.degrees.ranks):
            shape[dim] = sizes[rank]
            parts.append(part.new_empty(shape))
            with self.beat.exchange():
                dist.recv(parts[-1], rank)
        return torch.cat(parts, dim)

    def given(self, part: Tensor) -> None:
        """Sends `part` to the first rank, which calls `taken`."""
        with self.beat.exchange():
            dist.send(part.contiguous(), 0)
        self.sent["tiles"] += part.numel() * part.element_size()

    def taken(self, into: Tensor, source: int) -> Tensor:
        """`into`, with what rank `source` gave. For the first rank."""
        with self.beat.exchange():
            dist.recv(into, source)
        return into

    def edges(self, first: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(the last row of the rank before, the first row of the rank after), of the same shape; None at the picture's ends."""
        before = None if self.rank == 0 else torch.empty_like(first)
        after = None if self.rank == self.degrees.ranks - 1 else torch.empty_like(last)
        sends = []
        if before is not None:
            sends += [dist.P2POp(dist.isend, first, self.rank - 1), dist.P2POp(dist.irecv, before, self.rank - 1)]
            self.sent["halo"] += first.numel() * first.element_size()
        if after is not None:
            sends += [dist.P2POp(dist.isend, last, self.rank + 1), dist.P2POp(dist.irecv, after, self.rank + 1)]
            self.sent["halo"] += last.numel() * last.element_size()
        if sends:
            with self.beat.exchange():
                works = dist.batch_isend_irecv(sends)
            self.arrived(works)
        return before, after

    def stacked(self, numbers: Tensor) -> Tensor:
        """(ranks, *shape) of `numbers`, which have the same shape on every rank."""
        into = numbers.new_empty(self.degrees.ranks, *numbers.shape)
        with self.beat.exchange():
            dist.all_gather(list(into.unbind(0)), numbers.contiguous())
        self.sent["moments"] += numbers.numel() * numbers.element_size() * (self.degrees.ranks - 1)
        return into

    def _sequence(self) -> Any:
        """The group of ranks that share the tokens of this half of guidance."""
        if self.degrees.cfg * self.teams == 1:
            return dist.group.WORLD
        if self.degrees.ring == 1 or self.degrees.ulysses == 1:
            return self._groups["ulysses" if self.degrees.ring == 1 else "ring"]
        if "sequence" not in self._groups:
            size = self.degrees.sequence
            made = [dist.new_group(list(range(first, first + size))) for first in range(0, self.degrees.ranks * self.teams, size)]
            self._groups["sequence"] = made[self.rank // size]
        return self._groups["sequence"]

    def _joined(self, kind: str, group: Any, part: Tensor, sizes: Sequence[int], dim: int) -> Tensor:
        shape, parts = list(part.shape), []
        for size in sizes:
            shape[dim] = size
            parts.append(part.new_empty(shape))
        with self.beat.exchange():
            if len(set(sizes)) == 1:
                dist.all_gather(parts, part.contiguous(), group)
            else:  # gloo gathers only what is of one shape
                for source, one in enumerate(parts):
                    if source == dist.get_rank(group):
                        one.copy_(part)
                    dist.broadcast(one, dist.get_global_rank(group, source), group)
        self.sent[kind] += part.numel() * part.element_size() * (len(sizes) - 1)
        return torch.cat(parts, dim)
