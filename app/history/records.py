"""The frozen records that leave the store; pages, the command line and the API see these and no row.

Times are UTC seconds since the epoch (float). Ids are 32 lower-case hex digits, ordered by creation time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from app.history.ids import is_id
from engine.hardware import Hardware
from engine.interpolate.recipe import ALSO_FROM


class JobState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    FINALIZING = "finalizing"
    DONE = "done"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    PAUSED = "paused"

    @property
    def ended(self) -> bool:
        """True for the states a job never leaves by itself."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Project:
    id: str
    name: str
    created_at: float
    clips: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One queued unit of work as it stands now."""

    id: str
    owner: str
    project_id: str
    kind: str
    """Decides what runs it, see `app.queue.kinds`: 'generate', 'interpolate', ..."""
    state: JobState
    request: dict[str, Any]
    """As its kind stores it: `GenerationRequest.to_json()`, seed resolved, for 'generate'."""
    rank: float
    """Waiting jobs run in rising rank; moving a job changes it."""
    attempt: int
    """How often a worker has begun it; being killed or stopped from outside counts too and does no harm."""
    max_attempts: int
    """So many crashes at the same place, without progress between them, and it fails."""
    stage: str | None
    """load, encode, sample, decode, verify; None before the first."""
    step: int
    steps: int
    eta_seconds: float | None
    """Seconds to the end, measured by the running worker; None when not known."""
    progress_at: float | None
    resumed_from: int | None
    """Step at which the latest attempt went on from a checkpoint."""
    status_seq: int
    """Grows with every change of the row; a page that has seen it need not redraw."""
    preview_seq: int
    """Grows with every new preview; 0 means there is none."""
    error_code: str | None
    error: str | None
    """For people; plain text, never markup."""
    notes: tuple[str, ...]
    clip_id: str | None
    made_from: str | None
    """Clip this job was remixed from."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    lapses: tuple[dict[str, Any], ...] = ()
    """Each time memory ran out: `engine.ladder.Lapse.to_json()`."""
    batch_id: str | None = None
    """Shared by the jobs that were asked for together."""


@dataclass(frozen=True, slots=True)
class JobMark:
    """What tells whether a page that shows a job has to draw it again."""

    id: str
    owner: str
    status_seq: int
    preview_seq: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is not there yet."""

    request: dict[str, Any]
    """`GenerationRequest.to_json()`, seed drawn."""
    asked: dict[str, Any]
    """What the caller sent, for telling a repeated call from another one."""
    steps: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's append-only log."""

    job_id: str
    at: float
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """A finished video file with all that made it."""

    id: str
    owner: str
    project_id: str
    job_id: str
    name: str
    """The user's title; starts as the prompt's first words."""
    prompt: str
    model: str
    seed: int
    file: str
    """Path of the mp4 below the media folder, e.g. '2026-11/20261120-213045_pocket_s7_ab12cd34.mp4'."""
    sha256: str
    size_bytes: int
    width: int
    height: int
    frames: int
    fps: float
    recipe: dict[str, Any]
    """What is also in the mp4 and the sidecar: request, plan, versions, seconds per stage."""
    favourite: bool
    made_from: str | None
    """Parent clip, if this one was remixed from another."""
    created_at: float
    trashed_at: float | None = None
    missing: bool = False
    """The file is not where the row says."""
    published_at: float | None = None
    """Since when others may look at it, by its owner's act; None: nobody else."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of the clips that this one was made from. What a recipe says of the second one came with a file, so it may be anything."""
        second = self.recipe.get(ALSO_FROM) if isinstance(self.recipe, dict) else None
        return tuple(each for each in (self.made_from, second) if isinstance(each, str) and is_id(each))


@dataclass(frozen=True, slots=True)
class ClipQuery:
    """What the gallery shows. `words`: every one must occur in the prompt or the name (case-insensitive, literal).
    `shape`: (width, height) and `fps`: only clips of this size and rate."""

    words: str = ""
    project_id: str | None = None
    model: str | None = None
    favourites_only: bool = False
    trashed: bool = False
    shape: tuple[int, int] | None = None
    fps: float | None = None
    page: int = 1
    page_size: int = 24


@dataclass(frozen=True, slots=True)
class ClipPage:
    clips: tuple[Clip, ...]
    page: int
    pages: int
    total: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a request would cost here, before anything runs."""

    seconds: float | None
    """Wall seconds for the whole job, None when there is nothing to go by."""
    memory_bytes: int
    basis: str
    """Where the figure comes from, for people: 'from 12 clips made on this machine' or 'rough: nothing measured yet'."""
    notes: tuple[str, ...] = field(default=())
    """The plan's notes ('26 frames -> 25: this model needs 8k+1')."""
    queued_ahead: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """`seconds` by stage; empty when there is nothing to go by."""
    disk_bytes: int = 0
    """Most the job may write: its clip and its saved states, generously."""


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
