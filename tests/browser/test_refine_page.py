"""Refine on the Create page: read, edit, take back, generate, restore; a slow chat server that streams; one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.settings import Settings
from tests.browser.test_walk import drop, wait_state
from tests.chat_server import ChatServer, chatting, saying
from tests.site import Site, supervised_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
WISH = "ball goes up fast, beach"
GOOD = "A red ball bounces over a green meadow in bright daylight. The grass sways gently."


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with chatting(saying(GOOD)) as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chat: ChatServer) -> Iterator[Site]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("site"), engine="tests.fakes:FakeEngine", min_free_bytes=0, preview_seconds=0.0,
                        refiner_url=chat.url, refiner_model="tiny", refiner_key="sk-page", refiner_seconds=60.0)
    with supervised_site(settings) as running:
        yield running


def prompt(page: Page):
    return page.locator("#field-prompt textarea")


def panel(page: Page, state: str):
    return page.locator(f'.refine[data-state="{state}"]')


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_refine_edit_undo_generate_restore(site: Site, open_page: Callable[..., Page], chat: ChatServer, tmp_path: Path) -> None:
    page = open_page("/")
    prompt(page).fill(WISH)
    press(page, "Refine")
    expect(panel(page, "done")).to_be_visible()
    refined = prompt(page).input_value()
    assert "rises quickly over the sea" in refined
    expect(page.locator(".refine del").first).to_be_visible()
    expect(page.locator(".refine ins").first).to_be_visible()
    expect(page.locator(".refine-notes")).to_contain_text("chosen for you: the colour")

    press(page, "Undo")
    expect(panel(page, "idle")).to_be_visible()
    expect(prompt(page)).to_have_value(WISH)

    press(page, "Refine")
    expect(panel(page, "done")).to_be_visible()
    press(page, "Another version")
    expect(prompt(page)).not_to_have_value(refined)
    press(page, "3 versions")
    expect(page.locator(".refine-versions li")).to_have_count(3)
    page.get_by_role("button", name="Use this").nth(1).click()
    expect(panel(page, "done")).to_be_visible()
    edited = prompt(page).input_value() + " at noon"
    prompt(page).fill(edited)
    page.locator("#generate").click()
    wait_state(page, "done")
    expect(page.locator("#stage .caption-title")).to_have_text(edited)
    clip = site.studio.clips().clips[0]
    request = clip.recipe["request"]
    assert (request["prompt"], request["wish"], request["refiner"]) == (edited, WISH, "pocket")

    fresh = open_page("/?view=create")
    drop(fresh, site.studio.clip_path(clip.id))
    expect(fresh.locator("#notice")).to_contain_text("Settings restored")
    expect(prompt(fresh)).to_have_value(edited)
    expect(panel(fresh, "done")).to_contain_text("goes up fast")
    assert chat.heard == [], "restoring asks nobody"


def test_always_refine_and_other_words_have_no_wish(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/?view=create")
    page.get_by_label("Always refine").check()
    prompt(page).fill("hart getting huge, snow")
    page.locator("#generate").click()
    wait_state(page, "done")
    request = site.studio.clips().clips[0].recipe["request"]
    assert request["wish"] == "hart getting huge, snow" and "heart" in request["prompt"] == prompt(page).input_value()
    page.get_by_label("Always refine").uncheck()
    prompt(page).fill("zebra crossing in London, watercolour")
    before = page.get_attribute("#stage .stage", "data-job")
    page.locator("#generate").click()
    page.wait_for_function("before => document.querySelector('#stage .stage').dataset.job !== before", arg=before)
    wait_state(page, "done")
    request = site.studio.clips().clips[0].recipe["request"]
    assert request["prompt"].startswith("zebra") and request["wish"] is None and request["refiner"] is None


def streaming(open_page: Callable[..., Page], chat: ChatServer) -> Page:
    """A page on which an answer has begun to arrive, slowly."""
    chat.pause = 0.5
    page = open_page("/?view=create")
    prompt(page).fill("red ball meadow")
    press(page, "Chat server")
    press(page, "Refine")
    expect(page.locator(".refine-stream")).to_contain_text("A red")
    return page


def test_a_slow_server_streams_and_the_page_stays_alive(site: Site, open_page: Callable[..., Page], chat: ChatServer) -> None:
    page = streaming(open_page, chat)
    assert len(page.locator(".refine-stream").inner_text()) < len(GOOD)
    begun = time.monotonic()
    page.get_by_role("link", name="Gallery", exact=True).click()
    expect(page.locator("#view-gallery .card").first).to_be_visible()
    print(f"gallery after {time.monotonic() - begun:.2f} s while an answer streams")
    page.get_by_role("link", name="Create", exact=True).click()
    expect(panel(page, "done")).to_be_visible()
    expect(prompt(page)).to_have_value(GOOD)
    chat.pause = 0.0


def test_words_typed_while_it_works_are_not_painted_over(site: Site, open_page: Callable[..., Page], chat: ChatServer) -> None:
    page = streaming(open_page, chat)
    prompt(page).fill("red ball meadow, at dusk")
    expect(panel(page, "choose")).to_contain_text(GOOD)
    expect(prompt(page)).to_have_value("red ball meadow, at dusk")
    press(page, "Keep my words")
    expect(panel(page, "idle")).to_be_visible()
    expect(prompt(page)).to_have_value("red ball meadow, at dusk")
    chat.pause = 0.0


@pytest.mark.parametrize("phone", [False, True])
def test_a_server_that_fails_is_said_and_the_clip_may_be_made_all_the_same(site: Site, open_page: Callable[..., Page], chat: ChatServer,
                                                                          phone: bool) -> None:
    chat.fault = "429"
    page = open_page("/?view=create", phone=phone)
    prompt(page).fill("a red ball on the <b>meadow</b>")
    press(page, "Chat server")
    press(page, "Refine")
    expect(panel(page, "failed")).to_contain_text("too many requests")
    press(page, "Dismiss")
    page.get_by_label("Always refine").check()
    page.locator("#generate").click()
    expect(panel(page, "failed")).to_be_visible()
    press(page, "Generate with my words")
    wait_state(page, "done")
    request = site.studio.clips().clips[0].recipe["request"]
    assert request["prompt"] == "a red ball on the <b>meadow</b>" and request["wish"] is None
    chat.fault = ""
    assert "sk-page" not in page.content()


def test_another_language_is_said(open_page: Callable[..., Page], chat: ChatServer) -> None:
    chat.fault, chat.pause = "", 0.0
    page = open_page("/?view=create")
    prompt(page).fill("一个红色的球在草地上跳")
    press(page, "Chat server")
    press(page, "Refine")
    expect(page.locator(".refine-language")).to_contain_text("You wrote in Chinese")
    expect(prompt(page)).to_have_value(GOOD)
