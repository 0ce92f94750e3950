"""A real Chromium, and a site for it to look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.site import KEPT_PORT, Site, whole_site

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=40_000)  # tests share their cores
    with sync_playwright() as playwright:
        path = next((found for found in map(shutil.which, NAMES) if found), None) or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium on this machine; `make test` installs one")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def port() -> list[int]:
    return [0]


@pytest.fixture(scope="module", autouse=True)
def one_address(port: list[int]) -> Iterator[None]:
    """Sites follow each other on one port: to the browser they are one, and what it has of gradio's scripts, fetched and compiled, it
    need not fetch and compile anew for every module."""
    KEPT_PORT[:] = port
    yield
    port[:] = KEPT_PORT
    KEPT_PORT.clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_site(tmp_path_factory.mktemp("site"), step_seconds=0.25) as running:
        yield running


@pytest.fixture(scope="session")
def contexts(chromium: Browser) -> Iterator[dict[tuple[bool, bool], BrowserContext]]:
    """One per kind of visitor: what a browser has cached stays, which is most of the time of opening a page."""
    made: dict[tuple[bool, bool], BrowserContext] = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def open_page(chromium: Browser, site: Site, contexts: dict[tuple[bool, bool], BrowserContext]) -> Iterator[Callable[..., Page]]:
    """`open_page('/?view=queue', phone=True)`. Fails the test when a page had an error or asked another host for anything."""
    pages: list[Page] = []
    faults: list[str] = []

    def open_one(path: str = "/", *, phone: bool = False, dark: bool = False) -> Page:
        if (phone, dark) not in contexts:
            contexts[phone, dark] = chromium.new_context(
                viewport=PHONE if phone else DESK, has_touch=phone, is_mobile=phone, color_scheme="dark" if dark else "light"
            )
        page = contexts[phone, dark].new_page()
        pages.append(page)
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith((site.url, "data:", "blob:")) else faults.append(request.url))
        page.goto(site.url + path)
        page.wait_for_selector("#forecast b", state="attached")
        return page

    yield open_one
    for page in pages:
        if not page.is_closed():
            page.evaluate("localStorage.clear()")
            page.close()
    for context in contexts.values():
        context.clear_cookies()
    assert faults == []
