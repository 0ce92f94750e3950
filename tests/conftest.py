"""No test may touch a user's data, use the network or fight over the processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test workers: more threads than cores are 10x slower
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
settings.register_profile("sprocket", deadline=None)  # a busy computer is no fault of an example
settings.load_profile("sprocket")


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points the installation at an empty folder of this test."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SPROCKET_DATA_DIR", str(folder))
    return folder
