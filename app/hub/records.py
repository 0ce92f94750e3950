"""What a download is, on disk and for pages. All of it small JSON files in `models_dir/.downloads/owner--name/`:

    wish.json      what was asked for; its presence is the download         written by the studio
    stop           an empty file: the wish to stop                          written by the studio
    pinned.json    the commit, its files, sizes, checksums                  written by the fetching process, once
    progress.json  how far it is                                            written by the fetching process
    lock           held by the fetching process; the kernel gives it back however that ends
    files/         the model as it grows: `x.part` until x is complete and its checksum right
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from app.hub.choose import RemoteFile
from engine.models.catalogue import folder_name

DOWNLOADS = ".downloads"
MANIFEST = "sprocket-download.json"
"""In a downloaded model's folder: where it came from and what it must consist of (a `Pinned`)."""
MAX_RECORD_BYTES = 4 * 2**20
Record = TypeVar("Record", "Wish", "Pinned", "Progress")


class Phase(str, Enum):
    """How a download stands."""

    WAITING = "waiting"
    """For its turn, or for a process that takes it on."""
    ASKING = "asking"
    """The hub is asked what the model consists of."""
    FETCHING = "fetching"
    RETRYING = "retrying"
    """The network is away; it is asked again."""
    CHECKING = "checking"
    """What an earlier attempt left is read again for its checksum; at the end, the whole model."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """By its owner. What has come stays, for going on."""
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """True when nothing happens until somebody asks."""
        return self in (Phase.STOPPED, Phase.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Somebody wants this model."""

    repo: str
    revision: str | None
    """A branch, tag or commit; None: the main branch as it is when the hub is asked."""
    asked_at: float
    schema: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """What exactly is fetched."""

    repo: str
    """As the hub names it today."""
    revision: str
    """40 hex digits of a commit."""
    licence: str | None
    files: tuple[RemoteFile, ...]
    asked: str | None
    """The revision that was wished for."""
    schema: int = 1

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far it is."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    file: str | None = None
    """The one being fetched."""
    note: str | None = None
    """For people: why it waits."""
    error_code: str | None = None
    error: str | None = None
    at: float = 0.0
    schema: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One download as pages and the command line see it."""

    repo: str
    revision: str | None
    """The commit once it is known, else what was asked for."""
    progress: Progress
    asked_at: float

    @property
    def phase(self) -> Phase:
        return self.progress.phase

    @property
    def share(self) -> float:
        """0 to 1."""
        total = self.progress.total_bytes
        return min(self.progress.done_bytes / total, 1.0) if total else 0.0

    def to_json(self) -> dict[str, Any]:
        return {"repo": self.repo, "revision": self.revision, "state": self.phase.value, "asked_at": self.asked_at,
                **{name: getattr(self.progress, name) for name in
                   ("done_bytes", "total_bytes", "bytes_per_second", "eta_seconds", "file", "note", "error_code", "error")}}


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one download. Knows where things are, holds nothing."""

    root: Path

    @classmethod
    def of(cls, models_dir: Path, repo: str) -> Place:
        return cls(models_dir / DOWNLOADS / folder_name(repo))

    @property
    def wish(self) -> Path:
        return self.root / "wish.json"

    @property
    def stop(self) -> Path:
        return self.root / "stop"

    @property
    def pinned(self) -> Path:
        return self.root / "pinned.json"

    @property
    def progress(self) -> Path:
        return self.root / "progress.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def final(self) -> Path:
        """Where the model is when it is complete."""
        return self.root.parent.parent / self.root.name


def load(kind: type[Record], path: Path) -> Record | None:
    """The record in `path`; None where there is none or it makes no sense (it is then written anew)."""
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != 1:
            return None
        if kind is Pinned:
            values["files"] = tuple(RemoteFile(**file) for file in values["files"])
        if kind is Progress:
            values["phase"] = Phase(values["phase"])
        return kind(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def to_bytes(record: Wish | Pinned | Progress) -> bytes:
    return json.dumps(dataclasses.asdict(record), indent=1).encode()


def save_quickly(path: Path, record: Progress) -> None:
    """Whole or not at all, but not through a power cut: progress is found again on the disk itself. Raises OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(to_bytes(record))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
