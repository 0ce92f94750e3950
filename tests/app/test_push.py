"""A run's LoRA onto the hub (one on this machine), by the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from app.hub.push import parts_of, push
from engine.errors import InvalidRequest
from tests.hub_server import GOOD_TOKEN, LocalHub, local_hub
from training.lora.card import card
from training.lora.config import POCKET_WORLD, TrainConfig
from training.lora.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(model="pocket", dataset=POCKET_WORLD, name="moons", trigger="zq")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create(CONFIG)
    clip = made.previews / "step-00000006" / "0.mp4"
    for path, data in ((made.lora_file("moons"), b"weights" * 500), (clip, b"a clip"), (made.folder / "checkpoints" / "x", b"private")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    text = card(CONFIG, base="pocket", facts={}, previews=[("a moon", "../previews/step-00000006/0.mp4")], held_out=[], i2v=False)
    (made.folder / "lora" / "README.md").write_text(text)
    return made


def send(hub: LocalHub, run: RunDir, *arguments: str, token: str = GOOD_TOKEN) -> subprocess.CompletedProcess[str]:
    environment = os.environ | hub.env | {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "HF_HOME": str(run.folder)}
    return subprocess.run([sys.executable, "-m", "app.cli", "lora", "push", str(run.folder), *arguments], capture_output=True, text=True,
                          timeout=120, env=environment, check=False)


def test_file_card_and_clips_arrive_and_nothing_else(run: RunDir) -> None:
    with local_hub() as hub:
        said = send(hub, run, "fox/moons")
        assert said.returncode == 0, said.stderr
        sent = hub.repos["fox/moons"].files
        assert hub.made["fox/moons"]["visibility"] == "private" and hub.repos["fox/moons"].revision in said.stdout
    assert sorted(sent) == ["README.md", "moons.safetensors", "previews/step-00000006/0.mp4"]
    assert sent["moons.safetensors"] == run.lora_file("moons").read_bytes() and sent["previews/step-00000006/0.mp4"] == b"a clip"
    assert b"url: previews/step-00000006/0.mp4" in sent["README.md"] and b"../" not in sent["README.md"]


def test_a_run_that_makes_a_model_is_not_told_to_save_a_lora(tmp_path: Path) -> None:
    for method, what in (("full", "all weights"), ("stage-two", "stage two")):
        RunDir(tmp_path / method).create(TrainConfig(model="pocket", dataset=POCKET_WORLD, name="moons", method=method))
        with pytest.raises(InvalidRequest, match=f"trains {what}: what it makes is a model"):
            parts_of(tmp_path / method)


def test_without_a_token_or_the_right_to_write_it_says_so(run: RunDir) -> None:
    with local_hub() as hub:
        for token in ("", "hf_other"):
            said = send(hub, run, "fox/moons", token=token)
            assert said.returncode != 0 and "HF_TOKEN" in said.stderr and "Traceback" not in said.stderr
        assert hub.repos == {}


class PublicHub:
    """A hub on which every repository is there already, and public. `sent`: what arrived."""

    sent: ClassVar[list[str]] = []

    def __init__(self, **_said: str) -> None: ...

    def create_repo(self, repo: str, **_said: bool) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo)

    def repo_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(id=repo, private=False)

    def create_commit(self, repo: str, operations: list[Any], **_said: str) -> SimpleNamespace:
        self.sent.extend(each.path_in_repo for each in operations)
        return SimpleNamespace(commit_url=f"https://hub/{repo}")


def test_nothing_is_published_without_being_asked_for(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.hub.push.HfApi", PublicHub)
    monkeypatch.setattr("app.hub.push.get_token", lambda: GOOD_TOKEN)
    with pytest.raises(InvalidRequest, match=r"fox/moons is public already, and nothing was sent\. Say --public") as refused:
        push(run.folder, "fox/moons")
    assert refused.value.field == "repo" and PublicHub.sent == []
    assert push(run.folder, "fox/moons", private=False) == "https://hub/fox/moons" and "moons.safetensors" in PublicHub.sent


def test_a_run_without_a_lora_is_refused(run: RunDir) -> None:
    run.lora_file("moons").unlink()
    with pytest.raises(InvalidRequest, match="no LoRA yet"):
        parts_of(run.folder)
