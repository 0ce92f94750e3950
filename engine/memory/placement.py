"""The choices a plan makes about memory: frozen, JSON-able, and complete. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from engine.request import REFUSED_PRECISIONS

NUMBER_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of a number in the precisions that arithmetic is done in."""
STORED = {**NUMBER_BYTES, "fp8": 1, "int8": 1, "fp8-dynamic": 1, "int8-dynamic": 1}
"""Bytes of a matrix element as stored; FP8 and INT8 weights are widened layer by layer as they are used, the dynamic ones multiplied
in 8 bits."""
RESIDENCIES = ("resident", "staged", "streamed")
SOURCES = ("ram", "disk")


@dataclass(frozen=True, slots=True)
class Home:
    """Where and how one component's weights are kept."""

    precision: str
    """'bf16', 'fp32': as the plan's arithmetic; 'fp16': the component's weights and arithmetic, whatever the plan's; 'fp8', 'int8'
    or one of these with '-dynamic': its stored matrices, while the rest and the arithmetic stay as the plan's."""
    residency: str
    """'resident': on the device for the whole job; 'staged': whole, only while it works; 'streamed': block by block, the
    next block arriving while one works, so two are there at once."""
    source: str = "ram"
    """Where weights wait that are not on the device: 'ram' or 'disk'."""

    def __post_init__(self) -> None:
        """Raises `InvalidRequest` for a word that is none of these."""
        for field, value, known in (("precision", self.precision, tuple(STORED)), ("residency", self.residency, RESIDENCIES),
                                    ("source", self.source, SOURCES)):
            if value not in known:
                why = f": {REFUSED_PRECISIONS[value]}" if value in REFUSED_PRECISIONS else ""
                raise InvalidRequest(field, f"{str(value)[:40]!r} is not offered{why}. Use one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class Placement:
    """Every choice about memory. The order of fields is the order of stages."""

    text_encoder: Home
    transformer: Home
    vae: Home
    passes: int
    """1: both halves of guidance in one batch; 2: one after the other, each weight read twice a step."""
    feed_forward: str
    """'whole': diffusers' blocks; 'chunked': `engine.models.chunked`."""
    decode: str
    """'whole': exact, a few frames at a time; 'banded': exact too, and each layer band by band; 'tiled': approximate, all tiles a
    few frames at a time; 'by-tile': the same picture as 'tiled', every tile to its end before the next."""
    tile: tuple[int, int]
    """Pixels (height, width) decoded at once; the clip's own size where `decode` is 'whole' or 'banded'."""
    decoder: str
    """Of 'whole' and 'tiled'. 'stock': diffusers' modules; 'lean': as `engine.models.vae_decode.speed_up` changes them, with half
    the memory."""

    @property
    def exact(self) -> bool:
        """Whether the decoder sees the whole frame."""
        return self.decode in ("whole", "banded")

    @property
    def homes(self) -> dict[str, Home]:
        return {"text_encoder": self.text_encoder, "transformer": self.transformer, "vae": self.vae}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"tile": list(self.tile)}


def everywhere(precision: str, residency: str, tile: tuple[int, int], *, tiled: bool, decoder: str = "stock") -> Placement:
    """One precision and residency for all components, one batch, diffusers' transformer blocks."""
    home = Home(precision, residency)
    return Placement(home, home, home, 1, "whole", "tiled" if tiled else "whole", tile, decoder)
