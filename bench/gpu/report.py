"""What was measured, against what was wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STEPS = 50
TARGETS = {
    "2B total": (25.0, "s", "2B, 50 steps + text + decode"),
    "5B total": (62.0, "s", "5B in bf16, 50 steps + text + decode"),
    "2B warm-up": (10.0, "s", "2B, preparing + first step, over a later step"),
    "5B warm-up": (10.0, "s", "5B, preparing + first step, over a later step"),
    "5B 8-bit total": (46.0, "s", "5B in 8 bits, 50 steps + text + decode"),
    "5B 8-bit error": (0.03, "", "its prediction error"),
    "whole peak": (2.0, "GiB", "whole 5B pipeline streamed, highest allocated"),
    "whole ratio": (1.10, "x", "its time over the resident pipeline's"),
    "decode": (1.5, "s", "exact decode"),
    "2B of ceiling": (0.85, "", "2B, composite ceiling of this run over its step"),
    "5B of ceiling": (0.85, "", "5B, composite ceiling of this run over its step"),
}
"""On an H200. Value, unit, in words; all but the ceilings are upper limits."""
AT_LEAST = ("2B of ceiling", "5B of ceiling")


@dataclass
class Findings:
    """Numbers by name, and lines as they come. One a run, handed from part to part."""

    numbers: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def put(self, name: str, value: float) -> None:
        self.numbers[name] = value


def add_totals(numbers: dict[str, float]) -> None:
    """Whole clips: 50 steps, text and decode, from what was measured apart."""
    ends = [numbers.get("decode"), numbers.get("text")]
    for name in ("2B", "5B", "5B 8-bit"):
        step = numbers.get(f"{name} step")
        if step is not None and None not in ends:
            numbers[f"{name} total"] = STEPS * step + sum(end for end in ends if end is not None)
    for name in ("2B", "5B"):
        if f"{name} step" in numbers and f"{name} ceiling" in numbers:
            numbers[f"{name} of ceiling"] = numbers[f"{name} ceiling"] / numbers[f"{name} step"]


def verdicts(numbers: Mapping[str, float]) -> Iterable[str]:
    """A line for each target."""
    for name, (limit, unit, words) in TARGETS.items():
        value = numbers.get(name)
        sign = ">=" if name in AT_LEAST else "<="
        if value is None:
            yield f"{words:52} {'-':>9} {unit:3} wanted {sign} {limit:g}: not measured"
            continue
        met = value >= limit if name in AT_LEAST else value <= limit
        yield f"{words:52} {value:9.3f} {unit:3} wanted {sign} {limit:g}: {'reached' if met else 'NOT REACHED'}"
