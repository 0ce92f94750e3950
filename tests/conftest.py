"""No test may touch a user's data, use the network or fight over the processor."""

from __future__ import annotations

import gc
import os
from itertools import chain, zip_longest
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test workers: more threads than cores are 10x slower
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
settings.register_profile("sprocket", deadline=None)  # a busy computer is no fault of an example
settings.load_profile("sprocket")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that the workers end together; a file that waits for pages takes turns with one that computes."""
    folders: dict[str, dict[Path, list[pytest.Item]]] = {}
    for item in items:
        folders.setdefault(item.path.parent.name, {}).setdefault(item.path, []).append(item)
    waits = folders.pop("browser", {}).values()
    computes = [file for name in ("training", "parallel", "engine") for file in folders.pop(name, {}).values()]
    rest = [file for folder in folders.values() for file in folder.values()]
    turns = chain.from_iterable(zip_longest(waits, computes, fillvalue=[]))
    items[:] = chain.from_iterable([*turns, *rest])


def pytest_collection_finish() -> None:
    """What was imported stays: the collector, which the program calls too, need not walk it each time. It was half of some files' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points the installation at an empty folder of this test."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SPROCKET_DATA_DIR", str(folder))
    return folder
