"""Where a clip's file is, which pictures a folder has and in what order, and whether a source still is what it was. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from engine.digest import file_sha256
from training.data.records import Clip

MAX_NAME_BYTES = 255
"""Of one part of a path, on the file systems of Linux and macOS."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def source_path(clip: Clip, folder: Path) -> Path:
    """Where its file is. `folder`: the dataset's own, for what came out of an archive."""
    return Path(clip.source) if Path(clip.source).is_absolute() else folder / clip.source


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a frame folder in the order of their names, numbers counted as numbers."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()), key=natural)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Order of names in which 'f10' comes after 'f9'."""
    parts = re.split("([0-9]+)", path.name.lower())
    return [(0, int(part), "") if number % 2 else (1, 0, part) for number, part in enumerate(parts)]


def folder_sha256(pictures: Iterable[Path]) -> str:
    """Of names and contents, so that a picture more or less is another clip."""
    digest = hashlib.sha256()
    for path in pictures:
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def unchanged(clip: Clip, path: Path) -> bool:
    """Whether the source still is what was taken in. Raises OSError."""
    return clip.sha256 == (folder_sha256(pictures_in(path)) if clip.kind == "frames" else file_sha256(path))
