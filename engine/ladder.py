"""What comes after memory ran out in spite of the forecast: the next way down that needs less of it. Pure.

    ways + the one that failed + the phase it failed in --next_rung--> Way        or None: nothing is lower

A rung is a way that takes clearly less memory in the phase that failed and no more in any other, within the quality that the
user allowed; of those the least lossy, then the fastest. Whatever way the engine learns to run is a rung by itself. The
size, the frames and the steps of a clip are never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.choices import ORDER, Way
from engine.errors import InvalidRequest
from engine.memory.placement import Home, Placement

PHASES = {"load": "while loading the model", "text": "while encoding the words", "image": "while encoding the image or video",
          "sample": "while sampling", "decode": "while decoding", "verify": "while checking the clip"}
"""Where memory can run out, and how that is said."""
STAGES = {"text": ("encode",), "image": ("encode", "decode"), "sample": ("sample",), "decode": ("decode",), "verify": ("decode",)}
"""The stages of a forecast that tell a phase's memory: the VAE reads a picture in the tiles it decodes in, and still holds its
memory while the file is checked."""
CLEARLY = 0.9
"""A rung takes at most this share of the memory that was too much, after n lapses its n-th power where there is such a way:
the first step down is small, and the last is reached in time."""
MOST_LAPSES = 8
"""So often memory may run out in one job."""


@dataclass(frozen=True, slots=True)
class Lapse:
    """Memory ran out once."""

    phase: str
    """One of `PHASES`."""
    where: str
    """'device', or 'ram': the own memory of a GPU's computer."""
    placement: Placement
    """How memory was used then."""

    def to_json(self) -> dict[str, Any]:
        return {"phase": self.phase, "where": self.where, "placement": self.placement.to_json()}


def read_lapses(values: Sequence[Mapping[str, Any]]) -> tuple[Lapse, ...]:
    """The inverse of `Lapse.to_json`; what another version wrote and this one cannot read is left out."""
    found = []
    for value in values:
        try:
            homes = {part: Home(**value["placement"][part]) for part in ("text_encoder", "transformer", "vae")}
            placement = Placement(**{**value["placement"], **homes, "tile": tuple(value["placement"]["tile"])})
            if value["phase"] in PHASES:
                found.append(Lapse(value["phase"], str(value["where"]), placement))
        except (KeyError, TypeError, InvalidRequest):
            continue
    return tuple(found)


def next_rung(ways: Sequence[Way], failed: Way, phase: str, where: str = "device", share: float = CLEARLY) -> Way | None:
    """The way to go on with after `failed` ran out of memory in `phase`; None where none of `ways` takes less.

    `ways`: those that may be taken, in any order. `where`: see `Lapse`. `share`: at most so much of what `failed` needs there.
    """
    limit = share * needed(failed, phase, where)
    if limit == 0:
        return None
    lower = [way for way in ways if needed(way, phase, where) <= limit
             and all(way.forecast.stages[stage] <= size for stage, size in failed.forecast.stages.items())]
    return min(lower, key=lambda way: (ORDER.index(way.quality), way.seconds, way.forecast.device_bytes), default=None)


def tried_again(lapses: Sequence[Lapse]) -> bool:
    """True when the last lapse happened before, with the same way in the same phase: a fresh process did not help."""
    return lapses[-1] in lapses[:-1]


def told(lapses: Sequence[Lapse], now: Placement) -> tuple[str, ...]:
    """One sentence for each lapse: what happened, and how the job went on. `now`: how it goes on after the last."""
    if not lapses:
        return ()
    after = [*(lapse.placement for lapse in lapses[1:]), now]
    return tuple(f"Memory ran out {PHASES[lapse.phase]}; going on {_difference(lapse.placement, then)}."
                 for lapse, then in zip(lapses, after, strict=True))


def needed(way: Way, phase: str, where: str) -> int:
    """Bytes that a way takes in a phase. While loading: the least of all stages, for what is there in every one is the weights
    that stay; none where none stay."""
    if where == "ram":
        return way.forecast.ram_bytes
    stages = way.forecast.stages
    if phase == "load":
        stay = any(home.residency == "resident" for home in way.placement.homes.values())
        return min(stages.values()) if stay else 0
    return sum(stages[stage] for stage in STAGES[phase])


def _difference(before: Placement, after: Placement) -> str:
    said = []
    for part, home in after.homes.items():
        name, old = f"the {part.replace('_', ' ')}", before.homes[part]
        if home.precision != old.precision:
            said.append(f"with {name}'s weights in {home.precision.upper()}, which changes the picture a little")
        if (home.residency, home.source) != (old.residency, old.source):
            how = {"resident": "kept on the device", "staged": "on the device only while it works",
                   "streamed": "passing through block by block"}[home.residency]
            said.append(f"with {name} {how}" + (", from disk" if home.source == "disk" and home.residency != "resident" else ""))
    if after.passes != before.passes:
        said.append("with the halves of guidance one after the other")
    if after.feed_forward != before.feed_forward:
        said.append(f"with {after.feed_forward} transformer blocks")
    if (after.decode, after.tile) != (before.decode, before.tile):
        each = ", one after the other" if after.decode == "by-tile" else ""
        said.append(f"in tiles of {after.tile[1]} x {after.tile[0]} pixels{each}" if after.decode in ("tiled", "by-tile") else
                    {"banded": "decoding in bands"}.get(after.decode, f"decoding {after.decode}"))
    if after.decoder != before.decoder:
        said.append(f"with the {after.decoder} decoder")
    return ", ".join(said) or "the same way in a fresh process"
