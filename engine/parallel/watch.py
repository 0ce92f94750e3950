"""When a fleet counts as broken. Pure: from what its ranks last said, and when.

    a rank ended                                       at once
    a rank has not been heard of for `SILENT_SECONDS`  stopped, or its machine is
    all ranks wait for each other, for `STUCK_SECONDS` no two are in the same exchange

A rank that computes is left alone however long that takes. So everything here is found within 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BEAT_SECONDS = 1.0
SILENT_SECONDS = 20.0
STUCK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a rank says of itself, every second."""

    exchanges: int = 0
    """Begun so far."""
    inside: bool = False
    """In one now: it waits for others."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The last word of one rank."""

    at: float
    """Seconds, monotonic, when it came."""
    pulse: Pulse
    since: float
    """When `pulse` began to be this one."""


def heard(before: Heard | None, pulse: Pulse, now: float) -> Heard:
    """After `pulse` came at `now`."""
    same = before is not None and before.pulse == pulse
    return Heard(now, pulse, before.since if same and before is not None else now)


def broken(ranks: Mapping[int, Heard], now: float) -> tuple[tuple[int, ...], str] | None:
    """(ranks at fault, what is wrong, as a sentence's end); None while all is well."""
    silent = tuple(rank for rank, one in sorted(ranks.items()) if now - one.at > SILENT_SECONDS)
    if silent:
        who = ", ".join(map(str, silent))
        return silent, f"rank {who} has not been heard of for {max(now - ranks[one].at for one in silent):.0f} s"
    if len(ranks) > 1 and all(one.pulse.inside and now - one.since > STUCK_SECONDS for one in ranks.values()):
        return tuple(sorted(ranks)), f"all ranks have waited for each other for {STUCK_SECONDS:.0f} s"
    return None
