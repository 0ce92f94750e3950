"""Inputs and LoRAs that nothing refers to any more: deleted after a time, by the server, at its start and now and then.

A file is in use while any row says its name: a job in whatever state, a clip (also in the trash) by its recipe. A form that
holds one has asked what it would cost, which makes the input young again (`touch`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, select

from app.history.schema import clips, jobs
from app.history.store import Store
from app.settings import Settings
from engine.request import INPUT_NAME, LORA_NAME

NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{2,11}")
DAY = 24 * 3600.0


def sweep_unused(settings: Settings, store: Store, now: float) -> list[str]:
    """Deletes what is unused and older than the settings say. Returns the names."""
    shelves = ((settings.inputs_dir, INPUT_NAME, settings.inputs_days), (settings.loras_dir, LORA_NAME, settings.loras_days))
    old = [path for folder, name, days in shelves if days > 0 for path in _older(folder, name, now - days * DAY)]
    if not old:
        return []
    used, gone = mentioned(store), []
    for path in old:
        if path.name not in used:
            path.unlink(missing_ok=True)
            if LORA_NAME.fullmatch(path.name):
                path.with_suffix(".json").unlink(missing_ok=True)
            gone.append(path.name)
    return gone


def mentioned(store: Store) -> set[str]:
    """Every name of an input or a LoRA that stands in a job's request or a clip's recipe, in whatever field."""
    def work(c: Connection) -> set[str]:
        found: set[str] = set()
        for column in (jobs.c.request, clips.c.recipe):
            for (text,) in c.execute(select(column)):
                found.update(NAME.findall(text or ""))
        return found
    return store.database.read(work)


def touch(path: Path) -> None:
    """The input is being used: its time starts anew."""
    with suppress(OSError):
        os.utime(path)


def _older(folder: Path, name: re.Pattern[str], limit: float) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # deleted meanwhile
            if name.fullmatch(path.name) and path.stat().st_mtime < limit:
                yield path
