"""Writes the table in docs/planner.md: what the planner chooses for the published checkpoints in 4 to 80 GiB.

    python -m bench.planner_table            writes the file, prints the table
    python -m bench.planner_table --check    exit status 1 if the file is not up to date

Forecasts from bundled facts: no weights, no GPU. `tests/engine/test_planner_table.py` counts the chosen ways on the meta device.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.choices import Policy
from engine.errors import CannotFit
from engine.facts import published
from engine.hardware import Hardware
from engine.plan import Plan, plan
from engine.request import GenerationRequest

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "planner.md"
BEGIN, END = "<!-- table: python -m bench.planner_table -->", "<!-- end of table -->"
MODELS = {"CogVideoX-2b": 49, "CogVideoX-5b": 49, "CogVideoX1.5-5B": 81}
"""And the frames of a clip."""
BUDGETS = (4, 8, 12, 16, 24, 48, 80)
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One checkpoint in one budget."""

    model: str
    gib: int
    plan: Plan | None
    now: Plan | None
    """What this version can run."""


@cache
def rows() -> tuple[Row, ...]:
    """All rows, by model and budget."""
    return tuple(Row(model, gib, planned(model, gib, now=False), planned(model, gib, now=True)) for model in MODELS for gib in BUDGETS)


def planned(model: str, gib: int, *, now: bool) -> Plan | None:
    """The plan for the checkpoint's native clip on a GPU with `gib` GiB free; None where nothing fits."""
    hardware = Hardware(device="cuda:0", name=f"a GPU with {gib} GiB", total_bytes=gib * GIB, free_bytes=gib * GIB, cores=8, bf16=True)
    try:
        return plan(GenerationRequest(prompt="a clip to be planned", model=model, frames=MODELS[model]), published(model), hardware,
                    Policy(executable=now))
    except CannotFit:
        return None


def table() -> str:
    """The table in Markdown."""
    lines = ["| checkpoint, clip | GiB | text encoder | transformer | feed-forward | decode | quality | peak GiB | RAM GiB | "
             "this version |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows():
        if row.plan is None:
            lines.append(f"| {row.model} | {row.gib} | does not fit | | | | | | | |")
            continue
        made, way = row.plan, row.plan.placement
        decode = way.decode if way.exact else f"tiles {way.tile[1]} x {way.tile[0]}"
        now = "does not fit" if row.now is None else f"{row.now.residency}, {row.now.forecast.device_bytes / GIB:.1f} GiB"
        lines.append(f"| {row.model}, {made.frames} x {made.height} x {made.width} | {row.gib} | {way.text_encoder.residency} | "
                     f"{way.transformer.precision} {way.transformer.residency} | {way.feed_forward} | {decode} | {made.quality} | "
                     f"{made.forecast.device_bytes / GIB:.2f} | {made.forecast.ram_bytes / GIB:.1f} | {now} |")
    return "\n".join(lines)


def document() -> str:
    """docs/planner.md as it should be."""
    head, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    return head + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


def main() -> int:
    """Writes or checks the document."""
    wanted = document()
    if "--check" in sys.argv:
        return 0 if DOCUMENT.read_text(encoding="utf-8") == wanted else 1
    DOCUMENT.write_text(wanted, encoding="utf-8")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
