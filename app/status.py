"""How the studio is, for those who show it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.hardware import Hardware


@dataclass(frozen=True, slots=True)
class StudioStatus:
    """How the studio is, as a page's header says it."""

    worker_alive: bool
    disk_free_bytes: int
    blocked_reason: str | None
    """Why no job can be stored or run now; None when all is well."""
    queued: int
    running: int
    hardware: Hardware | None
    worker_message: str | None = None
    """Why the worker is not running, when that is known."""
    recovery_message: str | None = None
    """What happened to the history, until it is dismissed."""
