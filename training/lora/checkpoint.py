"""Saved states of a run: whole or not there, and checked before they are believed.

    checkpoints/step-00000500/   adapter.safetensors, [average.safetensors], optimizer.safetensors, state.json, MANIFEST.json

All is written into a hidden folder and forced to the disk; the manifest, with the SHA-256 of every file, last; then the folder gets its
name, and only then older ones go. A run killed anywhere leaves the checkpoints it had. One with a flipped byte is passed over, and goes
once the run has saved again below it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from engine.digest import file_sha256
from engine.video.publish import storage_errors, sync_dir

MANIFEST = "MANIFEST.json"
PREFIX, HIDDEN = "step-", ".tmp-"


@dataclass(frozen=True, slots=True)
class State:
    """All that a run needs to go on. Positions of randomness are functions of `step`."""

    step: int
    adapter: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Tensor]
    rest: Mapping[str, Any]
    """Of the optimizer: what is no tensor."""
    bad_steps: int
    """Steps without a finite loss just before."""
    seconds: float
    """Training time so far."""


def save_state(folder: Path, state: State, keep: int) -> Path:
    """A checkpoint of `state` in `folder`; then damaged later ones go, and all but the newest `keep`. Raises `StorageBlocked`; those there
    were are there then."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{HIDDEN}*"):
            shutil.rmtree(left, ignore_errors=True)
        final, part = folder / f"{PREFIX}{state.step:08d}", folder / f"{HIDDEN}{state.step:08d}-{secrets.token_hex(4)}"
        part.mkdir()
        try:
            _write_all(part, state)
            if final.exists():  # of this step, by an earlier attempt, or damaged
                shutil.rmtree(final)
            part.replace(final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_dir(folder)
        _drop_others(folder, final, keep)
    return final


def _drop_others(folder: Path, newest: Path, keep: int) -> None:
    """All but the newest `keep` go, and those of later steps that are damaged: the run went on from below them, and they would take the
    places of sound ones for as long as it is below them."""
    for later in checkpoints(folder):
        if later.name > newest.name and problem(later) is not None:
            shutil.rmtree(later, ignore_errors=True)
    for old in checkpoints(folder)[keep:]:
        if old != newest:
            shutil.rmtree(old, ignore_errors=True)


def _write_all(part: Path, state: State) -> None:
    rest = {"step": state.step, "optimizer": state.rest, "bad_steps": state.bad_steps, "seconds": state.seconds}
    files: dict[str, Callable[[], bytes]] = {"adapter.safetensors": lambda: save(dict(state.adapter)),
                                             "optimizer.safetensors": lambda: save(dict(state.optimizer)),
                                             "state.json": lambda: json.dumps(rest).encode()}
    if state.average is not None:
        average = state.average
        files["average.safetensors"] = lambda: save(dict(average))
    digests = {}
    for name, made in files.items():  # one after the other: those of a whole model are large
        data = made()
        digests[name] = hashlib.sha256(data).hexdigest()
        _write(part / name, data)
        del data
    _write(part / MANIFEST, json.dumps(digests, indent=1).encode())
    sync_dir(part)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> list[Path]:
    """All of them, newest first, sound or not."""
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True) if folder.is_dir() else []


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, digest in manifest.items():
            if file_sha256(path / name) != digest:
                return f"{path.name}/{name} is not as it was written"
        if not {"adapter.safetensors", "optimizer.safetensors", "state.json"} <= manifest.keys():
            return f"{path.name} lacks files"
    except (OSError, ValueError, AttributeError) as error:
        return f"{path.name} cannot be read ({str(error)[:80]})"
    return None


def newest_state(folder: Path) -> tuple[State | None, tuple[str, ...]]:
    """(the newest state that is sound or None, what was wrong with newer ones)."""
    wrong = []
    for path in checkpoints(folder):
        if (trouble := problem(path)) is not None:
            wrong.append(trouble)
            continue
        return read_state(path), tuple(wrong)
    return None, tuple(wrong)


def read_state(path: Path) -> State:
    """A sound checkpoint."""
    values = json.loads((path / "state.json").read_text())
    average = path / "average.safetensors"
    return State(int(values["step"]), _tensors(path / "adapter.safetensors"), _tensors(average) if average.exists() else None,
                 _tensors(path / "optimizer.safetensors"), values["optimizer"], int(values["bad_steps"]), float(values["seconds"]))


def _tensors(path: Path) -> dict[str, Tensor]:
    return dict(load(path.read_bytes()))
