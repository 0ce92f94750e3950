"""What a job's `kind` decides: how its stored request is read and planned, what runs, what is published.

    kind_of(job.kind).resolve(place, job) -> Work -> Work.run(attempt): events -> Work.publish(attempt, last event)

Everything else about a job is the same for all kinds and is in `app/queue/executor.py`: lease, fence, wish to cancel,
handing back, waiting for room on the disk, memory that ran out, log, progress. A kind is a file of this folder and a line
in `_FILES`. A kind whose result is no clip publishes its files as it likes and then ends the job with `Leases.complete`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from app.history.leases import Claim
    from app.history.records import Job
    from app.queue.workplace import Attempt, Workplace
    from engine.events import Event
    from engine.memory.placement import Placement

GENERATE = "generate"
INTERPOLATE = "interpolate"
TRAIN = "train"


class Work(Protocol):
    """One job resolved against this machine: nothing optional left. Making one reads no weights and takes milliseconds."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of how it is done."""

    @property
    def steps(self) -> int:
        """Of its longest stage."""

    @property
    def device(self) -> str:
        """'cpu' or 'cuda:N'."""

    @property
    def disk_bytes(self) -> int:
        """Most it may write, generously. The job waits while the disk has less."""

    @property
    def placement(self) -> Placement | None:
        """How memory is used, where there is another way when it runs out (`engine.ladder`); None: there is none, and the
        job then fails."""

    def run(self, attempt: Attempt) -> Iterator[Event]:
        """The work. Asks `attempt.beat.cancelled` often and then raises `Cancelled`, its state saved in `attempt.workspace`."""

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        """Artefacts first, then the row: a crash between any two steps leaves a state that the next attempt completes, by
        `Kind.finish_published` or by running again. Ends the job (`Leases.finish`, `Leases.complete`). `last`: the last
        event of `run`."""


class Kind(Protocol):
    """What is the same for every job of one kind. Free of torch: pages and the command line ask for titles."""

    what: str
    """What such a job does, in a few words for a list: 'Video', 'Motion interpolation'."""

    def title(self, request: Mapping[str, Any]) -> str:
        """One stored request in one line of plain text. Never raises."""

    def resolve(self, place: Workplace, job: Job) -> Work:
        """Reads and plans the stored request for the machine as it is now. Raises what the job should fail with."""

    def finish_published(self, place: Workplace, claim: Claim) -> bool:
        """True when an earlier attempt had published everything and only the row was missing, which is written now."""


_FILES = {GENERATE: "app.queue.kinds.generate", INTERPOLATE: "app.queue.kinds.interpolate", TRAIN: "app.queue.kinds.train"}
"""Kind -> the file whose `KIND` it is."""


def kind_of(name: str) -> Kind:
    """Raises InvalidRequest for a kind of a newer Sprocket."""
    if name not in _FILES:
        raise InvalidRequest("kind", f"is {name[:40]!r}, which this version of Sprocket does not know; it knows {', '.join(_FILES)}.")
    kind: Kind = importlib.import_module(_FILES[name]).KIND
    return kind


def job_title(job: Job) -> str:
    """What a list of jobs calls this one: plain text, never markup."""
    return kind_of(job.kind).title(job.request) if job.kind in _FILES else job.kind


def job_what(job: Job) -> str:
    """What the job does, in a few words."""
    if job.kind == INTERPOLATE and job.request.get("method") == "generate":
        return "Generated frames between"
    return kind_of(job.kind).what if job.kind in _FILES else job.kind
