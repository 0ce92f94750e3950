"""Keeps one worker process alive, and makes it obey when it does not by itself. A supervisor has one for each worker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app import storage
from app.errors import HistoryBusy
from app.history.leases import Limits
from app.history.store import Store
from app.queue.devices import environment
from app.queue.process import ProcessId, identify, oom_kills
from app.queue.reports import REPORT_SECONDS, SUPERVISOR, WORKER, key_of
from app.queue.worker import MEMORY_EXIT, UNUSABLE_EXIT
from app.settings import RAY, Settings
from engine.errors import SprocketError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0)
CIRCUIT_CRASHES = 5
CIRCUIT_SECONDS = 600.0
KILL_AFTER_TERM_SECONDS = 10.0
KILLED = -9
"""Exit code of a process that SIGKILL ended (the name is not known on Windows)."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    crashed: bool
    """By its own doing (a signal it caused, an exit code, its memory); False: something outside killed it."""
    cause: str
    """For people: 'it ran out of memory'."""
    memory: bool = False
    """For want of memory, so that its job should go on with less."""


def judge(returncode: int, ordered: str | None, oom_before: int | None, oom_after: int | None) -> Death:
    """What a worker's end means. `ordered`: why this supervisor itself ended it, if it did."""
    if ordered is not None:
        return Death(True, ordered)
    if returncode == KILLED:
        if oom_before is not None and oom_after is not None and oom_after > oom_before:
            return Death(True, "the machine ran out of memory", memory=True)
        return Death(False, "its process was killed from outside")
    if returncode == 0:
        return Death(False, "its process was asked to end")
    if returncode == MEMORY_EXIT:
        return Death(False, "its memory ran out; the job goes on with less in a new process")
    if returncode < 0:
        return Death(True, f"its process crashed ({signal.Signals(-returncode).name})")
    return Death(True, f"its process ended with code {returncode}")


class Minder:
    """Owns one worker. Its supervisor's thread alone calls it, for the kernel ties the worker to the thread that starts it."""

    def __init__(self, settings: Settings, store: Store, device: str = "") -> None:
        """`device`: the one GPU the worker sees ('cuda:N'); '': all there are."""
        self._settings = settings
        self._history = store
        self._device = device
        self._child: subprocess.Popen[bytes] | None = None
        self._child_id: ProcessId | None = None
        self._ordered: str | None = None
        self._oom: int | None = None
        self._started_at = 0.0
        self._status_key = key_of(SUPERVISOR, settings, device)
        self._deaths = 0
        self._crashes: deque[float] = deque()
        self._start_after = 0.0
        self._seen_report: tuple[float, float] = (0.0, 0.0)
        self._retired_at: float | None = None

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def tick(self) -> None:
        child = self._child
        if child is None:
            if self._retired_at is None and time.monotonic() >= self._start_after:
                self._start()
            return
        if child.poll() is not None:
            self._bury(child.returncode)
            return
        if self._retired_at is not None and time.monotonic() - self._retired_at > self._settings.stop_seconds + KILL_AFTER_TERM_SECONDS:
            self._kill("it did not end when told to")
        try:
            self._enforce_cancel()
            self._enforce_life()
        except HistoryBusy:  # nothing is heard of a worker whose words cannot be read; its time begins anew
            self._seen_report = (self._seen_report[0], time.monotonic())
            raise

    def retire(self) -> None:
        """Stops the worker in order, without waiting, and starts none in its place; `tick` goes on until `pid` is None."""
        if self._retired_at is None:
            self._retired_at = time.monotonic()
            if self._child is not None and self._child.poll() is None:
                self._child.terminate()
            with suppress(SprocketError):  # a history that is away ends no worker by force; what was said grows old by itself
                self._history.forget(self._status_key)

    def calm(self) -> None:
        """Takes back what was said of crashes, once there have been none for a while."""
        known = self._history.recall(self._status_key)
        if self._child is not None and not self._crashes and known is not None and known[0] is not None:
            self._say(None)

    def _start(self) -> None:
        program = "app.queue.dispatch" if self._settings.executor == RAY else "app.queue.worker"
        command = [sys.executable, "-m", program, "--data-dir", str(self._settings.data_dir),
                   "--parent", str(os.getpid()), *(["--device", self._device] if self._device else [])]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._ordered = None
        self._oom = oom_kills()
        self._started_at = time.time()
        self._seen_report = (0.0, time.monotonic())
        # The kernel ties the child to the thread that starts it; this thread lives as long as the supervisor.
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | self._settings.to_env() |
                                       environment(self._device, os.environ) | {"PYTHONPATH": path})
        self._child_id = identify(self._child.pid)

    def _bury(self, returncode: int) -> None:
        """Gives the dead worker's job back and decides when the next one starts."""
        store, child = self._history, self._child_id
        self._child = None
        death = judge(returncode, self._ordered, self._oom, oom_kills())
        log.warning("the worker ended: %s", death.cause)
        store.leases.reap(now=time.time(), limits=Limits(self._settings.max_crashes, self._settings.max_kills),
                          crashed=child if death.crashed else None, cause=death.cause, memory=death.memory)
        now = time.monotonic()
        if not death.crashed and store.leases.last_progress() >= self._started_at:
            self._deaths = 0  # it was doing its work; whoever killed it will have had a reason
        delay = BACKOFF_SECONDS[min(self._deaths, len(BACKOFF_SECONDS) - 1)]
        self._deaths += 1
        if death.crashed:
            self._crashes.append(now)
        while self._crashes and now - self._crashes[0] > CIRCUIT_SECONDS:
            self._crashes.popleft()
        if returncode == UNUSABLE_EXIT or len(self._crashes) >= CIRCUIT_CRASHES:
            delay = CIRCUIT_SECONDS
            self._crashes.clear()
            what = ("The worker cannot work here: its settings or its history are of no use to it, as the server's log says."
                    if returncode == UNUSABLE_EXIT else
                    f"The worker crashed {CIRCUIT_CRASHES} times in ten minutes; last time {death.cause}.")
            self._say(f"{what} Jobs wait. It is started again in ten minutes, or when you restart Sprocket. `sprocket doctor` may know "
                      "more.")
        elif not self._crashes:
            self._say(None)
        self._start_after = now + (0.0 if returncode == MEMORY_EXIT else delay)

    def _say(self, message: str | None) -> None:
        """What `status()` tells people about the worker."""
        known = self._history.recall(self._status_key)
        if message is not None or (known is not None and known[0] is not None):
            self._history.remember(self._status_key, message, now=time.time())

    def _enforce_cancel(self) -> None:
        """A job that was told to stop and does not: SIGTERM to its worker, 10 s later SIGKILL."""
        for _job, holder, asked in self._history.leases.cancelling():
            if self._child is None or holder != self._child_id:
                continue
            late = time.time() - asked - self._settings.cancel_grace_seconds
            if late > KILL_AFTER_TERM_SECONDS:
                self._kill("it did not stop when told to")
            elif late > 0 and self._ordered is None:
                self._ordered = "it did not stop when told to"
                self._child.terminate()

    def _enforce_life(self) -> None:
        """A worker that has not reported for a minute, by a clock that does not run while the machine sleeps."""
        known = self._history.recall(key_of(WORKER, self._settings, self._device))
        at = known[1] if known is not None else 0.0
        if at != self._seen_report[0]:
            self._seen_report = (at, time.monotonic())
        silent = time.monotonic() - self._seen_report[1]
        if silent > max(2 * self._settings.lease_seconds, 6 * REPORT_SECONDS) and storage.problem(self._settings) is None:
            self._kill(f"it has not been heard of for {silent:.0f} s")

    def _kill(self, why: str) -> None:
        if self._child is not None:
            self._ordered = why
            self._child.kill()

    def stop(self) -> None:
        """Stops the worker in order (it saves its state and hands its job back), then by force. Waits for it."""
        child = self._child
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(self._settings.stop_seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._child = None
