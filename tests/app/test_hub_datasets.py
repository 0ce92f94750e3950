"""Datasets by their name on a hub: from its server to clips on the shelf, pinned, and what a hub may say instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.datasets import Datasets, Import
from app.settings import Settings
from engine.errors import InvalidRequest
from engine.models.catalogue import find
from engine.spec import read_spec
from tests.engine.media_files import write_video
from tests.hub_server import LocalHub, Repo, local_hub

NAME = "somebody/clips"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """With one dataset: two videos, a table of captions, and what must not be fetched."""
    import huggingface_hub
    from huggingface_hub import constants

    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", [np.full((64, 96, 3), 5 * step + 90 * number, np.uint8) for step in range(24)], fps=8)
    table = "file_name,text\nclips/0.mp4,a dark ramp\nclips/1.mp4,a light ramp\nclips/2.mp4,one that is not there\n"
    repo = Repo({"metadata.csv": table.encode(), "clips/0.mp4": (tmp_path / "0.mp4").read_bytes(),
                 "clips/1.mp4": (tmp_path / "1.mp4").read_bytes(), "load.py": b"raise SystemExit", "weights.bin": b"0" * 64})
    with local_hub({f"datasets/{NAME}": repo}) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        huggingface_hub.close_session()
        yield served
        huggingface_hub.close_session()


def shelf_in(folder: Path) -> Datasets:
    return Datasets(Settings(data_dir=folder / "data"), lambda name: read_spec(find(name), name))


def test_a_hub_id_becomes_clips_pinned_to_a_commit(hub: LocalHub, tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    made = shelf.add(Import(NAME), owner="local")
    assert sorted(clip.caption for clip in made.clips) == ["a dark ramp", "a light ramp"]
    assert made.source == f"{NAME} at {hub.repos[f'datasets/{NAME}'].revision[:12]}"
    assert len(made.rejections) == 1 and "2.mp4" in str(made.rejections)
    assert all((shelf.folder(made.id) / clip.source).is_file() for clip in made.clips)
    fetched = {asked.path for asked in hub.asked}
    assert "clips/0.mp4" in fetched and not fetched & {"load.py", "weights.bin"}


def test_what_a_hub_refuses_is_said_and_leaves_nothing(hub: LocalHub, tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    hub.repos["datasets/somebody/closed"] = Repo({"metadata.csv": b"x"}, gated=True)
    hub.repos["datasets/somebody/torn"] = Repo(hub.repos[f"datasets/{NAME}"].files)
    hub.faults.status["tree:datasets/somebody/torn"] = [404]
    for name in ("somebody/nothing", "somebody/closed", "somebody/torn"):
        with pytest.raises(InvalidRequest, match=f"{name} cannot be fetched from the hub"):
            shelf.add(Import(name), owner="local")
    with pytest.raises(InvalidRequest, match="cannot be fetched"):
        shelf.add(Import(NAME, revision="v9"), owner="local")
    assert shelf.list(owner="local") == () and [path.name for path in shelf.root.iterdir()] == []


def test_no_network_is_a_sentence(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(InvalidRequest, match="is there a network"):
        shelf_in(tmp_path).add(Import(NAME), owner="local")
