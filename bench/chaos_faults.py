"""What else goes wrong while jobs run, for `bench.chaos`: a process is stopped past its lease, the disk is full, the clock jumps."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

CLOCK_PATH = Path(__file__).resolve().parents[1] / "tests" / "clock"
JUMPS = (-3600.0, 0.0, 3600.0)
KILLS = ("web", "worker", "worker", "writer")
FAULTS = (*KILLS, *KILLS, "stop worker", "stop web", "stop worker", "disk full", "disk full", "clock")
DISK_BYTES = 96 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at `folder` (new); False where this user may make none: then nothing fills up."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "chaos", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "-l", str(folder)], check=False)


class Trouble:
    """Does one fault at a time and undoes it."""

    def __init__(self, disk: Path | None, clock: Path, lease_seconds: float, dice: random.Random) -> None:
        """`disk`: a file system that may be filled. `clock`: the file that processes add to the time."""
        self._disk, self._clock, self._lease, self._dice = disk, clock, lease_seconds, dice
        clock.write_text("0")

    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in FAULTS if self._disk is not None or kind != "disk full")

    def environment(self) -> dict[str, str]:
        """Of the processes whose clock jumps."""
        return {"CHAOS_CLOCK": str(self._clock), "PYTHONPATH": os.pathsep.join((str(CLOCK_PATH), str(CLOCK_PATH.parents[1])))}

    def do(self, kind: str, process: psutil.Process | None) -> bool:
        """`process`: who is stopped. False where there is none."""
        if kind == "clock":
            self._clock.write_text(str(self._dice.choice(JUMPS)))
            return True
        if kind == "disk full":
            self._fill()
            return True
        if process is None:
            return False
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._lease * (0.3 + 1.2 * self._dice.random()))  # some wake in time, most as zombies
            process.send_signal(signal.SIGCONT)
            return True
        return False

    def calm(self) -> None:
        """The clock is right again."""
        self._clock.write_text("0")

    def _fill(self) -> None:
        """Takes every byte for a while."""
        assert self._disk is not None
        rubbish = self._disk / "rubbish"
        try:
            with rubbish.open("wb", buffering=0) as file:
                end = time.monotonic() + 0.3 + 1.2 * self._dice.random()
                while time.monotonic() < end:  # what others give up is taken too
                    try:
                        file.write(bytes(64 << 10))
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        time.sleep(0.02)
        finally:
            rubbish.unlink(missing_ok=True)
