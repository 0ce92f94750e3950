"""Whether all ranks loaded the same weights: computers that share no disk may hold different ones, and mix two models in one clip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from engine.errors import ModelInvalid
from engine.parallel.mesh import Mesh

WORD = 8
KNOWN: dict[tuple[str, int, int], str] = {}
"""Digests of files by path, size and time: a fleet meets the same ones with every job."""


def digest(folder: Path) -> str:
    """Of every weights file below `folder`: its name, size, and the sum and parity of its 64-bit words, at the disk's speed.

    It tells other weights from these, and damage; it is no defence against forgery, which is not what it is for.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        about = path.stat()
        key = (str(path), about.st_size, about.st_mtime_ns)
        if key not in KNOWN:
            KNOWN[key] = _words(path, about.st_size)
        total.update(f"{path.relative_to(folder)} {about.st_size} {KNOWN[key]}\n".encode())
    return total.hexdigest()


def _words(path: Path, size: int) -> str:
    numbers = np.memmap(path, np.uint8, "r")[:size - size % WORD].view(np.uint64) if size >= WORD else np.zeros(0, np.uint64)
    with path.open("rb") as file:
        file.seek(size - size % WORD)
        rest = file.read()
    return f"{int(np.add.reduce(numbers)):x} {int(np.bitwise_xor.reduce(numbers)):x} {rest.hex()}"


def compare_weights(mesh: Mesh, folder: Path) -> None:
    """Raises `ModelInvalid`, on every rank, where a rank's files are not the first one's."""
    own = digest(folder)
    mine = torch.tensor(list(bytes.fromhex(own)), dtype=torch.uint8, device=mesh.device)
    all_of_them = mesh.stacked(mine).cpu()
    other = [rank for rank, one in enumerate(all_of_them) if not torch.equal(one, all_of_them[0])]
    if other:
        raise ModelInvalid(f"rank {', '.join(map(str, other))} has other weights in {folder.name} than rank 0. Copy the model's folder "
                           "from one computer to the others, or fetch the same revision on each.")
