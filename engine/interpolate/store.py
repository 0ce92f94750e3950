"""Frames of an unfinished hierarchical clip on the disk, each a PNG: what is there is done, whatever happens to the process.

    workspace/frames-<mark>/key-000008.png                 made in stage 1
                            key-000008-again-<seed>.png    made anew before the rounds
                            round-<edits>/000009.png       made in a round

A frame is written whole or not at all, and a damaged one counts as not made. Memory holds one block, not the clip.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.video.publish import write_atomic

FOLDER = "frames-"
KEYS = "keys.json"
"""In the workspace: [{index, file or input}, ...] of the key frames, once they are all there."""


class FrameStore:
    """The frames of one job. `mark`: what decides key frames; `edits`: what decides the rounds too."""

    def __init__(self, workspace: Path, mark: Mapping[str, Any], edits: Any, size: tuple[int, int]) -> None:
        self.folder = workspace / (FOLDER + _digest(mark))
        self.rounds = self.folder / f"round-{_digest(edits)}"
        self.size = size
        for old in workspace.glob(FOLDER + "*"):
            if old != self.folder:
                shutil.rmtree(old, ignore_errors=True)  # of another version, model or request

    def key(self, index: int, again: int | None = None) -> Path:
        return self.folder / (f"key-{index:06d}.png" if again is None else f"key-{index:06d}-again-{again}.png")

    def made(self, index: int) -> Path:
        return self.rounds / f"{index:06d}.png"

    def write(self, path: Path, pixels: np.ndarray) -> None:
        """Raises `StorageBlocked`."""
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        write_atomic(path, out.getvalue())

    def read(self, path: Path) -> np.ndarray | None:
        """uint8 (height, width, 3), or None where it is not (whole) there."""
        try:
            with Image.open(path, formats=("PNG",)) as image:
                image.load()
                pixels = np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, EOFError):
            return None
        return pixels if pixels.shape[:2] == self.size else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
