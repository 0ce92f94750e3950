"""What runs on a node of a Ray cluster: one job, in a process of its own below Ray's worker.

The process is the worker of `app.queue.worker` for this one job, so leases, heartbeats, progress, cancelling and publishing are
those of every other worker; Ray only finds it a place. Should Ray's worker be killed, the kernel ends the process with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.queue.process import ProcessId, identify, oom_kills
from engine.hardware import detect

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process on the node ended."""

    returncode: int
    oom_before: int | None
    oom_after: int | None
    worker: ProcessId
    """Which one it was."""


def work_on(job_id: str, environment: Mapping[str, str], stop_seconds: float) -> Ended:
    """Does the waiting job, if it still waits, with `environment` on top of the node's own. A KeyboardInterrupt (Ray cancels the task
    so) stops it in order: its state is saved and the job handed back."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a Ray that our dispatch started has inherited that it is ignored
    before = oom_kills()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen([sys.executable, "-m", "app.queue.worker", "--only", job_id, "--parent", str(os.getpid())],
                             env=os.environ | dict(environment) | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL)
    worker = identify(child.pid)
    try:
        while child.poll() is None:  # not wait(): an interrupt is noticed between two looks
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        child.terminate()
        try:
            child.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return Ended(child.returncode, before, oom_kills(), worker)


def hardware_there() -> dict[str, Any]:
    """What the node has, as JSON values. Ray hides GPUs from a task that asks for none, which this one only looks at."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return asdict(detect())
