"""Texts and calls that break naive studios: kept as they are and shown as text, or refused in words, with a server that goes on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import NotAllowed
from app.history.records import Job, JobState
from app.studio import Studio
from app.ui.address import Address
from app.ui.html.gallery import clip_html
from app.ui.html.queue import queue_html
from app.ui.html.status import stage_html
from engine.request import GenerationRequest
from tests.fakes_studio import FakeStudio
from tests.site import Site, serving

ODD = {
    "right to left": "a red ball \u202ellab der a",
    "many marks": "a" + "\u0301" * 1500,
    "joined emoji": "\U0001F469\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466",
    "markup": "<script>window.hacked=1</script><img src=x onerror=alert(1)>",
    "template": "{{constructor.constructor('alert(1)')()}} ${7*7} {% include '/etc/passwd' %}",
    "remote picture": "![](http://evil.example/?c=1) [x](javascript:alert(1))",
    "log line": "a ball\n2026-01-01 00:00:00 ERROR all is lost\r\n\tat nowhere",
    "sql": "'); DROP TABLE jobs; -- %_\\",
    "wildcards": "__../../etc/passwd__ {a|{b|{c|" * 40,
    "brackets": "(" * 1900,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_words_are_words(text: str, studio: Studio, work_once: Callable[[], Job | None]) -> None:
    submitted = studio.submit({"prompt": text, "negative": text})
    waiting = queue_html(studio.jobs(), worker_alive=True) + stage_html(submitted)
    job = work_once()
    assert job is not None and job.state is JobState.DONE and job.clip_id is not None
    clip = studio.clip(job.clip_id)
    assert studio.request_from_file(studio.clip_path(clip.id)).prompt == GenerationRequest(prompt=text).prompt  # through the mp4
    page = waiting + clip_html(clip, (), (), "", Address(view="gallery", clip=clip.id)) + stage_html(job, clip)
    for live in ("<script>window", "<img src=x", "javascript:alert(1)\"", "src=\"http://evil"):
        assert live not in page
    log = studio.log_text(job.id)
    assert not any(line.startswith("2026-01-01 00:00:00 ERROR") for line in log.splitlines())
    assert (studio.settings.db_path).is_file() and len(studio.jobs()) == 1


def test_a_crowd_that_submits_at_once(studio: Studio) -> None:
    """The limit holds exactly, and the same key makes one job however many ask."""
    def submit(number: int) -> str | None:
        try:
            return studio.submit({"prompt": f"ball {number}"}).id
        except NotAllowed:
            return None

    with ThreadPoolExecutor(16) as crowd:
        same = set(crowd.map(lambda _: studio.submit({"prompt": "one"}, idempotency_key="k").id, range(16)))
        made = [job for job in crowd.map(submit, range(100)) if job]
    assert len(same) == 1
    assert len(made) == len(set(made)) == studio.settings.max_waiting - 1
    assert len(studio.jobs(active_only=True)) == studio.settings.max_waiting


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(FakeStudio(tmp_path_factory.mktemp("studio"))) as running:
        yield running


BODIES = {
    "nested": b'{"data": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "nested prompt": b'{"data": [' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"]}",
    "no json": b"\xff\xfe{{{",
    "no object": b"[1, 2, 3]",
    "huge number": b'{"data": ["a", "", "pocket", ' + b"9" * 5_000 + b"]}",
    "a million letters": json.dumps({"data": ["a" * 1_000_000]}).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_none_leave_the_server_running(body: bytes, site: Site, tmp_path: Path) -> None:
    call = urllib.request.Request(f"{site.url}/gradio_api/call/submit", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=30) as answer:  # taken, and refused by the event it names
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{site.url}/gradio_api/call/submit/{event}", timeout=30) as stream:
            assert b"event: error" in stream.read()
    except urllib.error.HTTPError as error:
        assert 400 <= error.code < 600
    assert site.studio.jobs(owner="local") == ()
    with urllib.request.urlopen(f"{site.url}/healthz", timeout=30) as health:
        assert json.load(health)["ok"]
