"""How one clip is divided over devices. Pure.

    rank = (cfg part * ring + ring part) * ulysses + ulysses part

    cfg       each half of guidance on its own devices: one exchange of latents a step
    ulysses   tokens divided; for attention every device gets all tokens of some heads instead
              (DeepSpeed-Ulysses, https://arxiv.org/abs/2309.14509)
    ring      tokens divided; keys and values walk round (Ring Attention, https://arxiv.org/abs/2310.01889)
    both      ulysses within a ring's station (USP, https://arxiv.org/abs/2405.07719)

Nothing need divide evenly: tokens of words and of the video, and heads, are each dealt out so that parts differ by at most one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product

from engine.errors import InvalidRequest

MOST_RANKS = 64
NAMES = ("cfg", "ulysses", "ring")
EXAMPLE = "cfg=2,ulysses=2,ring=1"


@dataclass(frozen=True, slots=True, order=True)
class Degrees:
    """Devices by what divides the work among them."""

    cfg: int = 1
    ulysses: int = 1
    ring: int = 1

    @property
    def sequence(self) -> int:
        """Devices that share the tokens of one half of guidance."""
        return self.ulysses * self.ring

    @property
    def ranks(self) -> int:
        return self.cfg * self.sequence

    def __str__(self) -> str:
        return f"cfg={self.cfg},ulysses={self.ulysses},ring={self.ring}"

    def place(self, rank: int) -> tuple[int, int, int]:
        """(cfg part, ring part, ulysses part) of `rank`."""
        rest, ulysses = divmod(rank, self.ulysses)
        cfg, ring = divmod(rest, self.ring)
        return cfg, ring, ulysses


ALONE = Degrees()


def parse_degrees(text: object) -> Degrees:
    """'cfg=2,ulysses=2,ring=1' in any order, each at most once, 1 where left out.

    Raises `InvalidRequest` (parallel) for anything else, for a cfg above 2, and for more than 64 ranks in all.
    """
    if not isinstance(text, str):
        raise InvalidRequest("parallel", f"must be text such as {EXAMPLE!r}, not {type(text).__name__}.")
    found: dict[str, int] = {}
    for part in filter(None, (one.strip() for one in text[:200].split(","))):
        match = re.fullmatch(r"(\w+)\s*=\s*(\d{1,4})", part, re.ASCII)
        if match is None or match[1] not in NAMES or match[1] in found:
            raise InvalidRequest("parallel", f"{part[:40]!r} is not understood. Write each of {', '.join(NAMES)} at most once with a whole "
                                             f"number, for example {EXAMPLE!r}; what is left out is 1.")
        found[match[1]] = int(match[2])
    if not found:
        raise InvalidRequest("parallel", f"is empty. Write for example {EXAMPLE!r}, or leave it out for one device.")
    if not all(found.values()):
        raise InvalidRequest("parallel", f"{text[:60]!r} has a degree of 0; the least is 1, which divides nothing.")
    made = Degrees(**found)
    if made.cfg > 2:
        raise InvalidRequest("parallel", f"cfg is {made.cfg}; guidance has two halves, so 2 is the most.", suggestion=str(Degrees(2)))
    if made.ranks > MOST_RANKS:
        raise InvalidRequest("parallel", f"asks for {made.ranks} ranks; {MOST_RANKS} is the most.")
    return made


def deal(total: int, parts: int, *, last: bool = False) -> tuple[int, ...]:
    """`total` things in `parts` parts that differ by at most one; the larger ones first, or `last`."""
    size, more = divmod(total, parts)
    sizes = [size + (part < more) for part in range(parts)]
    return tuple(reversed(sizes) if last else sizes)


def starts(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where each part begins."""
    return (0, *accumulate(sizes))[:-1]


@dataclass(frozen=True, slots=True)
class Share:
    """Tokens and heads of every part of one half of guidance; parts are in the order ring part * ulysses + ulysses part."""

    degrees: Degrees
    text: tuple[int, ...]
    """Tokens of words by part: the larger ones last, as those of the video are first, so that sums are even."""
    video: tuple[int, ...]
    heads: tuple[int, ...]
    """Of attention, by ulysses part."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of words and video by part."""
        return tuple(a + b for a, b in zip(self.text, self.video, strict=True))

    def stations(self) -> tuple[int, ...]:
        """Tokens by ring part."""
        size = self.degrees.ulysses
        return tuple(sum(self.tokens[part:part + size]) for part in range(0, len(self.tokens), size))

    def sent(self, part: int, rows: int, width: int) -> tuple[int, int]:
        """Numbers that `part` sends in one layer: (by ulysses, by the ring); `rows` of the batch, heads of `width` numbers.

        Where all divides, with X = rows * tokens * heads * width:   4 X (U - 1) / (U^2 R)   and   2 X (R - 1) / (U R).
        """
        ring, ulysses = divmod(part, self.degrees.ulysses)
        mine, station = self.tokens[part], self.stations()
        others = sum(self.heads) - self.heads[ulysses]
        there = 3 * mine * others  # queries, keys and values of other parts' heads
        back = (station[ring] - mine) * self.heads[ulysses]  # results of other parts' tokens
        # Every station but the one before the last holder passes on what it has: all but what began at the next one.
        passed = sum(station) - station[(ring + 1) % len(station)]
        return rows * width * (there + back), 2 * rows * width * passed * self.heads[ulysses] * (len(station) > 1)


def share_of(degrees: Degrees, text: int, video: int, heads: int) -> Share:
    """Who holds what of `text` and `video` tokens and `heads` heads."""
    parts = degrees.sequence
    return Share(degrees, deal(text, parts, last=True), deal(video, parts), deal(heads, degrees.ulysses))


def why_not(degrees: Degrees, *, guided: bool, heads: int, video: int) -> str:
    """'' where a model of `heads` heads can be divided so for clips of `video` tokens; else what is wrong, as a clause."""
    if degrees.cfg == 2 and not guided:
        return "cfg is 2, and guidance is 1 or less, so there is no second half; use cfg=1"
    if degrees.ulysses > heads:
        return f"ulysses is {degrees.ulysses}, and the model has {heads} heads to deal out; use at most {heads}, or ring"
    if degrees.sequence > video:
        return f"ulysses x ring is {degrees.sequence}, and the clip has {video} tokens; use at most {video}"
    return ""


def every_degrees(ranks: int, *, guided: bool, heads: int, video: int) -> Iterator[Degrees]:
    """All legal ways to divide over exactly `ranks` devices."""
    sizes = [n for n in range(1, ranks + 1) if ranks % n == 0]
    for cfg, ulysses in product((1, 2), sizes):
        if ranks % (cfg * ulysses) == 0:
            degrees = Degrees(cfg, ulysses, ranks // (cfg * ulysses))
            if not why_not(degrees, guided=guided, heads=heads, video=video):
                yield degrees
