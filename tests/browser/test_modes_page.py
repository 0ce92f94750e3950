"""An image, a video or a frame of a clip to start from, and several videos at once, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from app.settings import Settings
from tests.browser.test_slow import LATE_MS, Held
from tests.browser.test_walk import drop
from tests.fakes_studio import SPEC, STILL, FakeStudio
from tests.fakes_video import picture
from tests.site import Site, serving, supervised_site

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    studio = FakeStudio(tmp_path_factory.mktemp("studio"), speed=20.0)
    with serving(studio) as running:
        yield running


@pytest.fixture(autouse=True)
def quiet_studio(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without jobs, and with the model for words only."""
    if "real" not in request.fixturenames:
        studio = request.getfixturevalue("site").studio
        studio._jobs.clear()
        studio.specs, studio.speed = (SPEC,), 20.0
    yield


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture("a pink heart over the sea", 0.4, 300, 400).save(tmp_path / "heart.png")
    return tmp_path / "heart.png"


def source(page: Page, mode: str) -> None:
    page.locator(f"#source [data-mode={mode}]").first.click()
    expect(page.locator("#source .source")).to_have_attribute("data-start", mode)


def shown(page: Page) -> str:
    """The picture in the panel, once it is there."""
    page.wait_for_function("() => { const i = document.querySelector('#source .fitted img'); return i && i.complete && i.naturalWidth }")
    return page.get_attribute("#source .fitted img", "src") or ""


def test_a_video_is_changed(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a red ball bounces")
    page = open_page("/")
    expect(page.locator("#source [data-mode=i2v]")).to_be_disabled()
    expect(page.locator("#field-strength")).to_be_hidden()
    source(page, "v2v")
    expect(page.locator("#forecast")).to_contain_text("Choose the video to start from")
    page.fill("#field-prompt textarea", "a blue ball bounces")
    page.locator("#generate").click()
    expect(page.locator("#forecast")).to_contain_text("Choose the video to start from")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Drop a video here").click()
    chooser.value.set_files(site.studio.clip_path(clip.id, owner="local"))
    assert "fit=crop" in shown(page)
    expect(page.locator("#source")).to_contain_text("9 of 12 steps are run on it")
    page.get_by_label("number input for Strength").fill("0.5")
    page.keyboard.press("Tab")
    expect(page.locator("#source")).to_contain_text("6 of 12 steps are run on it")
    page.get_by_label("Pad with bars").check()
    expect(page.locator("#source .fitted img")).to_have_attribute("src", re.compile("fit=pad"))
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    asked = site.studio.jobs(owner="local")[0].request
    assert (asked["video"].endswith(".mp4"), asked["strength"], asked["fit"], asked["prompt"]) == (True, 0.5, "pad", "a blue ball bounces")
    page.reload()  # the form comes back with its video
    assert asked["video"] in shown(page)
    expect(page.get_by_label("number input for Strength")).to_have_value("0.5")
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("button", name="Drop a video here")).to_be_visible()
    source(page, "t2v")
    page.locator("#generate").click()
    page.wait_for_selector(f"#stage .stage:not([data-job='{site.studio.jobs(owner='local')[-1].id}'])")
    assert {job.request["video"] for job in site.studio.jobs(owner="local")} == {asked["video"], None}


def test_a_dropped_picture_finds_its_model(site: Site, open_page: Callable[..., Page], photo: Path) -> None:
    page = open_page("/")
    drop(page, photo)
    expect(page.get_by_role("alert")).to_contain_text("No model on this machine starts from an image")
    expect(page.get_by_role("link", name="Models for images")).to_be_visible()
    site.studio.specs = (SPEC, STILL)
    page.reload()
    page.wait_for_selector("#forecast b")
    drop(page, photo)
    shown(page)
    expect(page.locator("#field-model input")).to_have_value("still")
    expect(page.locator("#source")).to_contain_text("50% cut off above and below")
    expect(page.locator("#source [data-mode=t2v]").first).to_be_disabled()
    page.fill("#field-prompt textarea", "it floats away")
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    asked = site.studio.jobs(owner="local")[0].request
    assert asked["model"] == "still" and asked["image"].endswith(".png")
    page.get_by_role("button", name="Use pocket for words").click()
    expect(page.locator("#field-model input")).to_have_value("pocket")
    expect(page.locator("#source .source")).to_have_attribute("data-start", "t2v")


def test_refused_files_say_why_and_the_page_goes_on(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page("/")
    source(page, "v2v")
    for name, data, says in (
        ("clip.mp4", b"#EXTM3U\nhttp://127.0.0.1:9/x.ts", "playlist"),
        ("photo.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>window.hacked=1</script></svg>", "SVG drawing"),
        (EVIL.replace("/", "") + ".mp4", b"", "empty"),
    ):
        (tmp_path / name).write_bytes(data)
        drop(page, tmp_path / name, ".dropzone")
        expect(page.get_by_role("alert")).to_contain_text(says)
    page.evaluate("document.querySelector('#restore-row [data-most]').dataset.most = 5")
    drop(page, tmp_path / "photo.png")
    expect(page.get_by_role("alert")).to_contain_text("at most 537 MB come in through the page")
    source(page, "t2v")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.evaluate("window.hacked") is None
    assert list((site.studio.folder / "incoming").glob("?" * 32)) == []


def test_a_clip_goes_on_from_a_frame(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a yellow star rises at night")
    page = open_page(f"/?view=gallery&clip={clip.id}")
    page.get_by_text("Extend…").click()
    page.get_by_label("Frame to go on from").fill("9")
    on_it = "({ paused, currentTime }) => paused && Math.abs(currentTime - 9.5 / 8) < 0.01"
    page.wait_for_function(f"() => ({on_it})(document.querySelector('.clip video'))")
    expect(page.locator(".extend output")).to_have_text("9")
    page.get_by_role("button", name="Extend from this frame").click()
    expect(page.locator("#notice")).to_contain_text("No model on this machine starts from an image")
    expect(page.locator("#notice").get_by_role("link", name="Models")).to_be_visible()
    site.studio.specs = (SPEC, STILL)
    page.goto(f"{site.url}/?view=gallery&clip={clip.id}")
    page.get_by_text("Extend…").click()
    page.get_by_label("Frame to go on from").press("ArrowLeft")
    expect(page.locator(".extend output")).to_have_text("23")
    page.get_by_role("button", name="Extend from this frame").press("Enter")
    expect(page.locator("#source")).to_contain_text("Frame 23 of your clip")
    shown(page)
    expect(page.locator("#field-model input")).to_have_value("still")
    page.fill("#field-prompt textarea", "the star sets again")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    job = site.studio.jobs(owner="local")[0]
    assert (job.made_from, job.request["model"]) == (clip.id, "still") and job.request["image"].endswith(".png")
    page.wait_for_selector("#stage .stage[data-state=done] .extend")  # and on, from the finished one


def test_several_at_once_are_shown_and_can_be_looked_at(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/")
    page.fill("#field-prompt textarea", "a red ball\na blue star")
    page.locator("#more > button").click()
    page.get_by_label("One video for each line of the prompt").check()
    page.get_by_label("number input for How many").fill("2")
    page.keyboard.press("Tab")
    expect(page.locator("#forecast")).to_contain_text("4 times 3.1 s of video")
    page.fill("#field-seed textarea, #field-seed input", "7")
    page.locator("#generate").dblclick()
    expect(page.locator(".tile")).to_have_count(4)
    jobs = sorted(site.studio.jobs(owner="local"), key=lambda job: job.created_at)
    asked = [(job.request["prompt"], job.request["seed"]) for job in jobs]
    assert asked == [("a red ball", 7), ("a red ball", 8), ("a blue star", 7), ("a blue star", 8)]
    expect(page.locator(".tile-done")).to_have_count(4)
    page.locator(".tile").nth(2).click()
    expect(page.locator("#stage .caption-title")).to_have_text("a blue star")
    expect(page.locator(".tile[aria-current]")).to_have_count(1)
    page.reload()
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator("#stage .caption-title")).to_have_text("a blue star")


def test_a_late_forecast_does_not_undo_a_file(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a red ball bounces")
    page = open_page("/")
    source(page, "v2v")
    forecast = Held(page, lambda body: '"act"' not in body)
    page.get_by_label("number input for Steps").fill("20")
    page.keyboard.press("Tab")
    forecast.wait()
    drop(page, site.studio.clip_path(clip.id, owner="local"), ".dropzone")
    expect(page.locator("#source")).to_contain_text("16 of 20 steps are run on it")
    forecast.release()
    page.wait_for_timeout(LATE_MS)
    expect(page.locator("#source")).to_contain_text("16 of 20 steps are run on it")
    page.fill("#field-prompt textarea", "a ball")
    page.locator("#generate").click()
    page.wait_for_selector("#stage .stage[data-job]:not([data-job=''])")
    assert site.studio.jobs(owner="local")[0].request["video"]


def test_the_keyboard_reaches_the_new_controls(site: Site, open_page: Callable[..., Page]) -> None:
    clip = site.studio.add_clip("a red ball bounces")
    page = open_page("/")
    source(page, "v2v")
    drop(page, site.studio.clip_path(clip.id, owner="local"), ".dropzone")
    shown(page)
    page.locator("#source [data-mode=t2v]").first.focus()
    reached, unmarked = [], []
    for _ in range(14):
        page.keyboard.press("Tab")
        name, marked = page.evaluate("""() => {
            const e = document.activeElement, s = getComputedStyle(e), label = e.labels && e.labels[0] && e.labels[0].textContent;
            return [(e.getAttribute('aria-label') || label || e.textContent).trim(), s.outlineStyle !== 'none' || s.boxShadow !== 'none'];
        }""")
        reached.append(name)
        unmarked += [] if marked else [name]
    for wanted in ("Video", "Change…", "Remove", "Crop", "number input for Strength", "Generate"):
        assert wanted in reached, reached
    assert unmarked == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(site: Site, open_page: Callable[..., Page], dark: bool, photo: Path) -> None:
    site.studio.specs = (SPEC, STILL)
    clip = site.studio.add_clip("a red ball bounces")
    page = open_page("/", phone=True, dark=dark)
    drop(page, photo)
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(f"{site.url}/?view=gallery&clip={clip.id}")
    page.get_by_text("Extend…").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# ---- the true engine, on the models that ship

@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Supervisor, worker, engine and pocket weights as they are."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("real"), min_free_bytes=0)
    with supervised_site(settings, 120.0) as running:
        yield running


@pytest.mark.timeout(600)
def test_a_picture_becomes_a_clip_that_is_changed_and_extended(real: Site, chromium: object, tmp_path: Path) -> None:
    studio = real.studio
    picture("a pink heart over the sea", 0.4, 300, 400).save(tmp_path / "heart.png")
    page = chromium.new_page(viewport={"width": 1440, "height": 900})  # type: ignore[attr-defined]
    page.set_default_timeout(120_000)
    page.goto(real.url)
    page.wait_for_selector("#forecast b", state="attached")
    drop(page, tmp_path / "heart.png")
    shown(page)
    first = generate(page, real, "a heart")
    asked = studio.clip_request(first)
    assert (asked.model, asked.fit) == ("pocket-i2v", "crop") and asked.image is not None
    with Image.open(studio.settings.inputs_dir / asked.image) as kept:
        assert kept.size == (300, 400)

    page.locator("#stage .extend summary").click()
    page.get_by_label("Frame to go on from").fill("3")
    page.get_by_role("button", name="Extend from this frame").click()
    expect(page.locator("#source")).to_contain_text("Frame 3 of your clip")
    second = generate(page, real, "a heart again")
    assert studio.clip(second).made_from == first and studio.clip_request(second).image == studio.add_frame(first, 3)

    page.get_by_role("button", name="Use pocket for words").click()
    expect(page.locator("#field-model input")).to_have_value("pocket")
    source(page, "v2v")
    drop(page, studio.clip_path(second), ".dropzone")
    shown(page)
    page.get_by_label("number input for Strength").fill("0.5")
    third = generate(page, real, "a moon")
    changed = studio.clip_request(third)
    assert (changed.model, changed.strength) == ("pocket", 0.5) and changed.video == studio.add_input(studio.clip_path(second))
    assert studio.clip(third).recipe["plan"]["latent_shape"][1] == 7
    page.close()


def generate(page: Page, site: Site, prompt: str) -> str:
    """Two short steps; the finished clip's id."""
    before = page.get_attribute("#stage .stage", "data-job") or ""
    page.get_by_label("number input for Steps").fill("2")
    page.fill("#field-prompt textarea", prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"#stage .stage[data-job]:not([data-job='']):not([data-job='{before}'])")
    job = page.get_attribute("#stage .stage", "data-job") or ""
    page.wait_for_function("() => ['done', 'failed'].includes(document.querySelector('#stage .stage').dataset.state)")
    done = site.studio.job(job)
    assert done.clip_id is not None, done.error
    return done.clip_id
