"""The hub's two kinds of checksum: sha256 of the content (LFS), git's sha1 over a header and the content (the rest)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from app.hub.choose import RemoteFile
from engine.digest import fed


def new_digest(file: RemoteFile) -> Any:
    """A hash object of the kind the hub gives for this file."""
    if file.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def file_digest(path: Path, file: RemoteFile) -> str:
    """Of the content of `path`, comparable with `file.sha256 or file.git_sha1`. Raises OSError."""
    return str(fed(new_digest(file), path).hexdigest())
