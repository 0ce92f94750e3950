"""What each lossy option costs in quality and saves in arithmetic, as `bench.caches` measured it on the pocket model. Pure, no torch.

The figures stand in `engine/facts/caches.json`; `python -m bench.caches` writes that file anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.cache.first_block import FirstBlock
from engine.cache.gate import first_gated
from engine.cache.taylor import Taylor

FILE = Path(__file__).parents[1] / "facts" / "caches.json"
NAMES = {"first-block": "The first-block cache", "pab": "Pyramid attention broadcast", "magcache": "MagCache",
         "taylorseer": "TaylorSeer"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: a cache with a gate, on the pocket model."""

    cache: str
    cfg_gate: float
    flops_ratio: float
    """Transformer arithmetic of the exact clip over that of this one."""
    psnr: float
    """dB to the exact clip, mean over clips of the decoded frames' PSNR."""
    psnr_least: float
    """Of the worst clip."""
    full_steps: float
    """Mean number of steps run in full."""
    skipped_cost: float
    """Arithmetic of a skipped step over that of a full one; 0 where none is skipped."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The table and what it was measured with."""

    about: Mapping[str, Any]
    """Model fingerprint, steps, scheduler, guidance, size, number of clips."""
    rows: tuple[Measured, ...]


@lru_cache(maxsize=1)
def measured() -> Measurement:
    """The shipped table."""
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    rows = tuple(Measured(**{name: row[name] for name in Measured.__slots__}) for row in kept["rows"])
    return Measurement(kept["about"], rows)


def row_of(cache: str, cfg_gate: float) -> Measured | None:
    """The row of this cache with the gate nearest to `cfg_gate`; None where nothing like it was measured."""
    alike = [row for row in measured().rows if row.cache == cache and (row.cfg_gate < 1) == (cfg_gate < 1)]
    return min(alike, key=lambda row: abs(row.cfg_gate - cfg_gate), default=None)


def work_share(cache: str, cfg_gate: float, steps: int, guided: bool) -> float:
    """Transformer work of a clip over that without cache and gate, 0 to 1: what a forecast of time counts with.

    For a fixed rhythm exact. Where the model itself decides, the pocket model's measured share stands in.
    """
    gate = first_gated(cfg_gate, steps) if guided else steps
    half = [1.0 if step < gate else 0.5 for step in range(steps)]
    if cache == "taylorseer":
        return sum(cost for cost, full in zip(half, Taylor().schedule(steps), strict=True) if full) / steps
    row = None if cache == "off" else row_of(cache, 1.0)
    return sum(half) / steps / (row.flops_ratio if row else 1.0)


def skipped_share(cache: str) -> float:
    """Work of a step that `cache` may skip, over that of a full one: the pocket model's mean; 0 where nothing of it is run."""
    row = row_of(cache, 1.0)
    if row is None:
        return 0.0
    if cache == "first-block":  # it decides step by step: of those that it may skip it runs some
        retained = FirstBlock().retained
        return (1 / row.flops_ratio - retained) / (1 - retained)
    return row.skipped_cost


def words(cache: str, cfg_gate: float) -> list[str]:
    """What a plan says about these choices, a sentence for each; none for 'off' and 1."""
    said = []
    if cache != "off":
        said.append(f"{NAMES[cache]} takes work of earlier steps again, which changes the picture.")
    if cfg_gate < 1:
        said.append(f"After {cfg_gate:.0%} of the steps the negative prompt is no longer run, which changes the picture.")
    row = row_of(cache, cfg_gate) if said else None
    if row is not None:
        gate = f" and gate {row.cfg_gate:g}" if row.cfg_gate < 1 and row.cfg_gate != cfg_gate else ""
        said.append(f"Measured on the pocket model with these{gate}: {row.flops_ratio:.1f} times less arithmetic, {row.psnr:.0f} dB "
                    f"from the exact clip ({row.psnr_least:.0f} dB at worst).")
    return said


def table() -> list[str]:
    """The rows as lines of a Markdown table; `docs/speed.md` has them."""
    lines = ["| `cache` | `cfg_gate` | times less arithmetic | PSNR, dB (worst clip) | full steps | a skipped step costs |",
             "|---|---|---|---|---|---|"]
    for row in measured().rows:
        cost = f"{row.skipped_cost:.1%}" if row.full_steps < measured().about["steps"] else ""
        lines.append(f"| `{row.cache}` | {row.cfg_gate:g} | {row.flops_ratio:.2f} | {row.psnr:.1f} ({row.psnr_least:.1f}) | "
                     f"{row.full_steps:.0f} | {cost} |")
    return lines
