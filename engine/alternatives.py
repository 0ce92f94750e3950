"""What a person can choose from before a clip is made: three words, and under them every way with its predicted cost. Pure.

    Plan of the request + history --alternatives--> Fast, Balanced, Tiny; every way, cheapest memory last
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.choices import ORDER, PROFILES, Policy, Way, fits_in, permitted
from engine.errors import CannotFit
from engine.hardware import Hardware
from engine.memory import Placement
from engine.memory.corrections import Correction, placement_kind
from engine.plan import Plan, Timing, forecast_stages, plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One way to make the clip, and what it would take here."""

    word: str
    """'Fast', 'Balanced' or 'Tiny'; '' for a way that none of them takes."""
    kind: str
    """The choices in short, see `placement_kind`; two alternatives may differ in their tiles alone."""
    quality: str
    """'lossless', 'near-lossless' or 'fast'."""
    peak_bytes: int
    """Highest memory of the device."""
    ram_bytes: int
    """Highest memory of the computer itself."""
    seconds: float | None
    """Wall time of the whole job; None where no clip was made this way on this machine."""
    stages: dict[str, float]
    """`seconds` by stage; empty where they are not known."""
    fits: bool
    """The free memory, or the request's budget, allows it."""
    permitted: bool
    """The request's wish for quality allows it."""
    chosen: bool
    """The request as it stands would be made this way."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The words first. `every` holds all ways this version can run on the device, but those that another one of no lesser
    quality beats in time and memory; the best quality and fastest first."""

    words: tuple[Alternative, ...]
    every: tuple[Alternative, ...]


def alternatives(made: Plan, hardware: Hardware, timings: Sequence[Timing], known: Sequence[Correction] = ()) -> Alternatives:
    """What `made` could be instead, on `hardware` as it was planned for. `known`: corrections of its model and device."""
    request, shape = made.request(), made.shape
    policy = Policy(profile=made.profile, quality=made.allowed or None, corrections=tuple(known))
    within = replace(hardware, free_bytes=min(hardware.free_bytes, made.budget)) if made.budget else hardware
    allowed = [way.placement for way in permitted(made.spec, shape, made.dtype, within, policy)]
    words: dict[str, Plan] = {}
    for profile in PROFILES:
        try:
            words[profile.capitalize()] = plan(replace(request, profile=profile), made.spec, hardware, policy)
        except CannotFit:  # the memory went since `made` was planned
            continue

    def shown(one: Plan, fits: bool, word: str) -> Alternative:
        stages, _basis = forecast_stages(one, timings, alike_only=True)
        return Alternative(word=word, kind=placement_kind(one.placement), quality=one.quality, peak_bytes=one.predicted_bytes,
                           ram_bytes=one.forecast.ram_bytes, seconds=sum(stages.values()) if stages else None, stages=stages,
                           fits=fits, permitted=one.placement in allowed, chosen=one.placement == made.placement, notes=one.notes)

    def of(way: Way) -> Alternative:
        word = next((word for word, one in words.items() if one.placement == way.placement), "")
        return shown(plan(request, made.spec, hardware, policy, way=way), fits_in(way, within), word)

    shown_anyway = [one.placement for one in (made, *words.values())]
    ways = _worth_seeing(permitted(made.spec, shape, made.dtype, within, replace(policy, quality="fast")), shown_anyway)
    return Alternatives(tuple(shown(one, True, word) for word, one in words.items()), tuple(of(way) for way in ways))


def _worth_seeing(ways: Sequence[Way], anyway: Sequence[Placement] = ()) -> list[Way]:
    """Those that no other beats or equals, the best quality first, then the fastest; `anyway`: these in any case."""
    def costs(way: Way) -> tuple[float, ...]:
        return ORDER.index(way.quality), way.seconds, way.forecast.device_bytes, way.forecast.ram_bytes

    seen: list[tuple[float, ...]] = []
    kept = []
    for way in sorted(ways, key=costs):  # what beats a way comes before it
        mine = costs(way)
        beaten = any(all(theirs <= own for theirs, own in zip(other, mine, strict=True)) for other in seen)
        if not beaten or way.placement in anyway:
            seen.append(mine)
            kept.append(way)
    return kept
