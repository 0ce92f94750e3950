"""A walk through all pages with a clip of the real engine, while every connection that leaves the machine is refused and noted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route

from app.settings import Settings
from tests.app.test_no_call_home import ROOT, answers, environment
from tests.site import wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def refuse(route: Route, asked: list[str]) -> None:
    asked.append(route.request.url)
    route.abort()


def test_a_walk_with_the_real_engine_calls_nobody(chromium: Browser, tmp_path: Path) -> None:
    notes, asked = tmp_path / "notes", list[str]()
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    server = subprocess.Popen(command, cwd=ROOT, env=environment(notes) | {"SPROCKET_ENGINE": Settings().engine}, stderr=subprocess.PIPE,
                              text=True)
    try:
        assert server.stderr is not None
        url = "http://" + next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
        wait_for(lambda: answers(url), "the site to answer", 120)
        with chromium.new_context() as context:
            page = context.new_page()
            page.set_default_timeout(90_000)
            context.route(lambda there: not there.startswith((url, "data:", "blob:")), lambda route: refuse(route, asked))
            page.goto(url)
            page.fill("#field-prompt textarea", "a red ball bounces over a green meadow")
            for name, value in (("frames", 9), ("steps", 2)):  # the engine and all that it asks for, in short
                page.fill(f"#field-{name} input[type=number]", str(value))
            page.keyboard.press("Control+Enter")
            page.wait_for_function("document.querySelector('#stage .stage')?.dataset.state === 'done'", timeout=120_000)
            for view in ("gallery", "queue", "train", "models"):
                page.click(f"#header a[data-page='{view}']")
                page.wait_for_selector(f"html[data-view='{view}']")
                page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert len(list((tmp_path / "data" / "media").rglob("*.mp4"))) == 1
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert asked == []
    assert not notes.exists(), notes.read_text()
