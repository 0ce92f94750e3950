"""Who a process is, whether another one still lives, and what a worker asks of its kernel.

A pid alone names nothing for long: it is reused, and means something else in another container or after a reboot.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

NICER = 5
"""So much a worker's processes give way: about a quarter of a processor that one page wants all of, and all of an idle one."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, told apart from every other one that ever had its pid."""

    host: str
    boot: str
    """Random for each boot of the machine."""
    space: str
    """The pid namespace: pids of another container mean nothing here."""
    pid: int
    started: int
    """Start time in the kernel's ticks since boot (elsewhere: whole seconds since the epoch)."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def from_json(text: str) -> ProcessId | None:
    """The inverse of `to_json`; None for anything else."""
    try:
        return ProcessId(**json.loads(text))
    except (ValueError, TypeError):
        return None


def this_process() -> ProcessId:
    return identify(os.getpid())


def identify(pid: int) -> ProcessId:
    """The living process with this pid, which shares this process's view of pids."""
    return ProcessId(host=socket.gethostname(), boot=_boot_id(), space=_pid_space(), pid=pid, started=_started(pid) or 0)


def surely_dead(other: ProcessId | None) -> bool:
    """True when that process cannot be running any more. False means alive or not known: wait for its lease."""
    if other is None or other.host != socket.gethostname():
        return False
    if other.boot != _boot_id():
        return True
    return other.space == _pid_space() and _started(other.pid) != other.started


def seen_from_here(other: ProcessId | None) -> bool:
    """Would `surely_dead` know of that process's death?"""
    return other is not None and other.host == socket.gethostname() and (other.space == _pid_space() or other.boot != _boot_id())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _pid_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "only"


def _started(pid: int) -> int | None:
    """Start time of a living process; None when there is none, or only its zombie is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except OSError:
        if sys.platform == "linux":
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None


def orphaned(parent_pid: int) -> bool:
    return os.getppid() != parent_pid


def volunteer_for_oom_killer() -> None:
    """When memory runs out the kernel takes the worker, not the page that watches it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def let_pages_go_first() -> None:
    """Where work and pages want the same processor, the page gets it: it wants little, and somebody waits for it."""
    with contextlib.suppress(OSError):
        if hasattr(os, "nice"):
            os.nice(NICER)
        else:
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)


def oom_kills() -> int | None:
    """How many processes this machine's kernel has killed for memory since it booted; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
