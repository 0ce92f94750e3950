"""Models that are shown frames, from outside: chosen as a folder or by name, asked from the command line and the form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.length import frames_at_once, with_known
from app.settings import Settings
from app.studio import open_studio
from app.ui.length import lengthened, timeline
from app.ui.rates import KNOWN, known_of
from app.ui.source import model_for
from engine.errors import InvalidRequest
from engine.media.probe import probe_video
from engine.request import GenerationRequest
from engine.spec import ModelSpec, read_spec
from tests.engine.tiny import save_tiny
from tests.tiny_family import save_ends, save_masked
from training.lora.config import TrainConfig

A, B = f"{'0' * 64}.png", f"{'1' * 64}.png"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose models are one of each."""
    home = tmp_path_factory.mktemp("shown")
    models = home / "models"
    save_ends(models / "ends")
    save_masked(models / "alibaba-pai--CogVideoX-Fun-V1.1-5b-InP")
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (64, 96, 3), np.uint8)).save(home / f"{name}.png")
    return home


@pytest.fixture(scope="module")
def specs(home: Path) -> tuple[ModelSpec, ModelSpec]:
    return read_spec(home / "models" / "ends"), read_spec(home / "models" / "alibaba-pai--CogVideoX-Fun-V1.1-5b-InP", "fun")


def test_the_command_line_makes_a_clip_around_given_frames(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capfd: pytest.CaptureFixture[str]) -> None:
    from app.cli import main

    def said(*words: str) -> dict:
        asked = ["sprocket", "generate", "--prompt", "a fox", "--steps", "1", *words, "--data-dir", str(home), "--json"]
        monkeypatch.setattr("sys.argv", asked)
        with pytest.raises(SystemExit) as ended:
            main()
        return json.loads(capfd.readouterr().out) | {"code": ended.value.code}

    monkeypatch.setenv("SPROCKET_MIN_FREE_BYTES", "0")
    both = ("--keyframe", f"first={home / 'a.png'}", "--keyframe", f"last={home / 'b.png'}")
    answer = said("--model", "ends", *both)  # the other kind is run in tests/browser/test_length_page.py
    assert answer["code"] == 0, answer
    request = answer["recipe"]["request"]
    assert [index for index, _ in request["given"]] == [0, 8] and (request["fps"], request["key_frames"]) == (None, None)
    assert probe_video(Path(answer["path"])).frames == 9
    for words, text in ((("--model", "ends", "--keyframe", f"first={home / 'a.png'}"), "the first frame and the last"),
                        (("--model", "ends", *both, "--key-frames", "3"), "no stage-two weights"),
                        (("--model", "ends"), "names no frames")):
        refused = said(*words)
        assert refused["code"] == 2 and text in refused["error"]["message"], refused


def test_both_are_listed_and_planned(home: Path) -> None:
    studio = open_studio(Settings(data_dir=home, min_free_bytes=0))
    try:
        shown = {spec.name: spec.shown for spec in studio.models()}
        assert shown["ends"] == "ends" and shown["alibaba-pai/CogVideoX-Fun-V1.1-5b-InP"] == "masked" and shown["pocket"] == ""
        name = studio.add_input(home / "a.png", field="image")
        forecast = studio.forecast({"prompt": "a fox", "model": "alibaba-pai/CogVideoX-Fun-V1.1-5b-InP", "given": [[4, name]]})
        assert "around 1 frame that" in forecast.notes[0]
        with pytest.raises(InvalidRequest, match="not among the inputs"):
            studio.submit({"prompt": "a fox", "model": "ends", "given": [[0, A], [8, B]]})
        with pytest.raises(InvalidRequest, match="LoRAs are not trained on such models"):
            studio.training.forecast(TrainConfig(name="x", model="ends", dataset="pocket-world"))
    finally:
        studio.close()


def test_places_of_a_clip_made_at_once(specs: tuple[ModelSpec, ModelSpec]) -> None:
    wish = GenerationRequest(prompt="-", model="fun")
    assert with_known(wish, specs[1], [("first", A), ("middle", B), ("last", A)]).given == ((0, A), (4, B), (8, A))
    assert [frames_at_once(seconds, specs[1]) for seconds in (0.1, 1.0, 2.2, 100.0)] == [9, 9, 17, 49]


def test_the_form_takes_images_without_key_frames(specs: tuple[ModelSpec, ModelSpec], tmp_path: Path) -> None:
    ends, masked = specs
    kept = {KNOWN: {"last": B}}
    values, beside = lengthened({"fps": "one clip", "frames": 9}, kept, masked)
    assert beside == {"given": [[8, B]]} and values["fps"] is None
    plain = read_spec(save_tiny(tmp_path / "plain"))
    assert lengthened({"fps": "one clip", "frames": 9}, kept, plain)[1] == {}
    assert "Choose a frame rate" in timeline({}, kept, plain)
    assert "+ First" in timeline({}, kept, masked) and "is shown" in timeline({}, kept, masked)
    assert "+ First" not in timeline({}, {}, ends) and "+ Last" in timeline({}, {}, ends)
    assert known_of(GenerationRequest(prompt="-", frames=9, given=((0, A), (8, B)))) == {KNOWN: {"first": A, "last": B}}
    assert known_of(GenerationRequest(prompt="-", given=((8, B),))) == {KNOWN: {"8": B}}
    assert model_for("i2v", [ends, masked]) is masked and model_for("i2v", [ends]) is None
