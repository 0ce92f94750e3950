"""Whose the images and videos are that clips start from. Files are kept once, named after what is in them; who brought one in is
noted here, as an empty file each, and nobody else may look at it or start from it.

    <data folder>/owners/<sha256 of the owner, 32 digits>/inputs/<sha256>.png
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.settings import Settings
from engine.errors import InvalidRequest
from engine.models.catalogue import is_path
from engine.video.publish import storage_errors

INPUT = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,8}")
DEEPEST = 8


class Belongings:
    """The notes of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def add(self, owner: str, name: str) -> None:
        """`owner` brought this input in."""
        folder = self._folder(owner)
        with storage_errors(self._settings.data_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).touch(mode=0o600)

    def has(self, owner: str, name: str) -> bool:
        return INPUT.fullmatch(name) is not None and (self._folder(owner) / name).is_file()

    def check(self, owner: str, values: object) -> None:
        """Every input that a request names, wherever in it, is the owner's. Raises InvalidRequest, as for one that is not there."""
        for field, name in inputs_in(values):
            if not self.has(owner, name):
                raise InvalidRequest(field, f"{name[:12]}... is not among your images and videos. Choose the file again.")

    def size(self, owner: str) -> int:
        """Bytes of the owner's inputs that are still there."""
        try:
            names = [path.name for path in self._folder(owner).iterdir()]
        except OSError:
            return 0
        files = (self._settings.inputs_dir / name for name in names if INPUT.fullmatch(name))
        return sum(file.stat().st_size for file in files if file.is_file())

    def _folder(self, owner: str) -> Path:
        return self._settings.data_dir / "owners" / hashlib.sha256(owner.encode()).hexdigest()[:32] / "inputs"


def inputs_in(values: object, field: str = "image", depth: int = 0) -> list[tuple[str, str]]:
    """(field, name) of every input anywhere in a request."""
    if isinstance(values, str):
        return [(field, values)] if INPUT.fullmatch(values) else []
    if depth > DEEPEST:
        raise InvalidRequest(field, f"is nested more than {DEEPEST} deep.")
    if isinstance(values, Mapping):
        return [pair for key, value in values.items() for pair in inputs_in(value, str(key)[:40], depth + 1)]
    if isinstance(values, Sequence) and not isinstance(values, bytes):
        return [pair for value in values for pair in inputs_in(value, field, depth + 1)]
    return []


def check_models(values: object) -> None:
    """No model that a request names, wherever in it, is a folder of this machine, only what is listed here. Raises InvalidRequest.

    Call it after `Belongings.check`, which refuses what is nested too deep."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "model" and isinstance(value, str) and is_path(value):
                raise InvalidRequest("model", f"{value[:80]!r} is a path. Choose one of the models that are listed; whoever runs "
                                              "this studio can add a folder to them.")
            check_models(value)
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        for value in values:
            check_models(value)


def as_mapping(request: Any) -> Any:
    """A request as its fields; anything else as it is."""
    return request.to_json() if hasattr(request, "to_json") else request
