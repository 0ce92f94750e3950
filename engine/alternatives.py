"""What a person can choose from before a clip is made: three words, and under them every way with its predicted cost. Pure.

    Plan of the request + history --alternatives--> Fast, Balanced, Tiny; every way, cheapest memory last
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from engine.choices import ORDER, Policy, Way, choose_each, fits_in, permitted, weigh
from engine.errors import CannotFit
from engine.hardware import Hardware
from engine.memory import Placement
from engine.memory.corrections import Correction, placement_kind
from engine.plan import Plan, Timing, forecast_stages, plan
from engine.precision import asked_for


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
    times: float
    """Its time over that of the request as it stands, by nominal speeds: for comparing ways that were never measured here."""
    fits: bool
    """The free memory, or the request's budget, allows it."""
    permitted: bool
    """The request's wish for quality allows it."""
    chosen: bool
    """The request as it stands would be made this way."""
    placement: Placement
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"notes": list(self.notes), "placement": self.placement.to_json()}


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The words first. `every` holds all ways this version can run on the device, but those that another one of no lesser
    quality beats in time and memory; the best quality and fastest first."""

    words: tuple[Alternative, ...]
    every: tuple[Alternative, ...]


def in_words(made: Plan, hardware: Hardware, timings: Sequence[Timing], known: Sequence[Correction] = ()) -> tuple[Alternative, ...]:
    """Fast, Balanced and Tiny for what `made` asks, in about the time of one plan; see `alternatives`."""
    asked = _Asked(made, hardware, timings, known)
    return tuple(asked.shown(way, fits=True, word=word) for word, way in asked.words.items())


def alternatives(made: Plan, hardware: Hardware, timings: Sequence[Timing], known: Sequence[Correction] = ()) -> Alternatives:
    """What `made` could be instead, on `hardware` as it was planned for. `known`: corrections of its model and device."""
    asked = _Asked(made, hardware, timings, known)
    named = {way.placement: word for word, way in reversed(asked.words.items())}
    anyway = [made.placement, *named]
    ways = _worth_seeing(permitted(*asked.case, replace(asked.policy, quality="fast")), anyway)
    words = tuple(asked.shown(way, fits=True, word=word) for word, way in asked.words.items())
    every = (asked.shown(way, fits=fits_in(way, asked.within), word=named.get(way.placement, "")) for way in ways)
    return Alternatives(words, tuple(every))


class _Asked:
    """The request behind a plan, and how each way of making it is shown."""

    def __init__(self, made: Plan, hardware: Hardware, timings: Sequence[Timing], known: Sequence[Correction]) -> None:
        self.made, self.hardware, self.timings, self.request = made, hardware, timings, made.request()
        self.policy = Policy(profile=made.profile, quality=made.allowed or None, precision=asked_for(made.precision),
                             corrections=tuple(known))
        free = min(hardware.free_bytes, made.budget) if made.budget else hardware.free_bytes
        own = weigh(made.spec, made.shape, made.dtype, hardware, self.policy, made.placement)
        self._own, self._beside = own.seconds, made.predicted_bytes - own.forecast.device_bytes  # what LoRAs take beside any way
        self.within = replace(hardware, free_bytes=max(free - self._beside, 0))
        self.case = (made.spec, made.shape, made.dtype, self.within)
        try:
            ways = choose_each(*self.case, self.policy)
        except CannotFit:  # the memory went since `made` was planned
            ways = {}
        self.words = {profile.capitalize(): way for profile, way in ways.items()}

    @cached_property
    def allowed(self) -> list[Placement]:
        return [way.placement for way in permitted(*self.case, self.policy)]

    def shown(self, way: Way, *, fits: bool, word: str) -> Alternative:
        request = replace(self.request, profile=word.lower()) if word else self.request
        one = plan(request, self.made.spec, self.hardware, self.policy, way=way)
        stages, _basis = forecast_stages(one, self.timings, alike_only=True)
        return Alternative(word=word, kind=placement_kind(one.placement), quality=one.quality,
                           peak_bytes=one.predicted_bytes + self._beside, ram_bytes=one.forecast.ram_bytes,
                           seconds=sum(stages.values()) if stages else None, stages=stages, times=way.seconds / self._own, fits=fits,
                           permitted=bool(word) or one.placement in self.allowed,
                           chosen=one.placement == self.made.placement, placement=one.placement, notes=one.notes)


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
