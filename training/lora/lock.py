"""One process at a time works on a run's folder: two would write over each other's checkpoints. Pure, no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import InvalidRequest
from engine.video.publish import storage_errors

LOCK = ".lock"


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the run in `folder`; the kernel lets go of it when this process dies, however it dies.

    Raises `InvalidRequest` (run) while another process holds it and where there is no folder, `StorageBlocked`. Nothing is held where the
    system or the disk has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if not folder.is_dir():
        raise InvalidRequest("run", f"is {folder}, which is not there. `sprocket train list` says which runs there are.")
    with storage_errors(folder):
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequest("run", f"{folder} is worked on by another process, and only one at a time may. Wait until that one has "
                                        f"ended, or pause it: `sprocket train pause {folder}`.") from error
        except OSError:  # some network disks
            pass
        yield
    finally:
        os.close(handle)
