"""A lock file that the kernel releases when its holder dies, however it dies."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from app.errors import DataDirBusy


class FileLock:
    """One process at a time. `with FileLock(path):`, or `acquire()` and `close()`.

    The file stays where it is: removing it would let two processes lock two files of the same name.
    """

    def __init__(self, path: Path, *, wait_seconds: float = 0.0) -> None:
        self.path = path
        self._wait = wait_seconds
        self._handle: int | None = None

    def acquire(self) -> None:
        """Raises DataDirBusy when another process holds it for longer than `wait_seconds`, OSError."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        end = time.monotonic() + self._wait
        while not _try_lock(handle):
            if time.monotonic() >= end:
                os.close(handle)
                raise DataDirBusy(f"Another Sprocket already works on {self.path.parent}. Use that one, stop it, or choose "
                                  "another folder with --data-dir.")
            time.sleep(0.05)
        self._handle = handle

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
