"""The transformer's precision, where the user says one: what it means for the arithmetic, what it costs, and when it is refused. Pure.

    auto            bf16 where the device computes it natively, else fp32; a plan may go to INT8 or FP8 where the quality allows it
    bf16, fp32      weights and all arithmetic of the clip in it
    fp16            the transformer alone: T5 overflows in it
    int8, fp8       matrices stored so, widened as they are used (`engine.models.eight_bit`)
    ...-dynamic     products in 8 bits too; only ever taken when asked for

A precision that is asked for is kept: no profile, budget or rung of the ladder changes it, and its loss is not counted as one of the
planner's own choices. What else may be lost is still `quality`'s to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.errors import InvalidRequest
from engine.hardware import Hardware

FP8_PRODUCTS = (8, 9)
"""Least CUDA compute capability with products in FP8 (Ada, Hopper)."""
LOSS = {"fp16": "near-lossless", "int8": "near-lossless", "fp8": "fast", "int8-dynamic": "fast", "fp8-dynamic": "fast"}
"""Quality of each precision that is not lossless."""
ORDER = ("lossless", "near-lossless", "fast")
FILE = Path(__file__).parent / "facts" / "precisions.json"
"""What `python -m bench.precisions` measured on the pocket model."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How far clips moved with one precision, or decoded in tiles."""

    name: str
    """Of `PRECISIONS`, or 'tiles'."""
    bytes_share: float
    """The transformer's weights over those of the exact clip."""
    psnr: float
    """dB to the exact clip, mean over clips of the decoded frames' PSNR."""
    psnr_least: float
    """Of the worst clip."""


@lru_cache(maxsize=1)
def measured() -> tuple[Measured, ...]:
    """The shipped table."""
    return tuple(Measured(**row) for row in json.loads(FILE.read_text(encoding="utf-8"))["rows"])


def asked_for(precision: str | None) -> str | None:
    """None for 'auto', which is no wish."""
    return None if precision == "auto" else precision


def compute_dtype(precision: str | None, hardware: Hardware) -> str:
    """'bf16' or 'fp32': what the clip's arithmetic is in. fp16 never is: T5 overflows in it."""
    return precision if precision in ("bf16", "fp32") else "bf16" if hardware.bf16 else "fp32"


def check_precision(precision: str | None, quality: str | None, hardware: Hardware) -> None:
    """Raises `InvalidRequest` where `quality` rules the precision out, or the GPU has no such products."""
    loss = LOSS.get(precision or "", "lossless")
    if quality is not None and ORDER.index(loss) > ORDER.index(quality):
        raise InvalidRequest("precision", f"is {precision}, which changes the picture more than quality {quality} allows. Ask for quality "
                                          f"{loss}, or leave precision out.", suggestion="auto")
    if precision == "fp8-dynamic" and hardware.capability is not None and hardware.capability < FP8_PRODUCTS:
        raise InvalidRequest("precision", f"is fp8-dynamic, and {hardware.name} has no products in FP8 (compute capability "
                                          f"{'.'.join(map(str, hardware.capability))}; 8.9 and above have). Use fp8, which only stores in "
                                          "it, or int8-dynamic.", suggestion="fp8")


def worse(one: str, other: str) -> str:
    """The lesser of two qualities."""
    return max(one, other, key=ORDER.index)


def precision_notes(precision: str | None, hardware: Hardware) -> list[str]:
    """What a person should know of the choice beyond the transformer's own line."""
    notes = []
    if precision == "bf16" and not hardware.bf16:
        notes.append(f"{hardware.name} does not compute bf16 natively: half the memory of fp32, and more time.")
    if precision == "fp32" and hardware.bf16:
        notes.append("All arithmetic is in fp32, as asked: twice the memory of bf16, and more time.")
    if precision in ("int8-dynamic", "fp8-dynamic"):
        notes.append("The transformer multiplies in 8 bits, which is slower than only keeping weights so, unless its blocks are compiled.")
    return notes
