"""Images and videos of the user on their way into clips: kept by their hash, named in recipes, refused in words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app.history.records import Job, JobState
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest
from engine.media.clip import read_frames
from tests import fakes
from tests.app.test_cli import Run

Work = Callable[[], Job | None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capfd)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder: 'words' (text to video) and 'still' (image to video), true architectures with random weights."""
    import torch

    from tests.engine.tiny import save_tiny

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "words", "rope")
    save_tiny(folder / "still", "i2v-rope")
    return folder


@pytest.fixture
def real(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with the true engine."""
    monkeypatch.setenv("SPROCKET_MODELS_DIR", str(models))
    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "my cat.jpeg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)).save(path)
    return path


def names(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "inputs").iterdir()) if (data_dir / "inputs").exists() else []


SHORT = ("--steps", "4", "--seed", "5", "--frames", "9")


def test_a_video_is_changed_and_an_image_goes_on_from_it(real: Run, own_data_dir: Path, tmp_path: Path) -> None:
    first = real.json("generate", "--prompt", "a fox", "--model", "words", *SHORT)
    own = tmp_path / "holiday.mp4"
    own.write_bytes(Path(first["path"]).read_bytes())
    moved = real.json("generate", "--prompt", "a dog", "--model", "words", "--video", str(own), "--strength", "0.6", *SHORT,
                      "--guidance-kind", "cosine", "--fit", "pad")
    asked = moved["recipe"]["request"]
    [kept] = names(own_data_dir)
    assert kept.endswith(".mp4") and (own_data_dir / "inputs" / kept).read_bytes() == own.read_bytes()
    assert (asked["video"], asked["strength"], asked["fit"], asked["guidance_kind"]) == (kept, 0.6, "pad", "cosine")
    assert (asked["image"], asked["eta"]) == (None, 0.0)
    assert "holiday" not in json.dumps(moved["recipe"]) and str(tmp_path) not in json.dumps(moved["recipe"])

    own.unlink()  # the copy is the studio's own; restoring names it
    _code, line, _err = real("history", "restore", moved["clip"])
    words = shlex.split(line)
    assert words[words.index("--video") + 1] == kept
    again = real.json(*words[1:])
    assert pixels(again["path"]).tobytes() == pixels(moved["path"]).tobytes()
    assert names(own_data_dir) == [kept]

    longer = real.json("generate", "--prompt", "it runs away", "--model", "still", "--extend", moved["clip"], "--at", "3", *SHORT)
    image = longer["recipe"]["request"]["image"]
    assert names(own_data_dir) == sorted([kept, image])
    third = read_frames(Path(moved["path"]), frames=1, width=96, height=64, fit="crop", start=3)[0]
    assert np.array_equal(np.asarray(Image.open(own_data_dir / "inputs" / image)), third)
    assert longer["recipe"]["made_from"] == moved["clip"]
    assert real.json("history", "show", longer["clip"])["made_from"] == [moved["clip"]]
    last = real.json("generate", "--prompt", "it runs on", "--model", "still", "--extend", longer["clip"], *SHORT)
    assert real.json("history", "show", last["clip"])["made_from"] == [longer["clip"], moved["clip"]]


def pixels(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_an_image_becomes_a_clip(real: Run, own_data_dir: Path, picture: Path) -> None:
    made = real.json("generate", "--prompt", "a fox", "--model", "still", "--image", str(picture), *SHORT)
    [kept] = names(own_data_dir)
    assert made["recipe"]["request"]["image"] == kept and kept.endswith(".jpg")
    assert made["recipe"]["request"]["fit"] == "crop"


@pytest.mark.parametrize(("arguments", "field", "says"), [
    (["--image", "{picture}"], "image", "words does not take one"),
    (["--model", "still"], "image", "is missing; still makes videos from a first frame"),
    (["--model", "still", "--image", "nowhere.png"], "image", "no such file"),
    (["--model", "still", "--image", "f" * 64 + ".png"], "image", "not among the inputs"),
    (["--model", "still", "--video", "{picture}"], "video", "still does not take one"),
    (["--video", "{picture}"], "video", "PNG|JPEG"),
    (["--video", "{text}"], "video", "playlist"),
    (["--image", "{picture}", "--video", "{picture}"], "video", "one of them"),
    (["--strength", "0.5"], "strength", "there is none"),
    (["--fit", "pad"], "fit", "there is none"),
    (["--at", "3"], "at", "there is none"),
    (["--extend", "f" * 32, "--image", "{picture}"], "extend", "Use one of them"),
    (["--eta", "0.5"], "eta", "only the ddim"),
    (["--guidance-kind", "wave"], "guidance_kind", "as-published"),
])
def test_refusals_name_the_field_and_keep_nothing(real: Run, own_data_dir: Path, picture: Path, tmp_path: Path,
                                                  arguments: list[str], field: str, says: str) -> None:
    import re

    text = tmp_path / "clip.mp4"
    text.write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts")
    filled = [argument.format(picture=picture, text=text) for argument in arguments]
    code, out, err = real("generate", "--prompt", "a", "--model", "words", *filled, "--json")
    assert code == 2, err
    assert json.loads(out)["error"]["field"] == field
    assert re.search(says, err) and len(err) < 2000
    assert names(own_data_dir) == [] and real.json("queue", "list") == {"jobs": []}


def test_an_unknown_clip_or_frame_is_refused(real: Run) -> None:
    made = real.json("generate", "--prompt", "a fox", "--model", "words", *SHORT)
    code, out, _err = real("generate", "--prompt", "a", "--model", "still", "--extend", made["clip"], "--at", "9", "--json")
    error = json.loads(out)["error"]
    assert (code, error["field"], error["suggestion"]) == (2, "at", 8)
    code, out, _err = real("generate", "--prompt", "a", "--model", "still", "--extend", "../../etc/passwd", "--json")
    assert code == 2 and "no such clip" in json.loads(out)["error"]["message"]


def test_the_same_file_is_kept_once_under_what_it_is(studio: Studio, picture: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "called.mp4"
    wrong.write_bytes(picture.read_bytes())
    kept = studio.add_input(picture)
    assert studio.add_input(wrong) == studio.add_input(wrong, field="image") == kept
    assert names(studio.settings.data_dir) == [kept]
    with pytest.raises(InvalidRequest, match="JPEG") as caught:
        studio.add_input(picture, field="video")
    assert caught.value.field == "video"
    for bad in (tmp_path, tmp_path / "nowhere", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(InvalidRequest):
            studio.add_input(bad)
    with (tmp_path / "huge.mp4").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InvalidRequest, match="2,147 MB; at most 1,074 MB"):
        studio.add_input(tmp_path / "huge.mp4")
    assert names(studio.settings.data_dir) == [kept]


@pytest.fixture
def waiting(studio: Studio, picture: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Studio, str]:
    """A studio whose model makes videos from a first frame, and a first frame."""
    from dataclasses import replace

    monkeypatch.setattr(fakes, "SPEC", replace(fakes.SPEC, modes=("i2v",)))
    return studio, studio.add_input(picture)


def test_requests_keep_their_input_through_every_copy(waiting: tuple[Studio, str], work_once: Work) -> None:
    studio, image = waiting
    job = studio.submit({"prompt": "x", "image": image, "fit": "pad", "guidance_kind": "cosine"})
    assert studio.duplicate(job.id).request["image"] == image
    done = work_once()
    assert done is not None and done.clip_id is not None
    wish = studio.clip_request(done.clip_id)
    assert (wish.image, wish.fit, wish.guidance_kind) == (image, "pad", "cosine")
    assert studio.request_from_file(studio.clip_path(done.clip_id)) == wish
    assert studio.request_from_file(studio.clip_path(done.clip_id).with_suffix(".json")) == wish


def test_an_input_that_is_not_there_stores_no_job(waiting: tuple[Studio, str]) -> None:
    studio, image = waiting
    (studio.settings.inputs_dir / image).unlink()
    for value in (image, f"{'0' * 64}.png", "/etc/passwd", f"../inputs/{image}", "file:///etc/passwd"):
        with pytest.raises(InvalidRequest) as caught:
            studio.submit({"prompt": "x", "image": value})
        assert caught.value.field == "image"
    assert studio.jobs() == ()


def test_an_input_that_goes_while_its_job_waits_fails_the_job_in_words(models: Path, own_data_dir: Path, picture: Path) -> None:
    studio = open_studio(Settings(models_dir=models))
    try:
        image = studio.add_input(picture)
        job = studio.submit({"prompt": "x", "model": "still", "image": image, "frames": 9, "steps": 2}, reserve=True)
        (own_data_dir / "inputs" / image).unlink()
        after = studio.run_here(job.id)
        assert (after.state, after.error_code) == (JobState.FAILED, "invalid_request")
        assert "not among the inputs" in (after.error or "")
    finally:
        studio.close()
