"""The trainer's own process, killed without warning and started again, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.training.lora_tools import config, random_set
from training.__main__ import main
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import EXITS, RunDir

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "training", str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def uninterrupted(folder: Path) -> int:
    """The same program in this process, which has loaded all it needs; its exit code."""
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([str(folder)])
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)


def test_killed_and_started_again_is_as_if_never_killed(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        RunDir(tmp_path / name).create(config(tiny_base, steps=40, save_steps=3, eval_steps=20, eval_clips=1, dropout=0.1))
        save_set(tmp_path / name / SAMPLES, random_set())
    killed = RunDir(tmp_path / "killed")
    first = start(killed.folder)
    until = time.monotonic() + 120
    while first.poll() is None and time.monotonic() < until and not any(event["kind"] == "saved" for event in killed.events()):
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert killed.state().state == "interrupted"
    second = start(killed.folder)
    assert uninterrupted(tmp_path / "whole") == EXITS["done"]
    _, said = second.communicate(timeout=200)
    assert second.returncode == EXITS["done"], said.decode()[-2000:]
    assert any(event["kind"] == "resumed" for event in killed.events())
    assert killed.lora_file("made").read_bytes() == RunDir(tmp_path / "whole").lora_file("made").read_bytes()
    steps = [event["step"] for event in killed.events() if event["kind"] == "step"]
    assert steps == list(range(1, 41))
