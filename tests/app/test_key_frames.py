"""Key frames that wait for their owner: held, made anew, replaced, gone on from; and what pages say of them."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.errors import NotAllowed, NotFound
from app.history.records import Job, JobState
from app.key_frames import picture, strip_count, waits
from app.length import frames_of
from app.queue.process import this_process
from app.studio import Studio
from app.ui.html.keys import hierarchy_html, keys_html, timeline_html
from app.ui.length import lengthened
from app.ui.media import media_routes
from app.ui.rates import known_of, rate_of
from engine.errors import AwaitingReview, InvalidRequest
from engine.interpolate.store import KEYS
from engine.request import GenerationRequest
from tests import fakes
from tests.fakes_studio import FakeStudio

INPUT = "a" * 64 + ".png"
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def held(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose worker has made three key frames and holds it; plans of the fake model are ordinary ones."""
    plain = studio._planned
    monkeypatch.setattr(studio, "_planned", lambda wish: plain(GenerationRequest(prompt=wish.prompt)))
    job = studio.submit({"prompt": "a red ball", "frames": 9, "fps": 8.0, "key_frames": 3, "review": True})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    workspace = studio.settings.job_dir(job.id) / "work"
    workspace.mkdir(parents=True)
    rows = []
    for index in (0, 4, 8):
        Image.new("RGB", (96, 64), (index * 20, 90, 60)).save(workspace / f"key-{index}.png")
        rows.append({"index": index, "file": f"key-{index}.png", "again": index == 4})
    (workspace / KEYS).write_text(json.dumps(rows))
    studio.store.leases.hold(claim, now=time.time(), code=AwaitingReview.code, reason="3 key frames are ready.")
    return studio.job(job.id)


def test_a_held_job_waits_and_shows_its_key_frames(studio: Studio, held: Job, work_once: Callable[[], Job | None]) -> None:
    assert held.state is JobState.PAUSED and waits(held)
    assert work_once() is None  # no worker takes it
    frames = studio.key_frames(held.id)
    assert [(frame.index, frame.source) for frame in frames] == [(0, "made"), (4, "again"), (8, "made")]
    assert picture(frames[0])[8:12] == b"WEBP"
    markup = keys_html(held, frames)
    assert markup.count('data-act="key_again"') == 3 and "0.5 s" in markup and f"key-{held.id}-8" in markup


def test_a_key_frame_is_made_anew_with_a_seed_that_is_kept(studio: Studio, held: Job) -> None:
    after = studio.edit_key_frame(held.id, 4)
    assert after.state is JobState.QUEUED and after.request["review"] is True
    [[index, seed]] = after.request["edits"]
    assert index == 4 and isinstance(seed, int)
    assert GenerationRequest.from_mapping(after.request).edits == ((4, seed),)


def test_a_key_frame_is_replaced_by_an_input(studio: Studio, held: Job) -> None:
    with pytest.raises(InvalidRequest, match="not among the inputs"):
        studio.edit_key_frame(held.id, 4, INPUT)
    studio.settings.inputs_dir.mkdir(parents=True, exist_ok=True)
    (studio.settings.inputs_dir / INPUT).write_bytes(b"x")
    assert studio.edit_key_frame(held.id, 4, INPUT).request["edits"] == [[4, INPUT]]


def test_going_on_ends_the_review_and_nothing_else(studio: Studio, held: Job) -> None:
    after = studio.go_on(held.id)
    assert after.state is JobState.QUEUED and after.error is None
    assert after.request == {**held.request, "review": False}
    with pytest.raises(NotAllowed):
        studio.go_on(held.id)


def test_a_job_that_is_only_paused_is_not_gone_on_with(studio: Studio) -> None:
    job = studio.pause(studio.submit({"prompt": "a ball"}).id)
    for act in (lambda: studio.go_on(job.id), lambda: studio.edit_key_frame(job.id, 0)):
        with pytest.raises((NotAllowed, InvalidRequest)):
            act()
    with pytest.raises(NotFound):
        studio.key_frames(job.id)


@pytest.mark.parametrize("index", [-1, True, "4", None, 1.5])
def test_indices_that_are_none(studio: Studio, held: Job, index: object) -> None:
    with pytest.raises(InvalidRequest, match="index"):
        studio.edit_key_frame(held.id, index)  # type: ignore[arg-type]


def test_a_broken_list_is_no_list(studio: Studio, held: Job) -> None:
    (studio.settings.job_dir(held.id) / "work" / KEYS).write_text('[{"index": 0}]')
    with pytest.raises(NotFound):
        studio.key_frames(held.id)


def test_a_model_without_stage_two_is_refused_before_any_row(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match="stage-two"):
        studio.submit({"prompt": "a ball", "fps": 8})
    assert studio.jobs() == ()


@pytest.mark.parametrize(("seconds", "fps"),
                         [(0, 8), (float("nan"), 8), ("6", 8), (True, 8), (2000, 8), (6, 0), (6, float("nan")), (6, 1000)])
def test_lengths_that_are_none(seconds: object, fps: float) -> None:
    with pytest.raises(InvalidRequest):
        frames_of(seconds, fps, None, fakes.SPEC)


def test_a_length_becomes_frames() -> None:
    assert frames_of(6, 8.0, None, fakes.SPEC) == 49
    assert frames_of(6, None, 7, fakes.SPEC) == 49
    with pytest.raises(InvalidRequest, match="seconds"):
        frames_of(1000, 60.0, None, fakes.SPEC)


def test_what_the_form_keeps_of_given_frames() -> None:
    request = GenerationRequest(prompt="x", frames=49, fps=8.0, given=((0, INPUT), (24, INPUT), (48, INPUT)), edits=((8, 3),))
    kept = known_of(request)
    assert kept["known"] == {"first": INPUT, "24": INPUT, "last": INPUT} and kept["edits"] == [[8, 3]]
    assert known_of(GenerationRequest(prompt="x")) == {}
    assert (rate_of("one clip"), rate_of("8"), rate_of(29.97)) == (None, 8.0, 29.97)
    with pytest.raises(InvalidRequest):
        rate_of("fast")


def test_an_image_put_in_is_shown_as_it_will_be_in_the_clip(studio: Studio, held: Job, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (400, 300), "red").save(tmp_path / "photo.jpg", exif=exif)
    name = studio.add_input(tmp_path / "photo.jpg", field="image")
    listed = studio.settings.job_dir(held.id) / "work" / KEYS
    rows = json.loads(listed.read_text())
    listed.write_text(json.dumps([*rows[:2], {"index": 8, "input": name}]))
    site = FastAPI()
    site.include_router(media_routes(studio))
    answer = TestClient(site).get(f"/media/keys/{held.id}/8.webp")
    spec = studio.spec(held.request["model"])
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert shown.size == (spec.native_width, spec.native_height)


def test_a_clip_comes_back_as_long_as_it_was() -> None:
    """27 frames at 8 fps are 3.25 s, of which rounds would make 25; edits of its key frames go with its length."""
    request = GenerationRequest(prompt="x", frames=27, fps=8.0, edits=((8, 3),))
    kept = known_of(request)
    values, left = lengthened({"seconds": 3.25, "fps": "8"}, kept, fakes.SPEC)
    assert values["frames"] == 27 and left == {"edits": [[8, 3]]}
    for changed in ({"seconds": 4.0, "fps": "8"}, {"seconds": 3.25, "fps": "16"}, {"seconds": 3.25, "fps": "8", "key_frames": 4}):
        values, left = lengthened(changed, kept, fakes.SPEC)
        assert values["frames"] != 27 and left == {}
    with pytest.raises(InvalidRequest):
        lengthened({"seconds": 3.25, "fps": "0"}, {"made_as": [27, 0.0, None]}, fakes.SPEC)


def test_the_timeline_and_a_clips_rounds_trust_nobody(tmp_path: Path) -> None:
    markup = timeline_html({"first": INPUT, "24": INPUT}, on=True)
    assert INPUT in markup and "Frame 24" in markup and markup.count("slot-add") == 2
    assert "<script" not in timeline_html({EVIL: EVIL, "first": EVIL}, on=True)
    clip = dataclasses.replace(FakeStudio(tmp_path).add_clip("a red ball"), frames=49)
    recipe = {"hierarchy": {"sentence": EVIL, "key_frames": 7, "key_fps": EVIL, "stride": 8, "given": [0, EVIL, -5, 48], "edited": [16],
                            "levels": [{"fps": 2, "frames": 13, "blocks": EVIL, "makes": EVIL}, EVIL, {}]}}
    shown = hierarchy_html(dataclasses.replace(clip, recipe=recipe))
    assert "<script" not in shown and shown.count("mark given") == 2 * 3 + 1 and "Round 1" in shown
    assert hierarchy_html(dataclasses.replace(clip, recipe={"hierarchy": []})) == ""


def test_pictures_in_a_strip(tmp_path: Path) -> None:
    Image.new("RGB", (96 * 7, 64)).save(tmp_path / "strip.webp")
    assert strip_count(tmp_path / "strip.webp", 1.5) == 7
    assert strip_count(tmp_path / "none.webp", 1.5) == strip_count(None, 1.5) == 0
