"""The promise, in small: `python -m bench.chaos` kills more often and takes minutes."""

from __future__ import annotations

from pathlib import Path

from bench.chaos import run_chaos


def test_a_few_kills_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    tally = run_chaos(tmp_path / "data", kills=5, seed=3, step_seconds=0.01, pause=0.5, settle=90.0)
    assert sum(tally.kills.values()) == 5 and tally.acked
    assert tally.findings == dict.fromkeys(tally.findings, 0), tally
