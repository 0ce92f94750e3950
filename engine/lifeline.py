"""No process outlives the one that started it, and one that is told to end notices. No torch."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Linux: the kernel kills this process when the thread that started it ends. Elsewhere `orphaned` is polled.

    SIGKILL and not SIGTERM: a worker stuck in native code would not see the latter. Its job resumes from the checkpoint.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # the parent died before the call
        os._exit(1)


def set_in_handler(event: threading.Event) -> None:
    """Set `event` from a handler of a signal, a moment later, in another thread.

    `Event.set` takes a lock that `Event.wait` holds for moments; a handler that runs in one would wait for ever for the thread it
    interrupted.
    """
    _thread.start_new_thread(event.set, ())
