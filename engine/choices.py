"""Choosing how a clip uses memory: the fastest way that fits the budget with the quality that is allowed. Pure.

    ModelSpec + Shape + Hardware + Policy --choose--> Way        or CannotFit, with what would do

Quality, strictest first:
    lossless         weights in the precision of the arithmetic, exact decoding (whole or in bands)
    near-lossless    also INT8 weights (0.4 % off in the latents of a tiny model) and decoding in tiles
    fast             also FP8 weights (1 to 3 % off)
Without a wish the best quality that fits is taken, and of the lossy ways only tiles are; a plan says so in its notes.
Profiles, among the ways of that quality that fit:
    fast             the shortest time
    balanced         the least memory that costs at most a tenth more time than that
    tiny             the least memory
Times are nominal (a GPU of 100 TFLOP/s behind 20 GB/s): they order the ways, they are not shown to anyone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from engine.errors import CannotFit, InvalidRequest
from engine.hardware import Hardware
from engine.memory import Forecast, Home, Placement, Shape, forecast, stage_work
from engine.memory.corrections import Correction, corrected
from engine.memory.decoder import tile_area
from engine.memory.placement import NUMBER_BYTES
from engine.memory.weights import layout, stored_bytes
from engine.request import PRECISIONS, PROFILES, QUALITIES
from engine.spec import ModelSpec

ORDER = ("lossless", "tiles", "near-lossless", "fast")
"""Qualities of ways; 'tiles' is near-lossless by nothing but tiled decoding."""
MEMORY_SHARE = 0.95
"""Of the free memory a plan may count on; the rest is for what changes between planning and running."""
BALANCED_TIME = 1.10
WORTH = 0.9
"""A lossier way is taken where it takes less than this share of the time."""
FLOPS, LINK, DISK = 100e12, 20e9, 2e9
"""Nominal arithmetic a second, and bytes a second from memory to the GPU and from disk."""
STEPS = 50
"""Steps the order of ways is worked out for."""
SLOWER = {"int8": 1.08, "fp8": 1.05, "chunked": 1.01, "two passes": 1.02, "streamed": 1.01}
"""Factors on a step: widening weights, smaller products, waiting for the first block."""
DECODING = {"whole": 0.9, "banded": 1.0, "tiled": 0.9, "by-tile": 1.05}
"""Factors on decoding: the lean decoder saves some, bands copy some and wait for frames kept elsewhere, and frames that come at the
end are written after the decoding, not beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the user allows and prefers. Raises `InvalidRequest` for a word it does not know."""

    profile: str = "fast"
    """'fast', 'balanced' or 'tiny'."""
    quality: str | None = None
    """'lossless', 'near-lossless' or 'fast'; None: the best that fits, of lossy ways only tiles."""
    precision: str | None = None
    """Of the transformer, where the user said one; see `engine.precision`. None: the planner's choice."""
    executable: bool = True
    """Only ways this version can run. False: also those it can only forecast."""
    corrections: tuple[Correction, ...] = ()
    """What this machine's own jobs said about forecasts of memory."""

    def __post_init__(self) -> None:
        for field, value, known in (("profile", self.profile, PROFILES), ("quality", self.quality, (None, *QUALITIES)),
                                    ("precision", self.precision, (None, *PRECISIONS[1:]))):
            if value not in known:
                words = ", ".join(word for word in known if word)
                raise InvalidRequest(field, f"{str(value)[:40]!r} is not known. Use one of {words}.")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to make the clip."""

    placement: Placement
    forecast: Forecast
    seconds: float
    """Nominal; only for comparing ways of one clip."""
    quality: str
    """What of it the planner gives up, of `ORDER`."""


def choose(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy) -> Way:
    """The way `policy` prefers of those that fit the free memory. `compute`: precision of the arithmetic.

    Raises `CannotFit`, naming what is missing and what would fit.
    """
    return choose_each(spec, shape, compute, hardware, policy, (policy.profile,))[policy.profile]


def choose_each(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy,
                profiles: Sequence[str] = PROFILES) -> dict[str, Way]:
    """`choose` for each of `profiles`, in the time of one. Raises as it does."""
    found = list(_weighed(spec, shape, compute, hardware, policy))
    for quality in _allowed(policy):
        fitting = [way for way in found if way.quality in quality and fits_in(way, hardware)]
        if fitting:
            return {profile: _preferred(fitting, profile) for profile in profiles}
    raise CannotFit(_refusal(spec, shape, compute, hardware, policy, found))


def weigh(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, placement: Placement) -> Way:
    """The way that `placement` is, whether `policy` would take it or not."""
    return _weigh(spec, shape, compute, hardware, policy, placement, stage_work(spec, shape, STEPS))


def permitted(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy) -> list[Way]:
    """Every way of a quality that `policy` allows, whether it fits or not."""
    return [way for way in _weighed(spec, shape, compute, hardware, policy) if way.quality in _allowed(policy)[-1]]


def unsupported(placement: Placement, compute: str, device: str) -> tuple[str, ...]:
    """What this version cannot do of `placement`, in words; empty where it can run it."""
    reasons = []
    for part, home in placement.homes.items():
        eight = home.precision not in NUMBER_BYTES
        if part == "vae" and eight:
            reasons.append(f"keep the vae's weights in {home.precision.upper()} (they are convolutions, and small)")
        if part == "text_encoder" and home.precision == "fp16":
            reasons.append("run the text encoder in FP16 (its numbers overflow there; bf16 and fp32 hold them)")
        if not eight and home.precision not in (compute, "fp16"):
            reasons.append(f"keep the {part.replace('_', ' ')} in {home.precision.upper()} while the arithmetic is {compute.upper()}")
        if eight and home.residency == "streamed" and home.source == "disk":
            name = part.replace("_", " ")
            reasons.append(f"stream the {name} in {home.precision.upper()} from disk (its files hold wider numbers)")
    return tuple(reasons)


def _allowed(policy: Policy) -> list[tuple[str, ...]]:
    """Sets of qualities to try in turn."""
    if policy.quality is None:
        return [("lossless",), ("lossless", "tiles")]
    return [ORDER[:{"lossless": 1, "near-lossless": 3, "fast": 4}[policy.quality]]]


def _preferred(ways: list[Way], profile: str) -> Way:
    if profile == "tiny":
        return min(ways, key=lambda way: (way.forecast.device_bytes, way.seconds))
    best: Way | None = None
    for quality in ORDER:  # a lossier way has to be worth it
        alike = [way for way in ways if way.quality == quality]
        quickest = min(alike, key=lambda way: (way.seconds, way.forecast.device_bytes), default=None)
        if quickest and (best is None or quickest.seconds < WORTH * best.seconds):
            best = quickest
    assert best is not None
    if profile == "fast":
        return best
    near = [way for way in ways if way.seconds <= BALANCED_TIME * best.seconds and ORDER.index(way.quality) <= ORDER.index(best.quality)]
    return min(near, key=lambda way: (way.forecast.device_bytes, way.seconds))


def fits_in(way: Way, hardware: Hardware) -> bool:
    """True where the free memory does."""
    ram = hardware.ram_bytes
    return (way.forecast.device_bytes <= int(hardware.free_bytes * MEMORY_SHARE)
            and (ram is None or way.forecast.ram_bytes <= int(ram * MEMORY_SHARE)))


def _weighed(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy) -> tuple[Way, ...]:
    """Every way worth looking at. What is free now decides nothing here, so that what was weighed last can be kept."""
    machine = replace(hardware, free_bytes=0, total_bytes=0, ram_bytes=None if hardware.ram_bytes is None else 0, gpus=())
    return _weighed_on(_Known(spec), shape, compute, machine, policy)


class _Known:
    """A model's facts as something to look up by: they hold mappings, which have no hash."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self._hash = spec, hash(repr(spec))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self.spec == other.spec


@functools.lru_cache(maxsize=16)
def _weighed_on(known: _Known, shape: Shape, compute: str, machine: Hardware, policy: Policy) -> tuple[Way, ...]:
    work = stage_work(known.spec, shape, STEPS)
    return tuple(_weigh(known.spec, shape, compute, machine, policy, placement, work)
                 for placement in _placements(known.spec, shape, compute, machine, policy))


def _weigh(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, placement: Placement,
           work: dict[str, float]) -> Way:
    found = corrected(forecast(spec, shape, compute, placement, hardware.device), placement, hardware.device, policy.corrections)
    return Way(placement, found, _seconds(spec, shape, compute, placement, work),
               _quality(placement, compute, policy.precision))


def _placements(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy) -> Iterator[Placement]:
    """Each component by itself: precision, and place; with each of these, how the transformer and the decoder work."""
    on_gpu = hardware.device.startswith("cuda")
    # Memory of the processor is where staged weights wait, so staging from there saves none on it.
    sources = ("ram", "disk") if on_gpu and hardware.ram_bytes is not None else ("ram",) if on_gpu else ("disk",)
    places = [("resident", "ram"), *((residency, source) for residency in ("staged", "streamed") for source in sources)]
    narrow = set(_allowed(policy)[-1])  # qualities that could be taken at all
    eight = [precision for precision, quality in (("int8", "near-lossless"), ("fp8", "fast")) if quality in narrow]
    texts = [Home(precision, *place) for precision in (compute, *eight[:1]) for place in places]
    kinds = (policy.precision,) if policy.precision else (compute, *eight)
    transformers = [Home(precision, *place) for precision in kinds for place in places]
    # The decoder is small: it stays, or comes when it is its turn.
    vaes = [Home(compute, "resident"), Home(compute, "staged", sources[0])]
    steps = [(1, "whole"), (1, "chunked"), *([(2, "chunked")] if shape.guided else [])]
    if shape.cache == "pab":  # keeps the attention of whole blocks
        steps = steps[:1]
    for text, transformer, vae, (passes, forward), (decode, tile) in product(
            texts, transformers, vaes, steps, _decodes(spec, shape)):
        placement = Placement(text, transformer, vae, passes, forward, decode, tile, "lean")
        if not policy.executable or not unsupported(placement, compute, hardware.device):
            yield placement


def _decodes(spec: ModelSpec, shape: Shape) -> list[tuple[str, tuple[int, int]]]:
    """Whole, in bands, and in tiles of half, a quarter and an eighth of the native size where those are smaller than the clip."""
    whole = (shape.height, shape.width)
    tiles = [tile_size(spec, part) for part in (2, 4, 8)]
    smaller = [tile for tile in dict.fromkeys(tiles) if tile[0] < shape.height or tile[1] < shape.width]
    # All tiles at a time hold the caches of all of them, whatever their size: one size is enough.
    return [("whole", whole), ("banded", whole), *(("tiled", tile) for tile in smaller[:1]), *(("by-tile", tile) for tile in smaller)]


def tile_size(spec: ModelSpec, part: int = 2) -> tuple[int, int]:
    """Pixels (height, width) of a decoder tile: about the native size over `part`.

    Tiles overlap by a sixth of their height and a fifth of their width; only where these are whole latents do the
    tiles join to the size of the clip.
    """
    unit = spec.spatial_scale
    return (max(1, round(spec.native_height / part / (6 * unit))) * 6 * unit,
            max(1, round(spec.native_width / part / (5 * unit))) * 5 * unit)


def _quality(placement: Placement, compute: str, asked: str | None) -> str:
    """What the planner itself gives up; the transformer's precision is not its choice where it was `asked` for."""
    free = {home.precision for part, home in placement.homes.items() if asked is None or part != "transformer"}
    precisions = free - {compute}
    if precisions & {"fp8", "fp8-dynamic", "int8-dynamic"}:
        return "fast"
    return "near-lossless" if precisions else "lossless" if placement.exact else "tiles"


def _seconds(spec: ModelSpec, shape: Shape, compute: str, placement: Placement, work: dict[str, float]) -> float:
    """Nominal time of the clip, everything but loading."""
    total = 2 * work["encode"] / FLOPS
    for part, home in placement.homes.items():
        arrive = spec.component_bytes[part] / DISK if home.source == "disk" else stored_bytes(layout(spec, part), home, compute) / LINK
        if part == "transformer":
            step = work["sample"] / STEPS / FLOPS * SLOWER.get(home.precision, 1.0) * SLOWER.get(placement.feed_forward, 1.0)
            step *= SLOWER["two passes"] if placement.passes == 2 else 1.0
            if home.residency == "streamed":  # blocks arrive while others work
                step = max(step, arrive * placement.passes) * SLOWER["streamed"]
            total += step * STEPS
        if home.residency == "staged" or (home.residency == "streamed" and part == "text_encoder"):
            total += arrive * (2 if home.residency == "streamed" and shape.guided else 1)
    overlap = 1.0 if placement.exact else tile_area(spec, shape, placement.tile)
    return total + work["decode"] * overlap * DECODING[placement.decode] / FLOPS


def _refusal(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy, found: list[Way]) -> str:
    """Why nothing fits, with numbers, and what would."""
    allowed = [way for way in found if way.quality in _allowed(policy)[-1]]
    least = min(allowed, key=lambda way: way.forecast.device_bytes)
    need, ram = least.forecast.device_bytes, hardware.ram_bytes
    text = (f"{shape.frames} frames of {shape.width} x {shape.height} with {spec.name} need about {_gb(need)} of "
            f"memory; {hardware.name} has {_gb(hardware.free_bytes)} free of {_gb(hardware.total_bytes)}. ")
    if need <= hardware.free_bytes * MEMORY_SHARE and ram is not None:
        return (text + f"The weights wait in the computer's own memory, of which {_gb(ram)} are free and "
                f"{_gb(min(way.forecast.ram_bytes for way in allowed))} needed.")
    lossier = _weighed(spec, shape, compute, hardware, replace(policy, quality="fast"))
    if lossy := [way for way in lossier if fits_in(way, hardware)]:
        word = "near-lossless" if any(way.quality in ("tiles", "near-lossless") for way in lossy) else "fast"
        return text + f"With quality {word} it would fit."
    if shape.cache != "off" and any(fits_in(way, hardware) and way.quality in _allowed(policy)[-1]
                                    for way in _weighed(spec, replace(shape, cache="off"), compute, hardware, policy)):
        return text + f"Without the cache {shape.cache} it would fit."
    return text + _what_fits(spec, shape, compute, hardware, policy)


def _what_fits(spec: ModelSpec, shape: Shape, compute: str, hardware: Hardware, policy: Policy) -> str:
    """The longest, then the largest smaller clip that would fit, as advice."""
    def fits(frames: int, height: int, width: int) -> bool:
        smaller = Shape(frames, height, width, shape.guided, min(frames, shape.given), shape.cache)
        return any(fits_in(way, hardware) for way in _weighed(spec, smaller, compute, hardware, policy)
                   if way.quality in _allowed(policy)[-1])

    if fits(1, shape.height, shape.width):
        low, high = 0, (shape.frames - 1) // spec.frame_step  # the longest that fits is in low .. high - 1 steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle * spec.frame_step + 1, shape.height, shape.width) else (low, middle)
        frames = low * spec.frame_step + 1
        return f"{frames} frame{'s' if frames > 1 else ''} at this size would fit."
    unit = spec.size_multiple
    for percent in range(90, 0, -10):
        height, width = (max(unit, side * percent // 100 // unit * unit) for side in (shape.height, shape.width))
        if not spec.fixed_size and fits(1, height, width):
            return f"1 frame of {width} x {height} would fit."
    return "Its weights alone do not fit; free memory, or choose a smaller model."


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
