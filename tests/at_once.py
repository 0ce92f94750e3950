"""Changes of one file that meet where they would undo each other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def at_once(monkeypatch: pytest.MonkeyPatch, module: Any, *changes: Callable[[], Any]) -> None:
    """Makes all `changes`, each in a thread that waits a little, before `module` writes its file, for the others to come to the same
    point: without a turn all have read by then."""
    meeting, real = threading.Barrier(len(changes)), module.write_atomic

    def late(path: Path, data: bytes) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)
        real(path, data)

    monkeypatch.setattr(module, "write_atomic", late)
    threads = [threading.Thread(target=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
