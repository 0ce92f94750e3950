"""MagCache (after https://arxiv.org/abs/2506.09045): how far a feature moves from step to step hardly depends on the words.

    g_t = |F(t) - F(t-1)| / |F(t-1)|,    F: the predicted clean latents of both halves of guidance; calibrated once
    e   = sqrt(sum of g^2 over the steps since the last full one)

A step is skipped while e stays within the threshold; F is then taken from the last full step. The solver's fresh noise makes F
walk at random, so distances add up by their squares. (The paper calibrates |F(t)| / |F(t-1)| of the hidden states' change. For
the clean latents that is within 3 % of 1 from the third step on, and says nothing; how far they move falls from 20 % to 3 %.)

The magnitudes g belong to one checkpoint, scheduler and number of steps. The pocket model's are shipped; for any other the first clip
made with this cache is run in full, and its magnitudes are kept.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
VERSION = 1
SHIPPED = "magcache.json"
"""Beside the weights of a checkpoint: {"version", "fingerprint", "changes": {"dpm-50": [...], ...}}."""


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Decides by the calibrated magnitudes alone, so which steps are skipped is known before the first one."""

    threshold: float = 0.11
    """Largest e of a skipped step."""
    most: int = 7
    """Most steps skipped in a row."""
    retained: float = 0.28
    """Share of the steps at the start that are always run in full: there the picture is laid out."""
    last: int = 1
    """Steps at the end that are always run in full."""

    def schedule(self, changes: Sequence[float]) -> tuple[bool, ...]:
        """For each step: True where it is run in full. `changes`: g of every step, the first is not used."""
        steps, made = len(changes), []
        first = max(1, round(self.retained * steps))
        squares, row = 0.0, 0
        for step, change in enumerate(changes):
            squares, row = squares + change**2, row + 1
            full = step < first or step >= steps - self.last or row > self.most or not math.sqrt(squares) <= self.threshold
            if full:
                squares, row = 0.0, 0
            made.append(full)
        return tuple(made)


def changes_key(scheduler: str, steps: int, run: int) -> str:
    """Under which the factors are kept: 'dpm-50'; 'dpm-50-40' where only the last 40 of 50 steps are run."""
    return f"{scheduler}-{steps}" if run == steps else f"{scheduler}-{steps}-{run}"


def read_changes(files: Sequence[Path], fingerprint: str, scheduler: str, steps: int, run: int) -> tuple[float, ...] | None:
    """`run` factors, from the first of `files` that has them for this checkpoint; None where none has.

    Never raises for a bad file: it is passed over, and calibrated again.
    """
    for path in files:
        known = _read(path, fingerprint)
        for count in (run, steps):
            found = known.get(changes_key(scheduler, steps, count))
            if found is not None and _usable(found, count):
                return tuple(float(change) for change in found[count - run:])
    return None


def with_changes(path: Path, fingerprint: str, key: str, changes: Sequence[float]) -> str:
    """The text of the file at `path` with these factors added; a file of another checkpoint or version is begun anew."""
    known = _read(path, fingerprint) | {key: [round(change, 5) for change in changes]}
    return json.dumps({"version": VERSION, "fingerprint": fingerprint, "changes": known}) + "\n"


def _read(path: Path, fingerprint: str) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["changes"]) if (kept["version"], kept["fingerprint"]) == (VERSION, fingerprint) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s); MagCache is calibrated again", path, error)
        return {}


def _usable(changes: object, steps: int) -> bool:
    return (isinstance(changes, list) and len(changes) == steps
            and all(isinstance(r, (int, float)) and not isinstance(r, bool) and math.isfinite(r) and 0 <= r < 100 for r in changes))
