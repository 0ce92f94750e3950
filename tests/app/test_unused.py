"""Inputs and LoRAs that nothing refers to go after a time; what a job, a clip or a form needs never does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from app.history.records import Job, JobState
from app.history.recovery import recover
from app.history.unused import DAY, mentioned, sweep_unused
from app.settings import Settings
from app.studio import Studio
from app.ui.guard import allowed_names, refusal
from engine.errors import InvalidRequest
from tests import fakes
from tests.fakes import POCKET
from tests.lora_files import lora_weights, save_lora


@pytest.fixture
def pictures(studio: Studio, tmp_path: Path) -> list[str]:
    """Names of four inputs, all a hundred days old."""
    names = []
    for shade in range(4):
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
        names.append(studio.add_input(tmp_path / f"{shade}.png"))
    age(studio.settings.inputs_dir)
    return names


def age(folder: Path, days: float = 100.0) -> None:
    then = time.time() - days * DAY
    for path in folder.iterdir():
        os.utime(path, (then, then))


def test_what_nothing_refers_to_goes(studio: Studio, pictures: list[str], work_once: Callable[[], Job | None],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "SPEC", replace(fakes.SPEC, modes=("t2v", "i2v")))
    made, waiting, formed, nobodys = pictures
    first = studio.submit({"prompt": "a", "image": made})
    done = work_once()
    assert done is not None and done.id == first.id and done.state is JobState.DONE and done.clip_id is not None
    studio.trash(done.clip_id)  # a clip in the trash can come back
    studio.cancel(studio.submit({"prompt": "b", "image": waiting}).id)  # and a cancelled job be tried again
    age(studio.settings.inputs_dir)
    studio.forecast({"prompt": "c", "image": formed})  # a form that is open
    assert {made, waiting} <= mentioned(studio.store)
    recover(studio.settings, studio.store)  # what a server does at its start
    assert {path.name for path in studio.settings.inputs_dir.iterdir()} == {made, waiting, formed}
    with pytest.raises(InvalidRequest, match="Choose the image file again"):
        studio.submit({"prompt": "d", "image": nobodys})


def test_the_settings_say_when(studio: Studio, pictures: list[str], tmp_path: Path) -> None:
    lora = studio.loras.add(save_lora(tmp_path / "x.safetensors", lora_weights(POCKET, rank=1))).name
    age(studio.loras.folder)
    (studio.settings.inputs_dir / "notes.txt").write_text("not ours")
    now, of = time.time(), studio.settings.model_copy
    assert sweep_unused(of(update={"inputs_days": 0.0}), studio.store, now) == []
    assert sweep_unused(of(update={"inputs_days": 101.0}), studio.store, now) == []
    assert sorted(sweep_unused(studio.settings, studio.store, now)) == sorted(pictures)
    assert [card.name for card in studio.loras.cards()] == [lora]  # a shelf is for keeping, unless it is said otherwise
    assert sweep_unused(of(update={"loras_days": 30.0}), studio.store, now) == [lora]
    assert list(studio.loras.folder.iterdir()) == [] and (studio.settings.inputs_dir / "notes.txt").is_file()


def test_hosts_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPROCKET_ALLOWED_HOSTS", "studio.example, Other.example")
    names = allowed_names(Settings().allowed_hosts)
    assert refusal("GET", "studio.example:7860", None, names) is refusal("GET", "other.example", None, names) is None
    assert "SPROCKET_ALLOWED_HOSTS" in (refusal("GET", "evil.example", None, names) or "")
