"""What a clip starts from, on the page: the panel's words, files coming in, the way on from a frame; and what is refused."""

from __future__ import annotations

import functools
import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.input_view import PICTURES, InputFacts, smaller
from app.settings import Settings
from app.ui.actions import act
from app.ui.create import fill, generate, named
from app.ui.form import FIELDS, START
from app.ui.html.source import SourceView, extend_html, source_html
from app.ui.media import media_routes
from app.ui.parts import telling
from app.ui.server import build_app
from app.ui.source import EXTENDS, model_for, parent, settled, source_view, waits_for
from app.ui.uploads import folder_of, sweep, upload_routes, uploaded
from app.ui.watch import found_again
from engine.errors import InvalidRequest
from engine.media.clip import read_frames
from engine.media.image import load_image
from engine.request import GenerationRequest
from tests.fakes_studio import SPEC, STILL, FakeStudio

EVIL = "<script>alert(1)</script>\"'"
PHOTO = InputFacts("a" * 64 + ".jpg", "image", 1200, 900)
FILM = InputFacts("b" * 64 + ".mp4", "video", 1920, 1080, 2.0, 30.0)


class Names(SimpleNamespace):
    """Stands for `Parts` where only the names of the components count."""

    def __getattr__(self, name: str) -> Any:
        return name


PARTS = Names(form={name: f"form.{name}" for name in (*FIELDS, "model")}, many={"seconds": "seconds"}, outputs=lambda: [])


@pytest.fixture
def studio(tmp_path: Path) -> FakeStudio:
    made = FakeStudio(tmp_path / "studio")
    (made.folder / "incoming").mkdir()
    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Lies on its side, as its EXIF says: 60 x 80 when upright, the left half red."""
    pixels = np.zeros((80, 60, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:] = (220, 20, 20), (20, 20, 220)
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    return tmp_path / "photo.jpg"


def send(studio: FakeStudio, data: bytes) -> str:
    """As `uploads` leaves it."""
    token = os.urandom(16).hex()
    (studio.folder / "incoming" / token).write_bytes(data)
    return token


def click(studio: FakeStudio, name: str, kept: dict[str, Any] | None = None, values: dict[str, Any] | None = None,
          **said: Any) -> dict[Any, Any]:
    form = {"model": "pocket", "prompt": "a ball", "fit": "crop", "strength": 0.8, **(values or {})}
    return act({"act": name, **said}, "/?view=create", "", {}, kept or {}, studio=studio, parts=PARTS, values=form)  # type: ignore[arg-type]


# ---- the panel

def test_only_what_the_model_can_do_is_open_and_what_can_is_named() -> None:
    words = source_html(SourceView(model="pocket", others={"i2v": "still"}))
    assert 'data-mode="i2v" aria-pressed="false" disabled title="pocket cannot start from an image"' in words
    assert 'data-act="use_for" data-mode="i2v" data-model="still"' in words and words.count("disabled") == 1
    assert "/?view=models" in source_html(SourceView(model="pocket"))
    still = source_html(SourceView(model="still", modes=("i2v",), start="i2v", others={"t2v": "pocket"}))
    assert "still needs an image." in still and still.count("disabled") == 2 and "Drop an image here" in still


@pytest.mark.parametrize(("facts", "view", "words"), [
    (PHOTO, {"width": 720, "height": 480}, "11% cut off above and below"),
    (PHOTO, {"width": 480, "height": 720}, "50% cut off left and right"),
    (PHOTO, {"width": 480, "height": 720, "fit": "pad"}, "with bars above and below"),
    (PHOTO, {"width": 720, "height": 480, "fit": "pad"}, "with bars left and right"),
    (FILM, {"frames": 9, "run": (9, 12)}, "<b>9 of 12 steps</b> are run on it"),
    (FILM, {"frames": 9}, "Its first 1.1 s are used"),
    (FILM, {"frames": 25}, "It gives 16 frames at 8 a second, and 25 are asked for."),
    (FILM, {"frames": 25}, 'data-act="fix" data-field="frames" data-value="9"'),
    (InputFacts("b" * 64 + ".mp4", "video", 64, 64, 0.4, 30.0), {}, "Choose a longer video"),
])
def test_the_panel_says_what_will_happen_to_the_file(facts: InputFacts, view: dict[str, Any], words: str) -> None:
    start = "i2v" if facts.field == "image" else "v2v"
    assert words in source_html(SourceView(start=start, modes=(start,), facts=facts, **view))


def test_nothing_in_the_panel_becomes_markup() -> None:
    facts = InputFacts(PHOTO.name, "image", 5, 5, note=EVIL)
    html = source_html(SourceView(start="i2v", modes=("i2v",), model=EVIL, others={"t2v": EVIL, "v2v": EVIL}, facts=facts, problem=EVIL,
                                  extends=EVIL))
    assert "<script>" not in html and html.count("&lt;script&gt;") >= 3


def test_a_start_that_the_model_cannot_do_gives_way() -> None:
    assert settled({}, SPEC)[START] == "t2v" and settled({}, STILL)[START] == "i2v"
    assert settled({START: "v2v", "video": "x"}, STILL) == {START: "i2v", "video": "x"}
    assert [waits_for(kept) for kept in ({START: "i2v"}, {START: "v2v"}, {START: "v2v", "video": "x"}, {})] == ["image", "video", "", ""]
    assert settled("nonsense", None)[START] == "t2v"


def test_a_clip_is_a_child_only_of_the_frame_it_starts_from() -> None:
    going_on = {START: "i2v", "image": "x", EXTENDS: "Frame 3 of your clip"}
    assert parent("c" * 32, going_on) == "c" * 32 and parent("c" * 32, {}) == "c" * 32  # extended; remixed
    assert parent("c" * 32, {**going_on, START: "t2v"}) is None and parent("", going_on) is None and parent(None, {}) is None


def test_a_suggestion_may_have_decimals(studio: FakeStudio) -> None:
    assert click(studio, "fix", field="strength", value="0.084")["form.strength"]["value"] == 0.084
    assert click(studio, "fix", field="frames", value="9")["form.frames"]["value"] == 9
    for bad in ("1e9", "", ".5", "1.", "nan", "9" * 30, "0.1234567"):
        assert "form.strength" not in click(studio, "fix", field="strength", value=bad)


@pytest.mark.parametrize(("field", "value"), [("precision", "auto"), ("precision", "fp8"), ("parallel", "cfg=2,ulysses=1,ring=1")])
def test_a_suggestion_may_be_a_word(studio: FakeStudio, field: str, value: str) -> None:
    assert click(studio, "fix", field=field, value=value)[f"form.{field}"]["value"] == value
    assert f"form.{field}" not in click(studio, "fix", field=field, value="<b>") and "form.prompt" not in click(
        studio, "fix", field="prompt", value="words of somebody else")


@pytest.mark.parametrize("name", ["take_back", "edit"])
def test_settings_that_come_back_from_the_queue_know_their_parent(studio: FakeStudio, name: str) -> None:
    parent_id = studio.add_clip("a ball").id
    job = studio.submit({"prompt": "a ball"}, made_from=parent_id)
    assert click(studio, name, job=job.id)["made_from"] == parent_id


def test_a_dropped_video_is_smoothed_into_the_project_that_is_open(studio: FakeStudio) -> None:
    asked: list[str] = []

    def submit_input(video: str, *, owner: str, project_id: str, **wish: Any) -> Any:
        asked.append(project_id)
        return studio.submit({"prompt": video})

    studio.interpolations = SimpleNamespace(submit_input=submit_input)  # type: ignore[attr-defined]
    other = studio.create_project("Sea", owner="local").id
    for project in (other, "gone"):
        act({"act": "interpolate", "video": FILM.name, "fps": "24"}, "/?view=create", "", {"project": project}, {}, studio=studio,
            parts=PARTS)  # type: ignore[arg-type]
    assert asked == [other, "p1"]


def test_a_page_that_the_server_has_forgotten_makes_nothing_else_instead(studio: FakeStudio) -> None:
    values = {"model": "pocket", "prompt": "a ball", "how_many": 1}
    refused = generate("", {}, "", {}, studio=studio, parts=PARTS, **values)
    assert "started again" in refused["forecast"] and not studio.jobs(owner="local")
    assert refused["kept"] == {} and "form.prompt" not in refused
    assert "started again" not in generate("", {}, refused["ticket"], {}, studio=studio, parts=PARTS, **values)["forecast"]
    assert len(studio.jobs(owner="local")) == 1
    job = studio.jobs(owner="local")[0].id
    at = f"/?view=create&job={job}"
    seen = act({"act": "hush"}, at, "", {}, {}, "", studio=studio, parts=PARTS, values=values)  # type: ignore[arg-type]
    assert seen["kept"] == {} and seen["job"] == job and seen["ticket"] and 'data-has="0"' in seen["source"]
    assert "kept" not in act({"act": "hush"}, at, job, {}, {}, seen["ticket"], studio=studio, parts=PARTS)  # type: ignore[arg-type]


def test_a_forgotten_page_that_nobody_clicks_finds_its_job_again(studio: FakeStudio) -> None:
    job = studio.submit({"prompt": "a ball"}, owner="local")
    assert found_again({"search": f"?view=create&job={job.id}"}, {}, studio=studio) == (job.id, f"/?view=create&job={job.id}")
    assert found_again({"search": "?view=queue"}, {"job": job.id}, studio=studio) == (job.id, "/?view=queue")
    assert found_again(None, {}, studio=studio)[1] == found_again({"search": ["x"]}, {}, studio=studio)[1] == "/?view=create"


def test_an_unforeseen_error_of_generate_is_said_and_the_line_below_it_stays(studio: FakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"model": "pocket", "prompt": "a ball", "how_many": 1}
    press = telling(named(functools.partial(generate, studio=studio, parts=PARTS)), "forecast", clears=False)  # type: ignore[arg-type]
    assert "forecast" not in telling(lambda: {}, "forecast", clears=False)()  # type: ignore[arg-type]

    def broken(*_values: Any, **_named: Any) -> Any:
        raise RuntimeError("the disk fell out of the window")

    monkeypatch.setattr(studio, "submit", broken)
    told = press("", {}, "t", {}, **values)
    assert set(told) == {"forecast"} and 'role="alert"' in told["forecast"] and "window" not in told["forecast"]


def test_a_model_that_no_list_names_can_be_chosen_again(studio: FakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "spec", lambda model: SPEC)
    shown = fill(studio, PARTS, GenerationRequest(prompt="a ball", model="/models/mine"), "")["form.model"]  # type: ignore[arg-type]
    assert shown["value"] == "/models/mine" and shown["choices"] == ["pocket", "/models/mine"]


def test_the_nearest_model_is_taken() -> None:
    large = SimpleNamespace(**{**vars(STILL), "name": "large", "native_width": 720, "native_height": 480})
    assert model_for("i2v", (SPEC, large, STILL), like=(192, 128)) is STILL
    assert model_for("i2v", (SPEC, large, STILL), like=(640, 480)) is large
    assert model_for("i2v", (SPEC,)) is None


@pytest.mark.parametrize("value", [None, "", "x", float("nan"), -5, 10**9, True, [3]])
def test_half_typed_numbers_do_not_break_the_panel(value: object) -> None:
    view = source_view({"width": value, "height": value, "frames": value, "steps": value, "strength": value, "fit": value}, {START: "v2v"},
                       SPEC, {}, FILM)  # type: ignore[arg-type]
    assert (view.width, view.height, view.frames, view.fit, view.run) == (192, 128, 25, "crop", (9, 12))


# ---- the picture of it

def test_an_image_is_shown_as_the_model_gets_it(studio: FakeStudio, photo: Path) -> None:
    name = studio.add_input(photo)
    facts = studio.input_facts(name)
    assert (facts.field, facts.width, facts.height) == ("image", 60, 80)
    for fit in ("crop", "pad"):
        shown = np.asarray(Image.open(io.BytesIO(studio.input_preview(name, width=96, height=64, fit=fit))).convert("RGB")).astype(int)
        wanted = load_image(photo, width=96, height=64, fit=fit).astype(int)  # type: ignore[arg-type]
        assert shown.shape == wanted.shape and np.abs(shown - wanted).mean() < 3  # WebP
    assert shown[32, 30, 0] > 180 and shown[32, 66, 2] > 180 and shown[32, 5].max() < 12  # upright, unstretched, bars


def test_a_video_is_shown_as_a_strip_of_its_frames(studio: FakeStudio) -> None:
    clip = studio.add_clip("a red ball bounces")
    path = studio.clip_path(clip.id, owner="local")
    name = studio.add_input(path)
    strip = studio.input_preview(name, width=96, height=64, fit="crop", frames=24, fps=8.0)
    shown = np.asarray(Image.open(io.BytesIO(strip)).convert("RGB"))
    assert shown.shape == (64, 96 * PICTURES, 3)
    wanted = read_frames(path, frames=8, width=96, height=64, fit="crop", fps=8 / 3)
    assert np.abs(shown.astype(int) - np.concatenate(wanted, 1).astype(int)).mean() < 4
    long = np.asarray(Image.open(io.BytesIO(studio.input_preview(name, width=96, height=64, fit="crop", frames=240, fps=8.0))))
    assert long.shape == shown.shape  # shorter than asked for: its last frame stands


def test_large_models_get_small_previews() -> None:
    assert smaller(1360, 768, 768) == (768, 434) and smaller(96, 64, 768) == (96, 64) and smaller(4096, 16, 384) == (384, 2)


@pytest.mark.parametrize("path", ["x.webp", "../history.db.webp", f"{'f' * 64}.png.webp"])
def test_no_other_file_is_shown(studio: FakeStudio, path: str) -> None:
    app = FastAPI()
    app.include_router(media_routes(studio))
    browser = TestClient(app)
    assert browser.get(f"/media/inputs/{path}?width=96&height=64").status_code == 404


def test_a_preview_is_served_as_a_picture_only(studio: FakeStudio, photo: Path) -> None:
    app = FastAPI()
    app.include_router(media_routes(studio))
    browser, name = TestClient(app), studio.add_input(photo)
    answer = browser.get(f"/media/inputs/{name}.webp?width=96&height=64&fit=pad")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert "sandbox" in answer.headers["content-security-policy"]
    for bad in ("width=1&height=64", "width=96&height=99999", "width=96&height=64&fit=stretch", "width=96&height=64&frames=0"):
        assert browser.get(f"/media/inputs/{name}.webp?{bad}").status_code == 404
    assert browser.get(f"/media/inputs/{name}.webp?width=nan&height=64").status_code == 422


# ---- files coming in

def test_an_upload_is_bounded_and_gets_a_token(studio: FakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    app, tmp_path = FastAPI(), folder_of(studio.settings)
    app.include_router(upload_routes(studio, limit=1000))
    browser = TestClient(app)
    token = browser.post("/media/uploads", content=b"x" * 1000).json()["upload"]
    assert uploaded(tmp_path, token) is not None and (tmp_path / token).read_bytes() == b"x" * 1000
    large = browser.post("/media/uploads", content=b"x" * 1001)
    chunked = browser.post("/media/uploads", content=iter([b"x" * 900, b"x" * 900]))  # without saying how much
    for answer in (large, chunked):
        assert answer.status_code == 413 and "at most 0 MB come in through the page" in answer.json()["error"]
    assert [path.name for path in tmp_path.iterdir()] == [token]
    for wrong in (None, 5, "", "../" + token, token.upper() + "x", "0" * 32):
        assert uploaded(tmp_path, wrong) is None
    os.utime(tmp_path / token, (time.time() - 10_000,) * 2)
    later = browser.post("/media/uploads", content=b"y").json()["upload"]
    assert uploaded(tmp_path, token) is not None  # the first of a set, whose last is hours behind
    for each in (token, later):
        os.utime(tmp_path / each, (time.time() - 100_000,) * 2)
    (tmp_path / "not ours.txt").touch()
    is_file = Path.is_file
    with monkeypatch.context() as meanwhile:  # another request sweeps, too
        meanwhile.setattr(Path, "is_file", lambda self: is_file(self) and not self.unlink())
        sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []
    for name in (token, later, "not ours.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 100_000,) * 2)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["not ours.txt"]


def test_a_picture_is_taken_in_and_the_model_follows(studio: FakeStudio, photo: Path) -> None:
    token = send(studio, photo.read_bytes())
    alone = click(studio, "take", upload=token, purpose="any")
    assert "No model on this machine starts from an image" in alone["source"] and "kept" not in alone
    studio.specs = (SPEC, STILL)
    changed = click(studio, "take", upload=send(studio, photo.read_bytes()), purpose="any")
    assert changed["form.model"]["value"] == "still" and "still is chosen" in changed["notice"]
    assert changed["kept"][START] == "i2v" and changed["kept"]["image"].endswith(".jpg") and "60 × 80" in changed["source"]
    assert list((studio.folder / "incoming").iterdir()) == []
    assert "not here any more" in click(studio, "take", upload=token)["source"]


def test_a_dropped_clip_restores_and_any_other_video_is_changed(studio: FakeStudio, tmp_path: Path) -> None:
    clip = studio.add_clip("a red ball bounces")
    ours = studio.clip_path(clip.id, owner="local").read_bytes()
    restored = click(studio, "take", upload=send(studio, ours), purpose="any")
    assert "Settings restored" in restored["notice"] and restored["form.prompt"]["value"] == "a red ball bounces"
    sidecar = json.dumps(clip.recipe).encode()
    assert "Settings restored" in click(studio, "take", upload=send(studio, sidecar), purpose="restore")["notice"]
    used = click(studio, "take", {START: "v2v"}, upload=send(studio, ours), purpose="input")  # on the panel it is a video
    assert used["kept"]["video"].endswith(".mp4") and "The video to change" in used["source"] and "notice" not in used
    stranger = tmp_path / "stranger.mp4"
    plain(stranger)
    other = click(studio, "take", upload=send(studio, stranger.read_bytes()), purpose="any")
    assert other["kept"][START] == "v2v" and "The video to change" in other["source"]
    told = click(studio, "take", upload=send(studio, stranger.read_bytes()), purpose="restore")
    assert "Could not restore" in told["notice"] and "kept" not in told


def plain(path: Path) -> None:
    """A video without a recipe."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 8, np.uint8), format="rgb24")))
        container.mux(stream.encode())


def bomb() -> bytes:
    """8,000 x 8,000 pixels in few bytes."""
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    return buffer.getvalue()


def sound() -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


BAD: list[tuple[str, Any, str]] = [
    ("i2v", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "SVG drawing"),
    ("i2v", bomb, "64 million pixels; at most 40"),
    ("i2v", lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "damaged|cut off"),
    ("i2v", lambda: b"", "empty"),
    ("v2v", lambda: b"#EXTM3U\nhttp://127.0.0.1:9/secret.ts\n", "playlist"),
    ("v2v", lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
    ("v2v", sound, "no video in it"),
    ("v2v", lambda: b"just words", "text"),
    ("any", lambda: b"{" * 5000, "damaged recipe|no Sprocket recipe"),
    ("any", lambda: b"\0\1\2", "no kind that is known"),
]


@pytest.mark.parametrize(("start", "data", "says"), BAD, ids=[says for _, _, says in BAD])
def test_refused_files_say_why_and_leave_nothing(studio: FakeStudio, start: str, data: Any, says: str) -> None:
    import re

    studio.specs = (SPEC, STILL)
    model = "still" if start == "i2v" else "pocket"
    purpose = "any" if start == "any" else "input"
    changed = click(studio, "take", {START: start}, {"model": model}, upload=send(studio, data()), purpose=purpose)
    told = changed.get("source", "") + changed.get("notice", "")
    assert re.search(says, told) and "<script>" not in told and "kept" not in changed
    assert list((studio.folder / "incoming").iterdir()) == []
    assert not (studio.folder / "inputs").exists() or list((studio.folder / "inputs").iterdir()) == []


def test_an_animated_picture_is_taken_by_its_first_frame_and_says_so(studio: FakeStudio) -> None:
    studio.specs = (STILL,)
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "green")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    changed = click(studio, "take", {START: "i2v"}, {"model": "still"}, upload=send(studio, buffer.getvalue()), purpose="input")
    assert "animation of 3 frames; only the first one is used" in changed["source"]


# ---- choosing, removing, going on

def test_what_was_given_to_another_start_stays(studio: FakeStudio, photo: Path) -> None:
    studio.specs = (SPEC, STILL)
    name = studio.add_input(photo)
    words = click(studio, "start", {START: "i2v", "image": name}, {"model": "still"}, mode="t2v")
    assert words["kept"] == {START: "t2v", "image": name}
    again = click(studio, "use_for", words["kept"], mode="i2v", model="still")
    assert again["form.model"]["value"] == "still" and "60 × 80" in again["source"]
    gone = click(studio, "unsource", again["kept"], {"model": "still"})
    assert gone["kept"] == {START: "i2v"} and "Drop an image here" in gone["source"] and "Choose the image" in gone["forecast"]


def test_a_remix_and_a_restored_clip_bring_their_video_back(studio: FakeStudio) -> None:
    first = studio.add_clip("a red ball bounces")
    video = studio.add_input(studio.clip_path(first.id, owner="local"))
    asked = first.recipe["request"] | {"video": video, "strength": 0.5, "fit": "pad"}
    made = studio._change(first.id, recipe={**first.recipe, "request": asked})
    for name, parent_id in (("remix", made.id), ("restore", "")):
        back = click(studio, name, clip=made.id)
        assert back["kept"] == {START: "v2v", "video": video} and back["made_from"] == parent_id
        assert f"{video}.webp?" in back["source"] and "fit=pad" in back["source"] and "6 of 12 steps" in back["source"]
        assert (back["form.strength"]["value"], back["form.fit"]["value"]) == (0.5, "pad")
    (studio.folder / "inputs" / video).unlink()
    gone = click(studio, "restore", clip=made.id)
    assert "not among the inputs of this studio" in gone["source"] and "Drop a video here" in gone["source"]


def test_extending_goes_to_a_model_that_takes_an_image(studio: FakeStudio) -> None:
    clip = studio.add_clip("a red ball bounces")
    none = click(studio, "extend", clip=clip.id, at="3")
    assert "No model on this machine starts from an image" in none["notice"] and "/?view=models" in none["notice"] and "kept" not in none
    studio.specs = (SPEC, STILL)
    on = click(studio, "extend", clip=clip.id, at="3")
    assert (on["form.model"]["value"], on["made_from"], on["form.prompt"]["value"]) == ("still", clip.id, clip.prompt)
    assert on["kept"][START] == "i2v" and on["kept"][EXTENDS] == "Frame 3 of your clip" and "Frame 3 of your clip" in on["source"]
    third = read_frames(studio.clip_path(clip.id, owner="local"), frames=1, width=192, height=128, fit="crop", start=3)[0]
    assert np.array_equal(np.asarray(Image.open(studio.folder / "inputs" / on["kept"]["image"])), third)
    other = click(studio, "unsource", on["kept"], {"model": "still"})
    assert other["made_from"] == "" and EXTENDS not in other["kept"]  # another image is no frame of that clip
    for at in ("-1", "25", "x", "9" * 20, ""):
        with pytest.raises(InvalidRequest):
            click(studio, "extend", clip=clip.id, at=at)
    assert f'max="{clip.frames - 1}"' in extend_html(clip)


def test_the_start_of_one_host_leaves_what_is_sent_to_another(studio: FakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hosts share the data folder; without a database server nobody shares it."""
    shared = Settings(data_dir=studio.folder, database="postgresql://db/studio")
    assert Settings(data_dir=studio.folder).incoming_dir == studio.folder / "incoming"
    left = [shared.incoming_dir / ("0" * 32), shared.uploads_dir / "sent.mp4"]
    for file in left:
        file.parent.mkdir()
        file.touch()
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # which is put back at the end
    studio.settings.incoming_dir, studio.settings.uploads_dir = shared.incoming_dir, shared.uploads_dir
    build_app(studio)
    assert folder_of(studio.settings) == studio.folder / "incoming-another" and folder_of(studio.settings).is_dir()
    assert all(file.exists() for file in left)


def test_the_real_server_takes_a_file_by_http(studio: FakeStudio, photo: Path) -> None:
    """With the guard in front: foreign pages cannot send any."""
    from tests.site import serving

    with serving(studio) as site:
        answer = httpx.post(f"{site.url}/media/uploads", content=photo.read_bytes())
        assert answer.status_code == 200 and uploaded(studio.folder / "incoming", answer.json()["upload"]) is not None
        path = uploaded(studio.folder / "incoming", answer.json()["upload"])
        assert httpx.get(f"{site.url}/gradio_api/file={path}").status_code in (403, 404)
        assert httpx.post(f"{site.url}/media/uploads", content=b"x", headers={"origin": "http://evil.example"}).status_code == 403
