"""The highest memory of this process, counted from a moment on where the kernel lets a process start anew. No torch."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil

CLEAR_PEAK = Path("/proc/self/clear_refs")
PROCESS_STATUS = Path("/proc/self/status")


def begin_peak() -> None:
    """From here on the highest memory is counted, on Linux."""
    with suppress(OSError):
        CLEAR_PEAK.write_text("5")


def peak_resident() -> int:
    """Highest resident set since `begin_peak`; elsewhere than on Linux since the process began."""
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", PROCESS_STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
