"""Going on after memory ran out: which way is taken next, or why none is and what would help. Pure.

    lapses of the job so far --way_after--> Way        or CannotFit
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.choices import Policy, Way, fits_in, permitted, weigh
from engine.errors import MemoryRanOut
from engine.hardware import Hardware
from engine.ladder import CLEARLY, MOST_LAPSES, PHASES, Lapse, needed, next_rung, told, tried_again
from engine.memory import Shape
from engine.spec import ModelSpec

ADVISED = 0.95
"""Share of the memory that was too much at most, of a smaller clip that is offered: with other programs closed it may do."""


def way_after(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, lapses: Sequence[Lapse]) -> Way:
    """The way to go on with after `lapses` (at least one, newest last): one rung lower; where there is none, once more
    the same way in a fresh process, which holds nothing from before.

    Raises `MemoryRanOut` where that failed too, or after `MOST_LAPSES`; the message says what would help.
    """
    last = lapses[-1]
    failed = weigh(spec, shape, compute, hardware, policy, last.placement)
    ways = permitted(spec, shape, compute, hardware, policy)
    fitting = [way for way in ways if fits_in(way, hardware)]
    rung = (next_rung(fitting, failed, last.phase, last.where, CLEARLY ** len(lapses))
            or next_rung(fitting, failed, last.phase, last.where) or next_rung(ways, failed, last.phase, last.where))
    if len(lapses) >= MOST_LAPSES or (rung is None and tried_again(lapses)):
        raise MemoryRanOut(_what_helps(spec, shape, compute, hardware, policy, failed, lapses), phase=last.phase, where=last.where)
    return rung or failed


def _what_helps(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, failed: Way,
                lapses: Sequence[Lapse]) -> str:
    """The message that ends the job."""
    last, often = lapses[-1], len(lapses)
    text = f"Memory ran out {PHASES[last.phase]}, {often} times in all"
    if tried_again(lapses):
        text += f", the last time in the least memory that {policy.quality or 'the default'} quality allows"
    text += ". What was made so far is kept. "
    for quality in ("near-lossless", "fast"):
        lossy = next_rung(permitted(spec, shape, compute, hardware, replace(policy, quality=quality)), failed, last.phase, last.where)
        if lossy is not None:
            said = told([last], lossy.placement)[0].partition("; ")[2]
            return text + f"With quality {quality} it would be tried {said.removeprefix('going on ')} Closing other programs may help too."
    of_weights = last.phase in ("load", "text")  # which no smaller clip changes
    smaller = None if of_weights else _smaller(spec, shape, compute, hardware, policy, failed, last)
    if smaller is None:
        return text + "Close other programs and press Retry, or choose a smaller model."
    return text + f"Close other programs and press Retry, or ask for {smaller}."


def _smaller(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, failed: Way, last: Lapse) -> str | None:
    """The longest clip of at least half the frames, else the largest size, that takes clearly less where memory ran out."""
    limit = ADVISED * needed(failed, last.phase, last.where)

    def less(other: Shape) -> bool:
        return any(needed(way, last.phase, last.where) <= limit for way in permitted(spec, other, compute, hardware, policy))

    for frames in range(shape.frames - spec.frame_step, shape.frames // 2, -spec.frame_step):
        if less(replace(shape, frames=frames)):
            return f"{frames} frames or fewer"
    unit = spec.size_multiple
    for percent in range(0 if spec.fixed_size else 90, 0, -10):
        height, width = (max(unit, side * percent // 100 // unit * unit) for side in (shape.height, shape.width))
        if less(replace(shape, height=height, width=width)):
            return f"{width} x {height} or smaller"
    return None
