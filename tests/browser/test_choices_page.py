"""What the planner can choose from, in a real browser: the three words with their cost, every way, and what lossy options cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.fakes_studio import FakeStudio
from tests.site import Site, serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(FakeStudio(tmp_path_factory.mktemp("studio"), speed=20.0)) as running:
        yield running


def megabytes(text: str) -> float:
    found = re.search(r"(\d+(?:\.\d+)?) (MB|GB)", text)
    assert found, text
    return float(found[1]) * (1000 if found[2] == "GB" else 1)


def test_the_words_say_what_they_take(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    words = page.locator("#words li")
    expect(words).to_have_count(3)
    fast, balanced, tiny = (megabytes(text) for text in words.all_inner_texts())
    assert fast >= balanced >= tiny
    expect(page.locator("#words [aria-current] b")).to_have_text("Fast")
    page.locator("#words").get_by_role("button", name=re.compile("Tiny")).click()
    expect(page.get_by_role("radio", name="Tiny")).to_be_checked()
    expect(page.locator("#words [aria-current] b").last).to_have_text("Tiny")
    short = words.first.text_content() or ""
    page.get_by_label("number input for Frames").fill("49")
    page.keyboard.press("Tab")
    expect(words.first).not_to_have_text(short)  # the cost of the longer clip
    page.fill("#field-prompt textarea", "a ball")
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    assert site.studio.jobs(owner="local")[0].request["profile"] == "tiny"


@pytest.mark.parametrize("phone", [False, True])
def test_every_choice_is_in_a_fold(site: Site, open_page: Callable[..., Page], phone: bool) -> None:
    page = open_page("/", phone=phone)
    page.get_by_text("Every choice, with its cost").click()
    table = page.get_by_role("region", name="Every way to make it")
    expect(table).to_be_visible()
    expect(page.locator("#choices")).to_contain_text("25 frames of 192 × 128 with pocket")
    for words in ("Lossless", "Near-lossless", "decoded whole", "INT8", "chosen", "not allowed by Quality"):
        expect(table).to_contain_text(words)
    page.get_by_label("number input for Frames").fill("17")
    page.keyboard.press("Tab")
    expect(page.locator("#choices")).to_contain_text("17 frames of 192 × 128")  # by itself, once things have come to rest
    expect(table).to_be_visible()
    page.get_by_text("What lossy options cost in quality").click()
    for words in ("TaylorSeer", "less arithmetic", "Transformer in INT8", "Decoding in tiles", "dB"):
        expect(page.get_by_role("region", name="Quality of lossy options")).to_contain_text(words)
    assert page.evaluate("document.documentElement.scrollWidth") <= (390 if phone else 1440)


def test_quality_and_precision_are_asked_for(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.locator("#more > button").click()
    page.get_by_role("radio", name="INT8", exact=True).check()
    page.locator("#field-quality").get_by_label("Near lossless").check()
    page.get_by_text("Every choice, with its cost").click()
    table = page.get_by_role("region", name="Every way to make it")
    expect(table.locator("tr[aria-current]")).to_contain_text("INT8")
    page.fill("#field-prompt textarea", "a ball")
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    asked = site.studio.jobs(owner="local")[0].request
    assert (asked["precision"], asked["quality"]) == ("int8", "near-lossless")
    page.reload()
    page.locator("#more > button").click()
    expect(page.get_by_role("radio", name="INT8", exact=True)).to_be_checked()
