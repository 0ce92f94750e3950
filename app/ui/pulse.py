"""Whether a page has anything new to draw: a word that changes when its owner's jobs or the studio's state do.

    GET /pulse -> {"mark": "3f1c…"}

A page asks this each half second, and asks gradio to redraw only when the word is another one. An event of gradio costs 15 ms of the
one interpreter even when nothing has changed; this costs a hundredth of that, for one look at the history serves all pages.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from app.history.records import JobMark, StudioStatus
from app.sharing.visitor import asking
from app.ui.parts import said
from engine.errors import SprocketError

LOOK_SECONDS, PATIENCE_SECONDS = 0.25, 0.1
"""How old what a page hears may be; how long it waits for something newer while somebody writes a lot."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the history saw."""

    at: float
    jobs: tuple[JobMark, ...]
    state: str
    marks: dict[str | None, str] = field(default_factory=dict)
    """Owner -> word, made when first asked for."""

    def mark(self, owner: str | None) -> str:
        """`owner`: None where one owner has everything."""
        if owner not in self.marks:
            self.marks[owner] = mark_of(self.state, [job for job in self.jobs if owner in (None, job.owner)])
        return self.marks[owner]


def mark_of(state: str, jobs: Sequence[JobMark]) -> str:
    """Changes when one of `jobs` does, when one comes or ends, and with `state`."""
    lines = [state, *(f"{job.id}:{job.status_seq}:{job.preview_seq}" for job in jobs)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def state_of(status: StudioStatus) -> str:
    """What every page shows of the studio besides jobs."""
    return f"{status.worker_alive}|{status.worker_message}|{status.blocked_reason}|{status.recovery_message}"


class Pulse:
    """The newest look, taken for whoever asks first after it has grown old."""

    def __init__(self, studio: Any, seconds: float = LOOK_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        """`studio`: the whole one."""
        self._studio, self._seconds, self._patience = studio, seconds, patience
        self._seen: Look | None = None
        self._looking: asyncio.Task[Look] | None = None

    async def look(self) -> Look:
        """The newest, or the one before where reading takes long. Raises what reading the history raises."""
        if self._seen is not None and time.monotonic() - self._seen.at < self._seconds:
            return self._seen
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(run_in_threadpool(self._read))
        looking = self._looking
        if self._seen is not None:
            await asyncio.wait((looking,), timeout=self._patience)
            if not looking.done():
                return self._seen
        self._seen = seen = await asyncio.shield(looking)
        return seen

    def _read(self) -> Look:
        now = time.monotonic()  # before reading: what comes during it belongs to the next look
        return Look(now, self._studio.marks(), state_of(self._studio.status()))


def pulse_routes(studio: Any) -> APIRouter:
    """The route over one studio; whose jobs count is decided by who asks."""
    router, pulse = APIRouter(), Pulse(studio)

    @router.get("/pulse")
    async def asked() -> Response:
        visitor = asking.get()
        try:
            seen = await pulse.look()
        except SprocketError as error:
            return JSONResponse({"error": said(error)}, status_code=503)
        return JSONResponse({"mark": seen.mark(visitor.owner if visitor else None)}, headers={"Cache-Control": "no-store"})

    return router
