"""Keeps the workers of one data directory alive: one for all devices, or one for each (`app.queue.devices`).

A thread of the web process. A worker is a child with its own memory: what crashes it leaves the page standing.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from app import storage
from app.errors import HistoryBusy
from app.history.opening import back_up, open_store
from app.history.recovery import mark_missing, recover_at_start, sweep_job_folders, sweep_parts, write_stale_sidecars
from app.history.store import Store
from app.history.unused import sweep_unused
from app.lock import FileLock
from app.queue.devices import mode_of, wanted
from app.queue.door import open_engine
from app.queue.minder import Minder
from app.settings import RAY, TOGETHER, Settings
from engine.errors import InvalidRequest, SprocketError

log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
MODE_SECONDS = 2.0
"""How often it is looked up whether the devices work together."""
HOUSEKEEPING_SECONDS = 60.0
SWEEP_SECONDS = 3600.0


class Supervisor:
    """Owns the lock of the data directory and the workers. `start()`, then `close()`; both may be called once."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self._settings = settings
        self._given = store
        self._store: Store | None = store
        self._lock = FileLock(settings.server_lock)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._minders: dict[str, Minder] = {}
        self._mode = TOGETHER
        self._wanted: tuple[str, ...] = ("",)
        self._mode_at = 0.0
        self._sweep_at = time.monotonic() + SWEEP_SECONDS  # recovery has done it just now

    def start(self) -> None:
        """Recovers what an earlier end left behind, then starts the workers.

        Raises InvalidRequest (executor), DataDirBusy when another server works on this directory, and what `open_store` raises.
        A full disk is no reason not to start: the page can say so.
        """
        if self._settings.executor == RAY and importlib.util.find_spec("ray") is None:
            raise InvalidRequest("executor", "is 'ray', and the package ray is not installed. `pip install ray` brings it.")
        if self._store is None:
            self._store = open_store(self._settings)  # before the lock, which a repair takes for itself
        try:
            self._lock.acquire()
            recover_at_start(self._settings, self._store)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops the workers in order (each saves its state and hands its job back), then by force."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._given is None and self._store is not None:
            self._store.close()
        self._lock.close()

    @property
    def worker_pids(self) -> dict[str, int]:
        """Of the living workers, by device; '' for the one that has all."""
        return {device: pid for device, minder in list(self._minders.items()) if (pid := minder.pid) is not None}

    @property
    def worker_pid(self) -> int | None:
        """Of the one that has all devices."""
        return self.worker_pids.get("")

    def _run(self) -> None:
        housekeeping_at = time.monotonic() + HOUSEKEEPING_SECONDS / 6
        while not self._end.is_set():
            try:
                self._tick()
                if time.monotonic() >= housekeeping_at:
                    housekeeping_at = time.monotonic() + HOUSEKEEPING_SECONDS
                    self._keep_house()
            except HistoryBusy as error:
                log.warning("%s", error)
                self._end.wait(1.0)
            except Exception:  # whatever goes wrong here, the workers must stay watched
                log.exception("the supervisor met an error")
                self._end.wait(1.0)
            self._end.wait(TICK_SECONDS)
        for minder in self._minders.values():
            minder.retire()
        for minder in self._minders.values():
            minder.stop()

    def _tick(self) -> None:
        """The workers there should be, started once all that there should not be have handed their jobs back."""
        if time.monotonic() >= self._mode_at:
            self._look_at_mode()
        for device in [device for device, minder in self._minders.items() if device not in self._wanted]:
            self._minders[device].retire()
            if self._minders[device].pid is None:
                self._minders.pop(device).tick()  # buried
        if all(device in self._wanted for device in self._minders):
            for device in self._wanted:
                self._minders.setdefault(device, Minder(self._settings, self._history, device))
        for minder in list(self._minders.values()):
            minder.tick()

    def _look_at_mode(self) -> None:
        mode = mode_of(self._history, self._settings)
        if mode != self._mode:
            there = self._settings.executor == RAY  # where every job gets devices of its own
            self._wanted = ("",) if there else wanted(mode, open_engine(self._settings.engine, self._settings.data_dir).hardware())
            self._mode = mode
            log.warning("devices work %s: %d worker%s", mode, len(self._wanted), "" if len(self._wanted) == 1 else "s")
        self._mode_at = time.monotonic() + MODE_SECONDS

    def _keep_house(self) -> None:
        """What makes room comes first, and a chore that fails holds up no other: the copy of the history, say, on a full disk."""
        settings, store, now = self._settings, self._history, time.time()
        if time.monotonic() >= self._sweep_at:
            swept = [_done(partial(sweep, settings, store, now)) for sweep in (sweep_parts, sweep_job_folders, sweep_unused)]
            swept.append(_done(partial(mark_missing, settings, store)))
            if all(swept):
                self._sweep_at = time.monotonic() + SWEEP_SECONDS
        for chore in (partial(write_stale_sidecars, settings, store), partial(storage.keep_ballast, settings),
                      partial(back_up, settings, store, now=now)):
            _done(chore)
        for minder in self._minders.values():
            minder.calm()

    @property
    def _history(self) -> Store:
        if self._store is None:
            raise RuntimeError("the supervisor was not started")
        return self._store


def _done(chore: Callable[[], object]) -> bool:
    """Whether it could be done; if not, the log says why."""
    try:
        chore()
        return True
    except (SprocketError, OSError) as error:
        log.warning("a chore was not done: %s", error)
        return False
