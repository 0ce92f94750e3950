"""What a launcher started is waited for, though the launcher is dead, and ended by force where it takes too long."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.queue.launched import Launched

LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[3]], start_new_session=sys.argv[2] == "own").wait()
"""
SAVES = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(number, frame):
    time.sleep(1.0)
    (folder / "saved").touch()
    os._exit(10)
signal.signal(signal.SIGTERM, save)
(folder / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""
STUBBORN = SAVES.replace("time.sleep(1.0)", "time.sleep(60)")

Start = Callable[..., Launched]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(program, session) -> a launcher whose program has begun; ended after the test."""
    started: list[Launched] = []

    def begin(program: str, session: str = "group") -> Launched:
        with (tmp_path / "log").open("ab") as out:
            started.append(Launched([sys.executable, "-c", LAUNCHER, program, session, str(tmp_path)], out=out, env=os.environ))
        until = time.monotonic() + 20
        while not (tmp_path / "pid").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.1)
        return started[-1]

    yield begin
    for launched in started:
        launched.end(0.0)


def lives(folder: Path) -> bool:
    try:
        return psutil.Process(int((folder / "pid").read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.parametrize("session", ["group", "own"])  # as accelerate's launcher does, and torch's
def test_a_program_that_saves_is_waited_for_after_its_launcher_died(start: Start, tmp_path: Path, session: str) -> None:
    launched = start(SAVES, session)
    assert launched.alive()
    begun = time.monotonic()
    launched.end(20.0)
    assert launched.launcher.returncode == -signal.SIGTERM  # at once, and it told nobody
    assert (tmp_path / "saved").exists() and 1.0 <= time.monotonic() - begun < 10.0
    assert not launched.alive() and not lives(tmp_path)


@pytest.mark.parametrize("session", ["group", "own"])
def test_one_whose_launcher_is_gone_still_counts_and_is_ended_by_force(start: Start, tmp_path: Path, session: str) -> None:
    launched = start(STUBBORN, session)
    assert launched.alive()
    launched.launcher.kill()
    launched.launcher.wait()
    assert launched.alive() and lives(tmp_path)
    begun = time.monotonic()
    launched.end(0.5)
    assert 0.5 <= time.monotonic() - begun < 5.0
    assert not launched.alive() and not lives(tmp_path) and not (tmp_path / "saved").exists()
