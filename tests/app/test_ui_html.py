"""What the pages say, as pure functions: every state has its words, and no text from outside becomes markup."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.history.records import ClipPage, ClipQuery, Forecast, Job, JobState, Project
from app.stills import LONGEST, chosen
from app.ui.address import Address
from app.ui.html import common
from app.ui.html.frame import header_html
from app.ui.html.gallery import clip_html, gallery_html
from app.ui.html.queue import queue_html, queue_token
from app.ui.html.signin import STYLE
from app.ui.html.status import forecast_html, notice_html, problem_html, progress, stage_html
from tests.fakes_studio import FakeStudio

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{constructor}}${7*7}"
VOID = {"img", "input", "br", "meta", "link"}


class Tags(HTMLParser):
    """Collects tags and attributes, and fails on a tag that is not closed in order."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def job(**changes) -> Job:
    base = Job(
        id="a" * 32,
        owner="local",
        project_id="p",
        kind="generate",
        state=JobState.QUEUED,
        rank=1.0,
        attempt=1,
        max_attempts=3,
        stage=None,
        step=0,
        request={"prompt": "a red ball", "width": 192, "height": 128, "frames": 25, "steps": 12, "seed": 7, "model": "pocket"},
        steps=0,
        eta_seconds=None,
        progress_at=None,
        resumed_from=None,
        status_seq=1,
        preview_seq=0,
        error_code=None,
        error=None,
        notes=(),
        clip_id=None,
        made_from=None,
        created_at=0.0,
        started_at=None,
        finished_at=None,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def clip(tmp_path: Path):
    made = FakeStudio(tmp_path).add_clip("a red ball")
    return dataclasses.replace(made, name=EVIL, prompt=EVIL, recipe={**made.recipe, "request": {**made.recipe["request"], "prompt": EVIL}})


def assert_harmless(markup: str) -> None:
    tags = Tags(markup)
    assert "script" not in tags.tags
    assert [name for name, _ in tags.attributes if name.startswith("on")] == []
    assert [value for name, value in tags.attributes if name == "src" and not (value or "").startswith("/media/")] == []


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_screen_of_the_same_shape(state: JobState, clip) -> None:
    markup = stage_html(job(state=state, request={**job().request, "prompt": EVIL}, error=EVIL), clip if state is JobState.DONE else None)
    assert_harmless(markup)
    for part in ("screen", "film", "caption", "actions"):
        assert f'class="{part}"' in markup


def test_the_film_of_a_finished_clip_shows_its_frames(clip) -> None:
    done = job(state=JobState.DONE, clip_id=clip.id)
    assert stage_html(done, clip).count(f'<img src="/media/stills/{clip.id}.webp" alt="">') == len(chosen(clip.frames))
    assert "/media/stills/" not in stage_html(dataclasses.replace(done, state=JobState.FAILED, clip_id=None))
    assert "/media/stills/" not in stage_html(done, dataclasses.replace(clip, frames=LONGEST + 1))


def test_the_sign_in_page_has_every_colour_by_night() -> None:
    night = STYLE[STYLE.index("{") : STYLE.index("}}")]
    used = set(re.findall(r"var\((--sp-[a-z-]+)", STYLE)) | {"--sp-bad-soft"}  # of the refusal, in the studio's own style sheet
    assert {name for name in used if f"{name}:" not in night} == set()


def test_running_says_stage_step_and_time_left() -> None:
    markup = stage_html(job(state=JobState.RUNNING, stage="sample", step=5, steps=12, eta_seconds=42.0, preview_seq=3), preview_frames=7)
    for words in ("Imagining the video", "step 5 of 12", "about 45 s left", 'data-act="cancel"', "--n:7", "/media/previews/"):
        assert words in markup


def test_done_plays_in_place_with_its_buttons(clip) -> None:
    markup = stage_html(job(state=JobState.DONE, clip_id=clip.id), clip)
    for words in ("<video", f"/media/clips/{clip.id}.mp4", 'data-act="remix"', 'data-act="again"', "Download"):
        assert words in markup


def test_blocked_says_why() -> None:
    assert "The disk is full." in stage_html(job(state=JobState.BLOCKED), blocked="The disk is full.")


def test_idle_says_what_to_do() -> None:
    assert "press Generate" in stage_html(None)


@given(st.sampled_from(["load", "encode", "sample", "decode", "verify"]), st.integers(0, 300), st.integers(0, 200))
def test_progress_stays_between_0_and_1(stage: str, step: int, steps: int) -> None:
    assert 0 <= progress(job(state=JobState.RUNNING, stage=stage, step=step, steps=steps)) <= 1


def test_forecast_and_problem_are_escaped() -> None:
    assert_harmless(forecast_html(Forecast(12.0, 5 * 2**20, EVIL, (EVIL,), 2), seconds_of_video=3.1))
    assert_harmless(problem_html(EVIL, field="frames", suggestion=25))
    assert_harmless(notice_html(EVIL, act="unremix", label="Dismiss"))
    assert 'data-value="25"' in problem_html("frames: is 26", field="frames", suggestion=25)


def test_queue_shows_running_waiting_and_ended_with_their_buttons() -> None:
    jobs = [
        job(id="1" * 32, state=JobState.RUNNING, stage="sample", step=1, steps=4),
        job(id="2" * 32),
        job(id="3" * 32, request={"prompt": EVIL}),
        job(id="4" * 32, state=JobState.FAILED, error=EVIL, finished_at=0.0),
    ]
    markup = queue_html(jobs)
    assert_harmless(markup)
    for act in ("cancel", "move", "take_back", "duplicate", "retry"):
        assert f'data-act="{act}"' in markup
    assert "Waiting (2)" in markup
    assert queue_token(jobs, True) != queue_token(jobs[1:], True)


def test_empty_places_say_what_to_do() -> None:
    at = Address(view="gallery")
    nothing = ClipPage((), 1, 1, 0)
    assert "Create a video" in queue_html([])
    assert "Create a video" in gallery_html(nothing, at, (), ())
    assert "Take a word away" in gallery_html(nothing, Address(view="gallery", words="zebra"), (), ())
    assert "trash is empty" in gallery_html(nothing, Address(view="gallery", trash=True), (), ())


def test_gallery_clip_and_header_are_escaped(clip) -> None:
    at = Address(view="gallery", words=EVIL)
    projects = (Project("p1", EVIL, 0.0),)
    assert_harmless(gallery_html(ClipPage((clip,), 2, 3, 60), at, projects, (EVIL,)))
    assert_harmless(clip_html(clip, (clip,), (clip,), EVIL, at))
    assert_harmless(header_html(at, projects, "p1", busy=3, blocked=EVIL, message=EVIL))


@settings(max_examples=200)
@given(
    st.builds(
        Address,
        view=st.sampled_from(["create", "queue", "gallery"]),
        words=st.text(max_size=60).filter(lambda t: t.isprintable()),
        clip=st.text("0123456789abcdef", max_size=32),
        favourites=st.booleans(),
        trash=st.booleans(),
        sheet=st.integers(1, 999),
    )
)
def test_an_address_survives_its_link(at: Address) -> None:
    assert Address.parse(at.href()) == at


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=300), st.integers(), st.none(), st.text("?&=%/.:[]", max_size=50)))
def test_no_address_breaks_the_page(text: object) -> None:
    at = Address.parse(text)
    assert at.view in ("create", "queue", "gallery") and at.sheet >= 1


def test_address_to_query() -> None:
    at = Address.parse("/?view=gallery&words=red+ball&model=pocket&favourites=1&sheet=2")
    assert at.query() == ClipQuery(words="red ball", model="pocket", favourites_only=True, page=2)
    assert Address.parse("/?sheet=99999999999").sheet == 1


@pytest.mark.parametrize(("said", "kept"), [("a\ud800b", "a?b"), ("a\0b", "ab"), ("a%00b", "ab")])
def test_what_no_link_or_database_can_hold_is_not_kept(said: str, kept: str) -> None:
    at = Address.parse(f"/?view=gallery&words={said}&model={said}")
    assert (at.words, at.model, Address.parse(at.href())) == (kept, kept, at)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.44, "0.4 s"),
        (9.99, "10 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (None, "?"),
        (float("nan"), "?"),
        (float("inf"), "?"),
        (-1, "0.0 s"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert common.duration(seconds) == words


@pytest.mark.parametrize(
    ("passed", "words"), [(3, "just now"), (125, "2 min ago"), (7300, "2 h ago"), (90_000, "yesterday"), (260_000, "3 days ago")]
)
def test_ago(passed: float, words: str) -> None:
    assert common.ago(1_000_000.0, 1_000_000.0 + passed) == words
