"""How much memory the C library keeps for itself in a process that runs for months.

glibc gives up to eight arenas a core to the threads of a process. Requests of a web server land on whichever thread is free, so that
each arena grows to the peak it ever saw, is never given back, and the process grows for thousands of requests. Two arenas are
enough for a server that mostly waits.
"""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
ARENAS = 2


def few_arenas() -> bool:
    """Hold this process to `ARENAS` arenas from now on; call it before there are threads. False where the C library has no such setting."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    except (AttributeError, OSError, TypeError):  # no mallopt (macOS, musl); CDLL(None) is a TypeError on Windows
        return False
