"""How fast the way between this computer's devices is, as a fleet measured it: kept in the data folder by host and set of devices, so
that plans and the page know it before the next fleet begins. No torch."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import StorageBlocked
from engine.hardware import Hardware
from engine.video.publish import write_atomic

FILE = "links.json"


def key_of(hardware: Hardware) -> str:
    """This host and its devices: with other GPUs in it, what was measured says nothing."""
    devices = ", ".join(f"{gpu.device} {gpu.name}" for gpu in sorted(hardware.gpus, key=lambda gpu: gpu.device))
    return f"{socket.gethostname()}: {devices or f'{hardware.cores} cores of {hardware.name}'}"


def keep(folder: Path, hardware: Hardware, link: tuple[float, float], at: float) -> None:
    """`link` (bytes a second, seconds of an exchange), measured `at` so many seconds since 1970, in place of what was known before. A disk
    that takes nothing is no reason to stop: plans assume it then."""
    known = _read(folder) | {key_of(hardware): {"bytes_per_second": link[0], "latency": link[1], "at": at}}
    with contextlib.suppress(StorageBlocked, OSError):
        write_atomic(folder / FILE, json.dumps(known, indent=1).encode())


def with_link(hardware: Hardware, folder: Path) -> Hardware:
    """`hardware` with the link that was measured between its devices; as it is where none was."""
    found: Any = _read(folder).get(key_of(hardware))
    try:
        link = (float(found["bytes_per_second"]), float(found["latency"]))
        return replace(hardware, link=link, link_at=float(found["at"])) if link[0] > 0 and link[1] >= 0 else hardware
    except (TypeError, KeyError, ValueError):
        return hardware


def link_words(hardware: Hardware, assumed: float) -> str:
    """The link for people, and where its number is from. `assumed`: bytes a second where none was measured."""
    if hardware.link is None:
        return f"{assumed / 1e9:.3g} GB/s between them is assumed; it is measured when the first clip on several begins"
    when = "" if hardware.link_at is None else time.strftime(" on %d %B %Y at %H:%M", time.localtime(hardware.link_at))
    return f"{hardware.link[0] / 1e9:.3g} GB/s between them, measured here{when}"


def _read(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
