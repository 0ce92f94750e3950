"""Two people and a clip: published by one, watched by the other, and taken back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.history.records import Clip
from app.settings import Settings
from app.sharing import passwords
from app.sharing.access import Access
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role
from app.studio import open_studio
from tests.app.test_public_gallery import made
from tests.app.test_sharing import PASSWORD
from tests.browser.conftest import DESK, PHONE
from tests.site import Site, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Clip]]:
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "N", 1 << 10)
        for name in ("anna", "ben"):
            Users(folder / "users.json").add(name, Role.MAKER, PASSWORD)
        settings = Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0)
        with contextlib.closing(open_studio(settings)) as studio:
            clips = [made(studio, owner, prompt=words, width=256, height=160, seed=seed) for seed, (owner, words) in enumerate(
                (("user:anna", "a red ball bounces over a green meadow"), ("user:ben", "a yellow star rises slowly in the night sky")), 40)]
            studio.rename(clips[0].id, "Quarterly figures", owner="user:anna")
            studio.published.publish(clips[1].id, owner="user:ben")
            with serving(studio, Access(SharingSettings(open_gallery=True), folder)) as site:
                yield site, clips[0]


def enter(browser: Browser, site: Site, name: str, path: str, *, phone: bool = False) -> Page:
    context = browser.new_context(viewport=PHONE if phone else DESK, has_touch=phone, is_mobile=phone)
    page = context.new_page()
    page.goto(f"{site.url}{path}")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#forecast b", state="attached")
    return page


def test_published_watched_and_taken_back(chromium: Browser, shared: tuple[Site, Clip], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    site, clip = shared
    anna = enter(chromium, site, "anna", f"/?view=gallery&clip={clip.id}")
    anna.get_by_text("Publish…").click()
    expect(anna.locator(".publish")).to_contain_text("They do not see your name")
    anna.screenshot(path=pictures / "public-1-ask.png", full_page=True)
    anna.get_by_role("button", name="Publish", exact=True).click()
    expect(anna.locator(".publish.on")).to_contain_text("Published just now")
    anna.screenshot(path=pictures / "public-2-done.png", full_page=True)

    ben = enter(chromium, site, "ben", "/?view=gallery", phone=True)
    ben.get_by_role("link", name="Public", exact=True).click()
    expect(ben.locator("#view-gallery .card")).to_have_count(2)
    assert ben.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ben.locator(f"a.card[data-clip='{clip.id}']").click()
    expect(ben.locator("#view-gallery video.result")).to_have_js_property("videoWidth", 256)
    assert "Quarterly" not in ben.content() and "anna" not in ben.content()
    expect(ben.locator(".publish")).to_have_count(0)
    ben.screenshot(path=pictures / "public-4-clip-phone.png", full_page=True)
    ben.get_by_role("button", name="Remix", exact=True).click()
    expect(ben.locator("#field-prompt textarea")).to_have_value(clip.prompt)

    anna.get_by_role("button", name="Unpublish").click()
    expect(anna.get_by_text("Publish…")).to_be_visible()
    ben.goto(f"{site.url}/?view=gallery&public=1&clip={clip.id}")
    expect(ben.locator("#view-gallery")).to_contain_text("not published any more")
    assert ben.request.get(f"{site.url}/media/clips/{clip.id}.mp4").status == 404
    anna.goto(f"{site.url}/?view=gallery&public=1")
    expect(anna.locator("#view-gallery .card")).to_have_count(1)
    anna.screenshot(path=pictures / "public-6-tab.png", full_page=True)
    for page in (anna, ben):
        page.context.close()


def test_somebody_who_has_not_signed_in_looks_without_a_script(chromium: Browser, shared: tuple[Site, Clip], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    site, _clip = shared
    for phone in (False, True):
        with contextlib.closing(chromium.new_context(viewport=PHONE if phone else DESK, is_mobile=phone, has_touch=phone,
                                                     java_script_enabled=phone, color_scheme="dark" if phone else "light")) as context:
            page = context.new_page()
            page.goto(f"{site.url}/signin")
            page.get_by_role("link", name="Look at what has been published").click()
            page.screenshot(path=pictures / f"public-7-stranger{'-phone' if phone else ''}.png", full_page=True)
            page.locator("a.card").click()
            expect(page.locator(".facts")).to_contain_text("a yellow star")
            expect(page.locator("video.result")).to_have_js_property("videoWidth", 256)
            expect(page.locator("html")).to_have_js_property("scrollWidth", (PHONE if phone else DESK)["width"])
            page.screenshot(path=pictures / f"public-8-stranger-clip{'-phone' if phone else ''}.png", full_page=True)
