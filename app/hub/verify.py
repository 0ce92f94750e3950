"""Is a model on the disk still what it was when it came? Every byte is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.hub.digest import file_digest
from app.hub.downloads import manifest
from engine.errors import SprocketError
from engine.spec import read_spec


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check found."""

    name: str
    ok: bool
    checked: int
    """Files whose checksum was compared; 0 for a model that Sprocket did not download: no checksums are known for it."""
    revision: str | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "checked": self.checked, "revision": self.revision, "problems": list(self.problems)}


def verify(name: str, folder: Path) -> Verified:
    """Compares each file with the checksum the hub gave for it, then reads configs and headers as a job would."""
    pinned, problems = manifest(folder), []
    for file in pinned.files if pinned else ():
        try:
            if file_digest(folder / file.path, file) != (file.sha256 or file.git_sha1):
                problems.append(f"{file.path} has changed since it was downloaded")
        except FileNotFoundError:
            problems.append(f"{file.path} is missing")
        except OSError as error:
            problems.append(f"{file.path} cannot be read ({error.strerror})")
    try:
        read_spec(folder, name)
    except SprocketError as error:
        problems.append(str(error))
    return Verified(name, not problems, len(pinned.files) if pinned else 0, pinned.revision if pinned else None, tuple(problems))
