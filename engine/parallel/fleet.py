"""Owns the processes of one fleet: starts them, gives them jobs, notices within 30 s when one died or hangs, and leaves none behind.

    owner (the worker) -> launch (torch's elastic launcher) -> one rank a device
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

from engine.errors import Cancelled, SprocketError
from engine.events import Event
from engine.parallel.watch import Heard, Pulse, broken, heard
from engine.parallel.wire import ADDRESS, SECRET, Job, unpacked

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600.0
"""For all ranks to import what they need; a loaded computer is slow at it."""
LOOK_SECONDS = 0.2
TOGETHER_SECONDS = 5.0
"""Within which all ranks end a job that ended for one."""
CULPRIT_SECONDS = 2.0
"""How long a rank that died by itself is looked for, when another one complains of its silence."""
GONE_SECONDS = 10.0
"""Most that the kernel is waited for to bury the killed."""
TAIL_LINES = 15


class RankLost(Exception):
    """A rank died or hangs; the fleet is of no use any more."""

    def __init__(self, why: str, log_tail: str) -> None:
        super().__init__(why)
        self.why, self.log_tail = why, log_tail


class Fleet:
    """`ranks` processes, warm from job to job. `close()` ends them all, whatever they do."""

    def __init__(self, ranks: int, *, devices: tuple[str, ...] = (), threads: int = 1) -> None:
        """`devices`: what whoever asks means them to work on. `threads`: of arithmetic, for each rank.

        Raises `RankLost` if the ranks do not come up.
        """
        self.ranks, self.devices = ranks, devices
        self._folder = Path(tempfile.mkdtemp(prefix="sprocket-fleet-"))
        self._secret = secrets.token_bytes(32)
        self._listener = Listener(authkey=self._secret)
        self._lines: dict[int, Connection] = {}
        self._pids: dict[int, int] = {}
        self._heard: dict[int, Heard] = {}
        self.held: dict[str, int] = {}
        """Bytes that ranks hold on GPUs between jobs, by device: free to the next job."""
        self.link: tuple[float, float] | None = None
        """Bytes a second between ranks, and seconds of an exchange, as `Mesh.link` measured them; None before the first job."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {ADDRESS: str(self._listener.address), SECRET: self._secret.hex(), "PYTHONPATH": path,
                                    "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "engine.parallel.launch", str(ranks), str(self._folder), str(os.getpid())]
        with (self._folder / "launch.log").open("wb") as output:
            self._launcher = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                              start_new_session=True)
        try:
            self._meet()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank."""
        return dict(self._pids)

    @property
    def alive(self) -> bool:
        return self._launcher.poll() is None and len(self._lines) == self.ranks

    def close(self) -> None:
        """End every process of it now."""
        for pid in self._pids.values():
            _kill(pid)
        if self._launcher.poll() is None:
            _kill(self._launcher.pid)
        self._launcher.wait()
        deadline = time.monotonic() + GONE_SECONDS
        while any(map(_runs, self._pids.values())) and time.monotonic() < deadline:  # what they held is free when they are gone
            time.sleep(LOOK_SECONDS / 10)
        self._listener.close()
        for line in self._lines.values():
            line.close()
        self._lines, self._pids, self.held = {}, {}, {}
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, job: Job, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """The events of `job`. Raises what the engine raises, and `RankLost`; closing the iterator ends the fleet."""
        ended: dict[int, SprocketError | None] = {}
        asked, since = False, 0.0
        now = time.monotonic()
        self._heard = {rank: Heard(now, one.pulse, now) for rank, one in self._heard.items()}
        whole = False
        try:
            for rank in self._lines:
                self._say(rank, "job", job)
            while len(ended) < self.ranks:
                for rank, kind, rest in self._listen():
                    if kind == "event":
                        yield rest[0]
                    elif kind in ("link", "held"):
                        self._measured(kind, rest)
                    elif kind in ("done", "failed"):
                        ended[rank] = unpacked(rest[0]) if kind == "failed" else None
                        since = since or time.monotonic()
                self._check()
                if not asked and cancelled():
                    asked = True
                    for rank in self._lines:
                        self._say(rank, "cancel")
                if ended and any(ended.values()) and time.monotonic() - since > TOGETHER_SECONDS:
                    break
            whole = len(ended) == self.ranks and len({type(error) for error in ended.values()}) == 1
        finally:
            if not whole:  # some wait for others that have gone their own way
                self.close()
        errors = [error for _, error in sorted(ended.items()) if error is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])

    def _measured(self, kind: str, rest: list[Any]) -> None:
        if kind == "link":
            self.link = rest[0]
        else:
            self.held[rest[0]] = rest[1]

    def _meet(self) -> None:
        """Until all ranks are there and have imported what they need."""
        threading.Thread(target=self._accept, name="fleet-door", daemon=True).start()
        ready: set[int] = set()
        deadline = time.monotonic() + START_SECONDS
        while len(ready) < self.ranks:
            if len(self._lines) == self.ranks:
                ready |= {rank for rank, kind, _ in self._listen() if kind == "ready"}
                self._check_launcher()
                found = broken(self._heard, time.monotonic())
                if found and any(_state(self._pids[rank]) == "T" for rank in found[0]):  # an import may be as silent, but is not stopped
                    raise self._lost(*found)
            else:
                time.sleep(LOOK_SECONDS / 4)
                if (code := self._launcher.poll()) is not None:
                    raise RankLost(f"the launcher ended with code {code} before the ranks were there", self._last_words(()))
            if time.monotonic() > deadline:
                raise RankLost(f"the ranks were not there after {START_SECONDS:.0f} s", self._last_words(()))

    def _accept(self) -> None:
        """Lets ranks in until all are, or the listener is closed."""
        while len(self._lines) < self.ranks:
            try:
                line = self._listener.accept()
                kind, rank, pid = line.recv()
            except Exception as error:  # noqa: BLE001  (whoever knocks without the secret, and the end of the listener)
                if self._launcher.poll() is not None:
                    return
                log.warning("somebody who is no rank of this fleet was turned away (%s)", type(error).__name__)
                continue
            if kind == "hello":
                self._pids[rank] = pid
                self._heard[rank] = heard(None, Pulse(), time.monotonic())
                self._lines[rank] = line

    def _say(self, rank: int, *message: Any) -> None:
        try:
            self._lines[rank].send(message)
        except OSError:
            raise self._lost((rank,), self._how_it_ended(rank)) from None

    def _listen(self) -> list[tuple[int, str, list[Any]]]:
        """What ranks said since, but for their pulses."""
        said = []
        ranks = {line: rank for rank, line in self._lines.items()}
        for line in wait(list(ranks), LOOK_SECONDS):
            rank = ranks[line]  # type: ignore[index]
            try:
                kind, *rest = self._lines[rank].recv()
            except (OSError, EOFError):
                raise self._lost((rank,), self._how_it_ended(rank)) from None
            now = time.monotonic()
            if kind == "crashed":
                raise self._complained(rank, rest[0])
            pulse = rest[0] if kind == "pulse" else self._heard[rank].pulse
            self._heard[rank] = heard(self._heard[rank], pulse, now)
            if kind != "pulse":
                said.append((rank, kind, rest))
        return said

    def _check(self) -> None:
        if found := broken(self._heard, time.monotonic()):
            raise self._lost(*found)
        self._check_launcher()

    def _check_launcher(self) -> None:
        if (code := self._launcher.poll()) is not None:
            raise self._lost((), f"the launcher ended with code {code}")

    def _complained(self, rank: int, trace: str) -> RankLost:
        """A rank stopped with an error, often because another one is no more: that one is looked for first."""
        deadline = time.monotonic() + CULPRIT_SECONDS
        while time.monotonic() < deadline:
            for other, pid in self._pids.items():
                if other != rank and not _runs(pid):
                    return self._lost((other,), self._how_it_ended(other))
            time.sleep(LOOK_SECONDS / 4)
        return RankLost(f"rank {rank} stopped with an error: {trace.strip().splitlines()[-1][:200]}", trace[-4000:])

    def _how_it_ended(self, rank: int) -> str:
        return f"rank {rank} ended without a word (killed, crashed, or out of memory)"

    def _lost(self, ranks: tuple[int, ...], why: str) -> RankLost:
        return RankLost(why, self._last_words(ranks))

    def _last_words(self, ranks: tuple[int, ...]) -> str:
        """The last lines of these ranks' logs, and of the launcher's."""
        words = []
        for rank in ranks:
            for path in sorted(self._folder.glob(f"**/{rank}/std*.log")):
                words += [f"rank {rank}: {line}" for line in _tail(path)]
        return "\n".join(words or _tail(self._folder / "launch.log"))


def _tail(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return []


def _state(pid: int) -> str | None:
    """The kernel's letter for what a process does, 'T' for stopped; None where it is gone or the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def _runs(pid: int) -> bool:
    """False for a process that is gone, or only its zombie is left."""
    if (state := _state(pid)) is not None or sys.platform == "linux":
        return state is not None and state not in "ZX"
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # also one that is stopped
