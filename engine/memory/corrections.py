"""What this machine's own finished jobs say about the forecasts of memory. Pure.

The formulas see tensors and not what kernels and allocators take beside them, which differs from machine to machine but
hardly from clip to clip: the median of measured over forecast, by model, device and kind of placement, corrects them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from engine.memory.peak import CONTEXT_BYTES, Forecast
from engine.memory.placement import Placement

RECENT = 8
"""Measurements of one kind that are looked at, newest last."""
LEAST = 2
"""Fewer measurements correct nothing: one job may have had a bad day."""
LOWEST, HIGHEST = 0.5, 2.0
"""Bounds of a correction; beyond them a measurement says that something else was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The memory one finished job took on this machine, beside what was forecast."""

    model: str
    device: str
    kind: str
    """`placement_kind` of its placement."""
    forecast_bytes: float
    """What the formulas said, uncorrected, of what was measured; see `measurable`."""
    measured_bytes: float
    """`ClipWritten.peak_bytes`."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A factor for all forecasts of one kind of placement."""

    kind: str
    ratio: float
    jobs: int
    """How many finished jobs it comes from."""


def placement_kind(placement: Placement) -> str:
    """Placements whose forecasts err alike: all choices but the size of the tiles."""
    homes = [f"{home.precision} {home.residency} {home.source}" for home in placement.homes.values()]
    rest = (f"{placement.passes} pass", f"{placement.feed_forward} blocks", f"{placement.decoder} {placement.decode} decode")
    return ", ".join([*homes, *rest])


def measurable(forecast: Forecast, device: str) -> float:
    """Of a forecast, uncorrected, the bytes a finished job can be measured by: on a GPU what tensors take, else all."""
    bytes_ = max(forecast.stages.values()) if device.startswith("cuda") else forecast.device_bytes
    return bytes_ / forecast.correction


def corrections(history: Iterable[Measured], model: str, device: str) -> tuple[Correction, ...]:
    """One factor for each kind of placement that was measured often enough. `history`: newest last."""
    ratios: dict[str, list[float]] = {}
    for job in history:
        if job.model == model and job.device == device and job.forecast_bytes > 0 and job.measured_bytes > 0:
            ratios.setdefault(job.kind, []).append(job.measured_bytes / job.forecast_bytes)
    return tuple(Correction(kind, min(max(median(found[-RECENT:]), LOWEST), HIGHEST), len(found[-RECENT:]))
                 for kind, found in sorted(ratios.items()) if len(found) >= LEAST)


def corrected(forecast: Forecast, placement: Placement, device: str, known: Sequence[Correction]) -> Forecast:
    """`forecast` times the factor of its kind; as it is where none is known."""
    kind = placement_kind(placement) if known else ""
    ratio = next((one.ratio for one in known if one.kind == kind), 1.0)
    if ratio == 1.0:
        return forecast
    stages = {stage: round(size * ratio) for stage, size in forecast.stages.items()}
    if device.startswith("cuda"):
        return replace(forecast, stages=stages, device_bytes=max(stages.values()) + CONTEXT_BYTES, correction=ratio)
    whole = round(forecast.device_bytes * ratio)
    return replace(forecast, stages=stages, device_bytes=whole, ram_bytes=whole, correction=ratio)
