"""Keeps downloads going while the server runs: one process at a time, started again when it dies, stopped when it must.

A thread of the web process, like the supervisor of the worker; it fetches nothing itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from app.errors import DataDirBusy
from app.hub.downloads import busy, clean, mark_stopped, seen, wishes
from app.hub.records import Phase, Place, Progress, load, save_quickly
from app.lock import FileLock
from app.settings import Settings

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
TICK_SECONDS = 0.25
STOP_SECONDS = 3.0
"""A download that was told to stop gets so long; its bytes are on the disk anyway."""
RESTART_SECONDS = 2.0
MAX_DEATHS = 3
"""Deaths of the process without a byte in between, after which the download is given up."""
MAX_DOUBLINGS = 7
"""Of the time between two starts, while a download that is given up cannot be noted as such (a full disk): four minutes at most."""


def start_process(settings: Settings, repo: str) -> subprocess.Popen[bytes]:
    """Starts fetching `repo`, in a process that ends with the thread that called this."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | settings.to_env() | {"PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen([sys.executable, "-m", "app.hub.fetch", repo, "--parent", str(os.getpid())], env=env, stdin=subprocess.DEVNULL)


class Keeper:
    """`start()`, then `close()`; both may be called once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="downloads", daemon=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._place: Place | None = None
        self._deaths: dict[Path, tuple[int, int]] = {}
        self._start_after = 0.0

    def start(self) -> None:
        with contextlib.suppress(OSError):
            clean(self._settings.models_dir)
        self._thread.start()

    def close(self) -> None:
        """Ends the process. Its download goes on when a server next starts."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def process_id(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def _run(self) -> None:
        while not self._end.wait(TICK_SECONDS):
            try:
                self._tick()
            except Exception:  # whatever goes wrong here, the other downloads must go on
                log.exception("the downloads' keeper met an error")
                self._end.wait(RESTART_SECONDS)
        if self._child is not None:
            self._child.terminate()
            self._child.wait()

    def _tick(self) -> None:
        if self._child is None:
            if time.monotonic() >= self._start_after:
                self._start_next()
        elif self._child.poll() is None:
            self._enforce_stop()
        else:
            self._bury(self._child.returncode)

    def _start_next(self) -> None:
        waiting = [(wish.asked_at, place, wish.repo) for place, wish in wishes(self._settings.models_dir)
                   if not seen(place, wish).phase.ended and not busy(place)]
        if waiting:
            _, self._place, repo = min(waiting, key=lambda each: each[0])
            self._child = start_process(self._settings, repo)

    def _enforce_stop(self) -> None:
        """Stuck on a silent network, it does not look at its stop file; and it may be killed at any moment without harm."""
        try:
            asked = self._place.stop.stat().st_mtime if self._place else None
        except OSError:
            return
        if asked is not None and time.time() - asked > STOP_SECONDS and self._child is not None:
            self._child.kill()

    def _bury(self, returncode: int) -> None:
        place, self._child = self._place, None
        if place is None or returncode == 0 or not place.wish.exists():
            return
        before = load(Progress, place.progress) or Progress(phase=Phase.WAITING)
        deaths = 0 if place.stop.exists() else self._counted(place.root, before.done_bytes, returncode)
        with contextlib.suppress(DataDirBusy, OSError), FileLock(place.lock):  # none of the two on a disk that takes nothing
            if place.stop.exists():
                mark_stopped(place)
            elif deaths >= MAX_DEATHS:
                save_quickly(place.progress, Progress(phase=Phase.FAILED, done_bytes=before.done_bytes, total_bytes=before.total_bytes,
                             error_code="internal", error=f"The downloading process ended {MAX_DEATHS} times at the same place (last with "
                             f"code {returncode}); the server's log says more. What has come stays; try again.", at=time.time()))

    def _counted(self, root: Path, done: int, returncode: int) -> int:
        """Deaths at this place, with this one; the next start waits accordingly."""
        deaths, at = self._deaths.get(root, (0, -1))
        deaths = deaths + 1 if done == at else 1
        self._deaths[root] = (deaths, done)
        self._start_after = time.monotonic() + RESTART_SECONDS * 2 ** min(max(0, deaths - MAX_DEATHS), MAX_DOUBLINGS)
        log.warning("the download of %s ended with code %d", root.name, returncode)
        return deaths
