"""A launcher with all that it started: asked to end, waited for, and ended by force where it takes too long.

A launcher's own end says nothing of what it launched. accelerate's dies of SIGTERM at once, while its trainer still saves; torch's gives
each of its processes a session of its own, so that no signal to a group reaches them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import psutil

LOOK_SECONDS = 0.1
CHILDREN_SECONDS = 2.0
"""Between two looks at what the launcher has started: each one reads all processes of the machine."""
KILLED_SECONDS = 2.0
"""From SIGKILL to the end of a process, unless the kernel holds it."""


class Launched:
    """`end` it. One thread."""

    def __init__(self, command: Sequence[str], *, out: IO[bytes], env: Mapping[str, str]) -> None:
        self.launcher = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                         env=dict(env))
        self._known: set[psutil.Process] = set()
        self._looked = -CHILDREN_SECONDS
        self._asked: float | None = None

    def alive(self) -> bool:
        """Whether the launcher, or anything that it started, still runs."""
        if self.launcher.poll() is None:
            if time.monotonic() - self._looked >= CHILDREN_SECONDS:
                self._look()
            return True
        return any(True for _ in self._left())

    def ask(self) -> None:
        """SIGTERM to each of them, once: a trainer finishes its step and saves."""
        if self._asked is not None:
            return
        self._asked = time.monotonic()
        self._look()
        self._send(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        """Asks, waits until none is left, for at most so long after it was asked; then SIGKILL, which an interrupt brings on at once."""
        try:
            if self.alive():
                self.ask()
            while self.alive() and self._asked is not None and time.monotonic() - self._asked < seconds:
                time.sleep(LOOK_SECONDS)
        finally:
            self._look()
            until = time.monotonic() + KILLED_SECONDS
            while self.alive() and time.monotonic() < until:
                self._send(signal.SIGKILL)
                time.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        """Takes in what the launcher has started by now: once it is dead nobody can tell whose they were."""
        self._looked = time.monotonic()
        if self.launcher.poll() is not None:  # its pid may be somebody else's by now
            return
        with contextlib.suppress(psutil.Error):
            self._known.update(psutil.Process(self.launcher.pid).children(recursive=True))

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            self.launcher.send_signal(number)
        for process in self._left():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def _left(self) -> Iterator[psutil.Process]:
        """Of what the launcher started those that still run: children seen so far, and its process group."""
        group = set()
        for pid in psutil.pids() if hasattr(os, "getpgid") else ():
            with contextlib.suppress(OSError, psutil.Error):
                if pid != self.launcher.pid and os.getpgid(pid) == self.launcher.pid:
                    group.add(psutil.Process(pid))
        for process in self._known | group:
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
