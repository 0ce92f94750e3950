"""A thread that speaks for a running job: renews its lease, writes its progress, hears that it should stop.

All of a job's small writes go through here, so the sampling loop never waits for a disk.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

from app.errors import HistoryBusy, LeaseLost
from app.history.leases import Claim, Leases
from app.settings import Settings
from engine.errors import StorageBlocked

log = logging.getLogger(__name__)


class Heartbeat:
    """`with Heartbeat(...) as beat:` around the work; `beat.cancelled` is what the engine asks before every step."""

    def __init__(self, settings: Settings, leases: Leases, claim: Claim, stopping: threading.Event) -> None:
        self._settings = settings
        self._leases = leases
        self._claim = claim
        self._stopping = stopping
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._pending: dict[str, Any] = {}
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.cancel_wanted = False
        """The owner asked to stop."""
        self.lost = False
        """The job belongs to somebody else now."""
        self.previews = 0
        """Previews this attempt has shown."""

    def cancelled(self) -> bool:
        """True when the work should stop, for whatever reason."""
        return self.cancel_wanted or self.lost or self._stopping.is_set()

    def note(self, **columns: Any) -> None:
        """Progress to be written at the next tick; later values of a column replace earlier ones."""
        with self._lock:
            self._pending |= columns

    def flush(self) -> None:
        """Writes what is pending now. Raises LeaseLost, StorageBlocked, HistoryBusy."""
        self._beat(force=False)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread. The lease is the caller's business from here on."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._settings.tick_seconds):
            try:
                self._beat(force=time.monotonic() - self._renewed >= self._settings.heartbeat_seconds)
            except LeaseLost:
                self.lost = True
                return
            except (HistoryBusy, StorageBlocked) as error:
                log.warning("progress was not written: %s", error)  # the token still holds; the next tick tries again
            except Exception:  # a worker that cannot say it lives must stop, not run on unseen
                log.exception("the heartbeat failed")
                self.lost = True
                return

    def _beat(self, *, force: bool) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        try:
            if pending or force:
                wanted = self._leases.renew(self._claim, now=time.time(), **pending)
                self._renewed = time.monotonic()
            else:
                wanted = self._leases.look(self._claim)
        except BaseException:
            with self._lock:
                self._pending = pending | self._pending
            raise
        self.cancel_wanted = self.cancel_wanted or wanted
