"""Checksums of whole files, read piece by piece. Pure standard library."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

PIECE_BYTES = 2**20


def fed(digest: Any, path: Path) -> Any:
    """`digest` (a hashlib object) after the content of `path`. Raises OSError."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest


def file_sha256(path: Path) -> str:
    """64 hex digits. Raises OSError."""
    return str(fed(hashlib.sha256(), path).hexdigest())
