"""Each page's own promises, in a real browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.history.records import JobState
from app.ui.server import build_app
from tests.fakes_studio import FakeStudio
from tests.site import Site, serving

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=window.hacked=1> {{7*7}} ${7*7}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    studio = FakeStudio(tmp_path_factory.mktemp("studio"), speed=6.0)
    for number in range(26):
        studio.add_clip("a red ball bounces" if number % 2 else "a yellow star rises at night", age=number * 4000.0, favourite=number < 3)
    with serving(studio) as running:
        yield running


@pytest.fixture(autouse=True)
def quiet_studio(site: Site) -> Iterator[None]:
    """Each test starts with the same clips, without jobs and with a living worker."""
    clips = dict(site.studio._clips)
    site.studio._jobs.clear()
    site.studio.worker_alive, site.studio.blocked_reason = True, None
    yield
    with site.studio._lock:
        site.studio._jobs.clear()
        site.studio._clips = clips


def test_build_app_empties_the_upload_folders(tmp_path: Path) -> None:
    left = [tmp_path / "uploads" / "left" / "behind.mp4", tmp_path / "incoming" / ("0" * 32)]
    for old in left:
        old.parent.mkdir(parents=True)
        old.touch()
    build_app(FakeStudio(tmp_path))
    assert not any(old.exists() for old in left) and (tmp_path / "incoming").is_dir()


def test_the_queue_can_be_changed(site: Site, open_page: Callable[..., Page]) -> None:
    site.studio.worker_alive = False
    for prompt in ("first", "second", "third", EVIL):
        site.studio.submit({"prompt": prompt})
    page = open_page("/?view=queue")
    prompts = page.locator(".job-prompt")
    expect(prompts).to_have_text(["first", "second", "third", EVIL])
    expect(page.locator("#view-queue .banner")).to_contain_text("worker is starting")
    page.get_by_role("button", name="Move up: second").click()
    expect(prompts).to_have_text(["second", "first", "third", EVIL])
    page.get_by_role("button", name="Run next: third").click()
    expect(prompts).to_have_text(["third", "second", "first", EVIL])
    page.locator(".job", has_text="second").get_by_role("button", name="Duplicate").click()
    expect(prompts).to_have_count(5)
    page.locator(".job", has_text="first").get_by_role("button", name="Cancel").click()
    expect(page.locator(".job-cancelled")).to_have_count(1)
    page.locator(".job-cancelled").get_by_role("button", name="Try again").click()
    expect(page.locator(".job-cancelled")).to_have_count(0)
    page.locator(".job", has_text="third").get_by_role("button", name="Edit").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("third")
    expect(page.locator("#view-queue")).to_be_hidden()
    assert page.evaluate("window.hacked") is None


def test_queue_follows_what_happens_elsewhere(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/?view=queue")
    expect(page.locator("#view-queue")).to_contain_text("Nothing in the queue")
    site.studio.submit({"prompt": "made by another tab"})
    expect(page.locator(".job-running .job-line")).to_contain_text("step")
    expect(page.locator(".nav .count")).to_have_text("1")
    expect(page.locator(".job-done")).to_have_count(1)


def test_gallery_pages_filters_and_back(open_page: Callable[..., Page]) -> None:
    page = open_page("/gallery")
    expect(page.locator(".card")).to_have_count(24)
    page.get_by_role("link", name="Older →").click()
    expect(page.locator(".card")).to_have_count(2)
    page.reload()
    expect(page.locator(".card")).to_have_count(2)
    page.go_back()
    expect(page.locator(".card")).to_have_count(24)
    page.get_by_label("Favourites").check()
    expect(page.locator(".card")).to_have_count(3)
    page.get_by_role("searchbox").fill("star")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".card")).to_have_count(2)
    page.reload()
    expect(page.locator(".card")).to_have_count(2)
    page.get_by_role("searchbox").fill("no such clip")
    page.keyboard.press("Enter")
    expect(page.locator("#view-gallery")).to_contain_text("No clip matches")


def test_a_clip_is_renamed_starred_trashed_and_put_back(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a pink heart")
    page = open_page(f"/?view=gallery&clip={clip.id}")
    page.locator(".rename summary").click()
    page.get_by_label("Name of this clip").fill(EVIL)
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".clip-name")).to_have_text(EVIL)
    page.get_by_role("button", name="☆ Favourite").click()
    expect(page.get_by_role("button", name="★ Favourite")).to_be_visible()
    page.locator(".recipe summary").click()
    expect(page.locator(".recipe pre")).to_contain_text('"prompt": "a pink heart"')
    page.get_by_role("button", name="Move to trash").click()
    page.get_by_role("button", name="Put back").click()
    expect(page.get_by_role("button", name="Remix")).to_be_visible()
    assert site.studio.clip(clip.id, owner="local").trashed_at is None
    page.get_by_role("button", name="Restore settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a pink heart")
    assert page.evaluate("window.hacked") is None


def test_same_but_new_seed_keeps_the_family(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a green square")
    page = open_page(f"/?view=gallery&clip={clip.id}")
    page.get_by_role("button", name="Same but new seed").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    job = site.studio.jobs(owner="local")[0]
    assert job.made_from == clip.id and job.request["prompt"] == "a green square"


def test_projects_are_made_switched_and_renamed(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.locator(".menu summary").click()
    page.get_by_label("Name of a new project").fill("Holidays")
    page.get_by_role("button", name="Make").click()
    expect(page.locator(".menu-name")).to_have_text("Holidays")
    page.reload()
    expect(page.locator(".menu-name")).to_have_text("Holidays")  # the browser remembers
    page.locator(".menu summary").click()
    page.get_by_label("New name of this project").fill("Summer")
    page.locator(".menu").get_by_role("button", name="Rename").click()
    expect(page.locator(".menu-name")).to_have_text("Summer")
    page.fill("#field-prompt textarea", "a ball")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    assert site.studio.jobs(owner="local")[0].project_id != "p1"
    page.locator(".menu summary").click()
    page.locator(".pick", has_text="My videos").click()
    expect(page.locator(".menu-name")).to_have_text("My videos")


def test_a_bad_setting_is_named_with_its_way_out(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Prompt: is empty")
    page.fill("#field-prompt textarea", "a ball")
    page.get_by_label("number input for Frames").fill("26")
    page.keyboard.press("Tab")
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Frames: is 26")
    page.get_by_role("button", name="Use 25").click()
    expect(page.get_by_label("number input for Frames")).to_have_value("25")
    page.fill("#field-seed textarea, #field-seed input", "9223372036854775808")
    page.locator("#generate").click()
    expect(page.get_by_role("alert")).to_contain_text("2^63 - 1")
    assert site.studio.jobs(owner="local") == ()


def test_failed_and_blocked_say_why(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.fill("#field-prompt textarea", "this one fails")
    page.locator("#generate").click()
    expect(page.locator("#stage")).to_contain_text("All frames were equal")
    site.studio.speed = 0.2  # or it has failed again before a busy machine has looked
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#stage .stage")).to_have_attribute("data-state", "running")
    site.studio.speed = 6.0
    job = site.studio.submit({"prompt": "waits for the disk"})
    site.studio.blocked_reason = "The disk is full: 0 MB free."
    site.studio._jobs[job.id] = dataclasses.replace(site.studio._jobs[job.id], state=JobState.BLOCKED)
    page.goto(f"{site.url}/?job={job.id}")
    expect(page.locator("#stage")).to_contain_text("Waiting for disk space")
    expect(page.locator("#header .banner")).to_contain_text("The disk is full")


def test_a_foreign_job_in_the_address_shows_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page(f"/?job={'f' * 32}")
    expect(page.locator("#stage")).to_contain_text("That job is not here")


def test_nothing_moves_while_progress_updates(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    site.studio.speed = 1.0
    page.fill("#field-prompt textarea", "a ball")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#stage .reel img")
    boxes = set()
    while page.get_attribute("#stage .stage", "data-state") == "running":
        found = [
            page.evaluate("s => { const e = document.querySelector(s); return e && JSON.stringify(e.getBoundingClientRect()) }", selector)
            for selector in ("#stage .screen", "#stage .film", "#stage .actions", "#generate")
        ]
        if page.get_attribute("#stage .stage", "data-state") == "running":
            boxes.add(tuple(found))
        page.wait_for_timeout(100)
    site.studio.speed = 6.0
    assert len(boxes) == 1


def test_the_keyboard_reaches_everything(open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.evaluate("document.activeElement.blur()")
    names, unlabelled = [], []
    for _ in range(75):
        page.keyboard.press("Tab")
        name, visible = page.evaluate("""() => {
            const e = document.activeElement, s = getComputedStyle(e);
            const label = e.labels && e.labels[0] && e.labels[0].textContent;
            const name = e.getAttribute('aria-label') || label || e.textContent || e.placeholder;
            return [(name || '').trim() || e.outerHTML.slice(0, 120), s.outlineStyle !== 'none' || s.boxShadow !== 'none'];
        }""")
        names.append(name)
        if not visible and page.evaluate("document.activeElement !== document.body"):
            unlabelled.append(name)
    everything = " | ".join(names)
    for wanted in (
        "Skip to the page",
        "Create",
        "Queue",
        "Gallery",
        "Light or dark",
        "What should the video show?",
        "bouncing ball",
        "Generate",
        "Seed",
        "Roll dice",
        "More settings",
        "Restore settings",
    ):
        assert wanted in everything, everything
    assert unlabelled == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("path", ["/", "/?view=queue", "/?view=gallery"])
def test_a_phone_needs_no_sideways_scrolling(site: Site, open_page: Callable[..., Page], path: str, dark: bool) -> None:
    site.studio.submit({"prompt": "averyveryverylongwordwithoutanyplacetobreakit" * 3})
    page = open_page(path, phone=True, dark=dark)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.classList.contains('dark')") == dark


def test_light_and_dark_are_remembered(open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_function("document.body.classList.contains('dark')")


def test_the_dice_rolls_a_seed_a_browser_can_hold(open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.get_by_role("button", name="Roll dice").click()
    page.wait_for_function("() => /^[0-9]+$/.test(document.querySelector('#field-seed input, #field-seed textarea').value)")
