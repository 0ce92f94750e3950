"""The Models page in a real browser, over the real catalogue and a hub on this machine."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.hub.keeper import Keeper
from app.hub.known import KNOWN
from app.settings import Settings
from app.studio import open_studio
from engine.models.catalogue import pocket_dir
from tests.hub_server import LocalHub, Repo, local_hub, repo_of
from tests.site import Site, serving, wait_for

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=window.hacked=1>"
REPO = "me/pocket-two"


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    files = repo_of(pocket_dir()).files
    repos = {REPO: Repo(dict(files), licence=EVIL), "zai-org/CogVideoX-2b": Repo(dict(files)), "me/gated": Repo(dict(files), gated=True)}
    with local_hub(repos) as running, pytest.MonkeyPatch.context() as env:
        for name, value in running.env.items():
            env.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, hub: LocalHub) -> Iterator[Site]:
    """Pages and downloads; no worker: nothing here makes videos."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("site"), min_free_bytes=0)
    keeper = Keeper(settings)
    with contextlib.closing(open_studio(settings)) as studio, serving(studio) as running:
        keeper.start()
        try:
            yield running
        finally:
            keeper.close()


@pytest.fixture(autouse=True)
def empty_shelf(site: Site, hub: LocalHub) -> Iterator[None]:
    """Each test leaves no model, no download and no pace behind, however it ended."""
    yield
    hub.faults.bytes_per_second = 0
    for job in site.studio.jobs(active_only=True):
        site.studio.cancel(job.id)
    for known in [each for each in site.studio.hub.cards() if each.download is not None]:
        site.studio.hub.cancel(known.name)
        wait_for(lambda known=known: site.studio.hub.download(known.name).phase.ended, "the end of a download")
        site.studio.hub.discard(known.name)
    for each in site.studio.hub.cards():
        if each.folder is not None and each.origin != "embedded":
            site.studio.hub.delete(each.name)


def card(page: Page, name: str) -> object:
    return page.locator(f'.model[data-model="{name}"]')


def test_a_model_is_fetched_stopped_used_and_deleted(site: Site, hub: LocalHub, open_page: Callable[..., Page]) -> None:
    hub.faults.bytes_per_second = 2e5
    page = open_page("/models")
    page.get_by_label("Add a model").fill(REPO)
    page.keyboard.press("Enter")
    mine = card(page, REPO)
    expect(mine).to_have_attribute("data-state", "fetching")
    expect(mine.locator(".job-line")).to_contain_text("of 23 MB")
    other = open_page("/?view=models", phone=True)  # another browser sees the same
    expect(card(other, REPO)).to_have_attribute("data-state", "fetching")
    before = mine.locator(".job-line").text_content()
    expect(card(other, REPO).locator(".job-line")).not_to_have_text(before or "")
    card(other, REPO).get_by_role("button", name="Cancel").click()
    expect(mine).to_have_attribute("data-state", "stopped")
    expect(mine.locator(".job-line")).to_contain_text("kept")
    page.reload()
    expect(mine).to_have_attribute("data-state", "stopped")
    hub.faults.bytes_per_second = 0
    mine.get_by_role("button", name="Go on").click()
    expect(mine).to_have_attribute("data-state", "ready")
    expect(card(other, REPO)).to_have_attribute("data-state", "ready")
    expect(mine).to_contain_text(EVIL)  # the licence as the repository words it
    mine.get_by_role("button", name="Use it").click()
    expect(page.locator("#field-model input")).to_have_value(REPO)
    expect(page.locator("#notice")).to_contain_text(f"{REPO} is chosen")
    page.fill("#field-prompt textarea", "a red ball")
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    job = site.studio.jobs()[0]
    assert job.request["model"] == REPO
    page.get_by_role("link", name="Models", exact=True).click()
    delete(page, REPO)
    expect(page.get_by_text("needed by 1 job that runs or waits")).to_be_visible()
    site.studio.cancel(job.id)
    delete(page, REPO)
    expect(mine).to_have_count(0)
    assert not (site.studio.hub.folder / "me--pocket-two").exists() and page.evaluate("window.hacked") is None


def delete(page: Page, name: str) -> None:
    """Twice asked: the first time no, the second time yes."""
    card(page, name).get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(card(page, name)).to_have_attribute("data-state", "ready")
    card(page, name).get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete it").click()


def test_an_open_question_outlives_the_progress(site: Site, hub: LocalHub, open_page: Callable[..., Page], tmp_path: Path) -> None:
    own = tmp_path / "my own"
    shutil.copytree(pocket_dir(), own)
    hub.faults.bytes_per_second = 2e5
    page = open_page("/?view=models")
    page.get_by_label("Add a model").fill(str(own))
    page.get_by_role("button", name="Add model").click()
    expect(card(page, "my own")).to_have_attribute("data-state", "ready")
    page.get_by_title("Download: zai-org/CogVideoX-2b").click()
    there = card(page, "zai-org/CogVideoX-2b")
    expect(there).to_have_attribute("data-state", "fetching")
    card(page, "my own").get_by_role("button", name="Remove…").click()
    line = there.locator(".job-line").text_content()
    expect(there.locator(".job-line")).not_to_have_text(line or "")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Remove it").click()
    expect(card(page, "my own")).to_have_count(0)
    assert own.is_dir()
    there.get_by_role("button", name="Cancel").click()
    there.get_by_role("button", name="Throw away").click()
    expect(there).to_have_attribute("data-state", "absent")
    assert not list((site.studio.hub.folder / ".downloads").glob("zai*"))


def test_what_does_not_work_says_what_to_do(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page("/?view=models")
    add = page.get_by_label("Add a model")
    wrong = {EVIL: "owner/name", str(tmp_path / "none"): "is no folder on this machine", str(tmp_path): "model_index.json"}
    for typed, said in wrong.items():
        add.fill(typed)
        page.keyboard.press("Enter")
        expect(page.get_by_text(said).first).to_be_visible()
    for repo, said in (("me/gated", "HF_TOKEN"), ("me/no-such", "Check the spelling")):
        add.fill(repo)
        page.keyboard.press("Enter")
        expect(card(page, repo).get_by_role("alert")).to_contain_text(said)
        card(page, repo).get_by_role("button", name="Throw away").click()
        expect(card(page, repo)).to_have_count(0)
    odd = tmp_path / f"a {EVIL.replace('/', '')} b"
    shutil.copytree(pocket_dir(), odd)
    site.studio.hub.add(str(odd))
    (odd / "vae" / "config.json").write_text("{}")
    page.reload()
    expect(page.locator(".model-damaged")).to_contain_text("wrong one")
    expect(page.locator(".model-damaged .model-about")).to_have_text(str(odd))
    assert page.evaluate("window.hacked") is None


def test_offline_says_what_still_goes(open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = open_page("/?view=models")
    expect(page.locator("#view-models .banner")).to_contain_text("HF_HUB_OFFLINE is set")
    expect(card(page, "pocket").get_by_role("button", name="Use it")).to_be_visible()
    expect(page.get_by_role("button", name="Download")).to_have_count(0)


def test_the_keyboard_reaches_every_button(open_page: Callable[..., Page]) -> None:
    page = open_page("/?view=models")
    page.wait_for_selector(".model")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            const marked = s.outlineStyle !== 'none' || s.boxShadow !== 'none';
            return (marked ? '' : 'unmarked ') + (e.title || e.name || e.textContent) }"""))
    for wanted in ("Models", "model", "Make a video with pocket", *(f"Download: {known.repo}" for known in KNOWN)):
        assert wanted in reached, reached
    assert [name for name in reached if name.startswith("unmarked Download")] == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(site: Site, open_page: Callable[..., Page], dark: bool, tmp_path: Path) -> None:
    long = tmp_path / ("averylongnamewithoutanyplacetobreakit" * 3)
    shutil.copytree(pocket_dir(), long)
    site.studio.hub.add(str(long))
    page = open_page("/?view=models", phone=True, dark=dark)
    expect(page.locator(".model")).to_have_count(3 + len(KNOWN))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wait_for(lambda: page.evaluate("document.body.classList.contains('dark')") == dark, "the light")
