"""Which clips the passes of a run see, and at which times. Pure: position in, answer out; nothing is carried on.

An epoch is every clip once: the clips of each bucket are shuffled and cut into batches (the last may be smaller), then the batches are
shuffled. Pass number p of the run is batch p mod n of epoch p div n. Clips of different shapes are never in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.lora.streams import shuffled, uniform

STRATA = 8


@dataclass(frozen=True, slots=True)
class Order:
    """buckets: the bucket of each clip, in the set's order."""

    buckets: tuple[object, ...]
    batch: int
    seed: int

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Clips by bucket, in order of first appearance."""
        found: dict[object, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            found.setdefault(bucket, []).append(index)
        return tuple(tuple(group) for group in found.values())

    @property
    def per_epoch(self) -> int:
        """Passes in an epoch."""
        return sum(-(-len(group) // self.batch) for group in self.groups)

    def at(self, position: int) -> tuple[int, ...]:
        """The clips of pass number `position`."""
        epoch, index = divmod(position, self.per_epoch)
        batches: list[tuple[int, ...]] = []
        for number, group in enumerate(self.groups):
            mixed = [group[i] for i in shuffled(len(group), self.seed, "order", epoch, number)]
            batches += [tuple(mixed[at:at + self.batch]) for at in range(0, len(mixed), self.batch)]
        return batches[shuffled(len(batches), self.seed, "order", epoch, -1)[index]]


def time_at(visit: int, *, seed: int, times: int, window: int, stratified: bool) -> int:
    """The time (0..times-1) of visit number `visit`: uniform; stratified, every window of visits covers all of it evenly.

    `window`: visits of one step; at least `STRATA` are spread.
    """
    u = uniform(seed, "time", visit)
    if stratified:
        size = max(STRATA, window)
        stratum = shuffled(size, seed, "strata", visit // size)[visit % size]
        u = (stratum + u) / size
    return min(times - 1, int(u * times))


def first_visit(position: int, batch: int) -> int:
    """Number of the first visit of a pass: every pass has room for a whole batch."""
    return position * batch


def share(passes: Sequence[int], rank: int, world: int) -> list[int]:
    """The passes of a step that one of `world` processes makes."""
    return [one for index, one in enumerate(passes) if index % world == rank]
