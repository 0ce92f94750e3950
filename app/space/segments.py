"""How a job is cut where a GPU is lent by the call: no call asks for more than it may have. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import CannotFit

LONGEST_SECONDS = 60.0
"""Of one call, unless said; a visitor who has not signed in has two minutes a day."""
MARGIN, FLOOR = 1.3, 10.0
STOP_BEFORE = 4.0
"""Seconds at the end of a call for saving the state."""
LEAST_STEPS = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """One call."""

    declared: int
    """Seconds to ask for."""
    working: float
    """Seconds after which the job stops by itself, its state saved; infinite where it is expected to end."""


def next_segment(stages: Mapping[str, float] | None, share_left: float, longest: float = LONGEST_SECONDS) -> Segment:
    """The next call for a job with these forecast seconds by stage (None: not known yet). `share_left`: of its sampling, 0 to 1.

    Raises CannotFit where what cannot be cut (loading, encoding, decoding) is longer than a call by itself.
    """
    if stages is None:
        return Segment(math.ceil(longest), longest - STOP_BEFORE)
    sampling = stages.get("sample", 0.0) * share_left
    whole = sum(stages.values()) - stages.get("sample", 0.0)
    if whole * MARGIN + FLOOR > longest and whole > longest - STOP_BEFORE:
        raise CannotFit(f"Loading and decoding alone take about {whole:.0f} s, and one call of the GPU has {longest:.0f} s. Make fewer or "
                        "smaller frames.")
    wanted = (whole + sampling) * MARGIN + FLOOR
    if wanted <= longest:
        return Segment(math.ceil(wanted), math.inf)
    return Segment(math.ceil(longest), longest - STOP_BEFORE)
