"""How the trainer's process ends: on a full disk, without its parent, beside another one; and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.training.lora_tools import base_of, config, random_set
from training import __main__ as trainer_main
from training.lora import checkpoint
from training.lora.full import save_model
from training.lora.lock import run_lock
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import EXITS, RunDir, RunState
from training.lora.session import Session


def run_of(base: Path, folder: Path, **changes: Any) -> RunDir:
    run = RunDir(folder)
    run.create(config(base, eval_steps=0, **changes))
    save_set(folder / SAMPLES, random_set())
    return run


def ended(run: RunDir) -> int:
    """The trainer's program in this process; its exit code."""
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        return trainer_main.main([str(run.folder)])
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("room", ["nowhere", "for checkpoints"])
def test_a_full_disk_ends_in_words_and_not_in_an_error(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    run = run_of(tiny_base, tmp_path / "run", save_steps=2)
    monkeypatch.setattr("training.lora.session.BEAT_SECONDS", 0.0)
    write_text = Path.write_text

    def full(path: Path, *given: Any, **more: Any) -> Any:
        if given and isinstance(given[0], str) and path.name != "state.part":
            return write_text(path, *given, **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    if room == "nowhere":
        monkeypatch.setattr(checkpoint, "_write", full)
    end, step = ("blocked", 2) if room == "nowhere" else ("done", 6)
    assert ended(run) == EXITS[end]
    state = run.state()
    assert (state.state, state.step, state.steps) == (end, step, 6)
    assert "Make room, then Resume" in state.message if room == "nowhere" else run.lora_file("made").is_file()


def test_a_trainer_without_its_parent_saves_only_if_it_was_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(trainer_main, "SAVE_SECONDS", 1.0)
    times = []
    for asked in (False, True):
        begun = time.monotonic()
        trainer_main._end_with(gone.pid, lambda asked=asked: asked)  # type: ignore[misc]
        times.append(time.monotonic() - begun)
    assert codes == [1, 1] and times[0] < 0.5 and times[1] >= 1.0


def test_a_second_trainer_leaves_the_run_of_the_first_as_it_is(tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_of(tiny_base, tmp_path / "run")
    with run_lock(run.folder):
        run.set_state(RunState("running", 3, 6), alive=True)
        before = (run.folder / "state.json").read_bytes()
        assert ended(run) == EXITS["failed"]
        assert (run.folder / "state.json").read_bytes() == before and not run.events()
    assert "training: run: " in (said := capfd.readouterr().err) and "worked on by another process" in said
    assert ended(run) == EXITS["done"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_does_not_take_the_place_of_those_after_it(tmp_path: Path, keep: int) -> None:
    def save(step: int) -> None:
        state = checkpoint.State(step, {"a": torch.zeros(2)}, None, {"b": torch.zeros(1)}, {}, 0, 0.0)
        checkpoint.save_state(tmp_path, state, keep)

    save(500)
    (tmp_path / "step-00000500/state.json").write_text("{")
    for step in (100, 200):
        save(step)
        state, wrong = checkpoint.newest_state(tmp_path)
        assert state is not None and (state.step, wrong) == (step, ())
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000200", "step-00000100"][:keep]


def test_a_model_made_of_a_trained_one_leaves_what_that_says_of_itself(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "sprocket-download.json").write_text("{}")  # the checksums of other weights
    save_model(base, {}, tmp_path / "first", {"step": 1})
    assert (base / "sprocket-download.json").exists() and not (tmp_path / "first/sprocket-download.json").exists()
    save_model(tmp_path / "first", {}, tmp_path / "second", {"step": 2})
    said = [json.loads((tmp_path / name / "training.json").read_text())["step"] for name in ("first", "second")]
    assert said == [1, 2]


@pytest.mark.parametrize("kind", ["i2v-sincos", "i2v-1.5"])
def test_a_model_that_starts_from_a_picture_has_previews(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path, kind)
    run = RunDir(tmp_path / "run")
    run.create(config(base, eval_steps=0, steps=2, preview_steps=2, preview_frames=9, preview_sampling=2, preview_prompts=("a fox",)))
    assert Session(run, read_spec(base), CPU, lambda model: random_set()).work() == "done"
    assert [event["text"] for event in run.events() if event["kind"] == "warning"] == []
    assert [event["step"] for event in run.events() if event["kind"] == "preview"] == [0, 2]
    assert all((run.previews / f"step-{step:08d}/0.mp4").stat().st_size for step in (0, 2))
