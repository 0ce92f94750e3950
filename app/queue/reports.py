"""What workers say of themselves in the history, each under its own key: that they live, and what hardware they have.

    worker                      the one worker of a SQLite history
    worker:cuda:1               one of several on this computer, each with a device of its own
    worker@HOST, worker@HOST:cuda:1     the same where hosts share a database server
"""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass

from app.history.store import Store
from app.queue.process import ProcessId, from_json, surely_dead
from app.settings import Settings
from engine.hardware import Hardware

WORKER = "worker"
SUPERVISOR = "supervisor"
"""Why a host's worker does not run, for people."""
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """One living worker."""

    key: str
    host: str
    hardware: Hardware


def key_of(what: str, settings: Settings, device: str = "") -> str:
    """The key for `what` of this host, of the worker that has `device` for itself where one is named."""
    host = f"@{socket.gethostname()}" if settings.on_server else ""
    return f"{what}{host}" + (f":{device}" if device else "")


def write_report(store: Store, key: str, who: ProcessId, hardware: Hardware) -> None:
    """Raises what `Store.remember` raises."""
    store.remember(key, {"process": who.to_json(), "hardware": asdict(hardware)}, now=time.time())


def living(store: Store) -> tuple[Report, ...]:
    """The workers that live as far as is known, those of this host first, then by key."""
    found = []
    for key, (report, at) in store.recall_all(WORKER).items():
        who = from_json(report["process"])
        if who is not None and not surely_dead(who) and time.time() - at < 3 * REPORT_SECONDS:
            found.append(Report(key, who.host, Hardware.from_json(report["hardware"])))
    return tuple(sorted(found, key=lambda one: (one.host != socket.gethostname(), one.key)))
