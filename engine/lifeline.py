"""No process outlives the one that started it. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

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
