"""Whether there is something at a path that somebody typed. `Path` itself raises for a name that no file system can have: nothing is there
either. What it raises else (no permission) says itself what is wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path


def is_there(path: str | Path) -> bool:
    return _true(Path(path).exists)


def is_file(path: str | Path) -> bool:
    return _true(Path(path).is_file)


def is_folder(path: str | Path) -> bool:
    return _true(Path(path).is_dir)


def _true(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False
