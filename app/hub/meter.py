"""How far a download is, how fast, how long it will take; written where pages read it, twice a second at most."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from app.hub.records import Phase, Progress, save_quickly

log = logging.getLogger(__name__)
WRITE_SECONDS = 0.4
WINDOW_SECONDS = 10.0
"""The rate is that of the last so many seconds."""


class Meter:
    """Owns progress.json while a download runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = Progress(phase=Phase.WAITING)
        self._marks: deque[tuple[float, int]] = deque()
        self._came = 0
        self._last_byte = time.monotonic()
        self._written = 0.0

    def total(self, total: int, done: int) -> None:
        """What is to come in all, and what is there already, in bytes."""
        self._now = replace(self._now, total_bytes=total, done_bytes=done)
        self._last_byte = time.monotonic()

    def phase(self, phase: Phase, *, file: str | None = None, note: str | None = None) -> None:
        """Written at once: pages should not show what is over."""
        self._now = replace(self._now, phase=phase, file=file, note=note)
        if phase is not Phase.FETCHING:
            self._now = replace(self._now, bytes_per_second=None, eta_seconds=None)
        self._write()

    def add(self, count: int) -> None:
        """`count` bytes more on the disk; negative when some were thrown away."""
        now = time.monotonic()
        if count > 0:
            self._last_byte = now
            self._came += count
        self._now = replace(self._now, done_bytes=max(0, self._now.done_bytes + count), phase=Phase.FETCHING, note=None)
        if now - self._written >= WRITE_SECONDS:
            self._mark(now)
            self._write()

    def seconds_silent(self) -> float:
        """Since a byte came."""
        return time.monotonic() - self._last_byte

    def end(self, progress: Progress) -> bool:
        """The last word: `progress` with the amounts as they are. False where it could not be written."""
        self._now = replace(progress, done_bytes=self._now.done_bytes, total_bytes=self._now.total_bytes)
        return self._write()

    def _mark(self, now: float) -> None:
        self._marks.append((now, self._came))
        while now - self._marks[0][0] > WINDOW_SECONDS:
            self._marks.popleft()
        seconds, count = now - self._marks[0][0], self._came - self._marks[0][1]
        rate = count / seconds if seconds > 0.5 and count > 0 else None
        left = (self._now.total_bytes or 0) - self._now.done_bytes
        self._now = replace(self._now, bytes_per_second=rate, eta_seconds=left / rate if rate else None)

    def _write(self) -> bool:
        self._written = time.monotonic()
        try:
            save_quickly(self._path, replace(self._now, at=time.time()))
            return True
        except OSError as error:
            log.warning("the progress was not written: %s", error)  # the download itself is what counts
            return False
