"""What a process needs to run jobs, and one attempt at one of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.history.leases import Claim
from app.history.records import Job
from app.history.recovery import part_name
from app.history.store import Store
from app.queue.door import Engine
from app.queue.heartbeat import Heartbeat
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a process needs to run jobs."""

    settings: Settings
    store: Store
    engine: Engine
    models: Any
    """What `engine.open_models()` returned: weights stay loaded from job to job."""
    stopping: threading.Event
    """Set when this process should hand its job back and end."""
    device: str = ""
    """The one GPU ('cuda:N') of this process, beside others with theirs; '': whatever there is."""
    out_of_memory: threading.Event = field(default_factory=threading.Event)
    """Set when memory ran out here: jobs go on in another process."""
    device_lost: threading.Event = field(default_factory=threading.Event)
    """Set when the GPU gave up here: nothing works on it any more in this process."""
    needs: dict[str, int] = field(default_factory=dict)
    """Blocked job -> bytes it will write."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claimed job while this process works on it."""

    place: Workplace
    claim: Claim
    beat: Heartbeat
    restarts: list[str] = field(default_factory=list)
    """Notes on ranks that were lost while it went on."""

    @property
    def job(self) -> Job:
        return self.claim.job

    @property
    def settings(self) -> Settings:
        return self.place.settings

    @property
    def workspace(self) -> Path:
        """Where the job keeps what it saved of its work, from attempt to attempt; gone once it is done."""
        return self.settings.job_dir(self.job.id) / "work"

    @property
    def part(self) -> Path:
        """The unfinished file of this attempt alone; removed when the attempt ends, however it ends."""
        return self.settings.parts_dir / part_name(self.job, self.claim.token)
