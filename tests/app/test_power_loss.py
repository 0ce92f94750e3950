"""The power goes at some step of a job: what the disk may then hold is a studio that loses nothing it has acknowledged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.power_loss import record, replay
from engine.video import publish

pytestmark = pytest.mark.skipif(sys.platform != "linux" or sys.version_info < (3, 11),
                                reason="asks /proc what a file is; pathlib of 3.10 keeps its own copies of the calls of os")


def test_nothing_acknowledged_is_lost_and_nothing_half_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    notes = record(root, 1)
    assert {note.kind for note in notes} == {"fsync file", "fsync folder", "name", "gone", "folder", "commit", "ack"}
    tried, wrong = replay(notes, root, tmp_path / "disks", each=24)
    assert tried > 12 and wrong == []


def test_the_model_finds_names_that_were_never_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "sync_dir", lambda folder: None)
    root = tmp_path / "data"
    root.mkdir()
    _tried, wrong = replay(record(root, 1), root, tmp_path / "disks", each=1000)
    assert any("is not whole" in line for line in wrong)
