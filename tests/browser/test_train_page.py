"""From the example set to a clip made with the LoRA, in a real browser: real encoders, real trainer, real generation, on a tiny base."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from app.settings import Settings
from app.studio import LOCAL
from tests.browser.test_walk import wait_state
from tests.engine.tiny import save_tiny
from tests.site import Site, supervised_site, wait_for
from training.data import example

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
CLIPS = 4
STARTS_MS = 150_000
"""A worker and a trainer each load torch, on cores that tests share."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A studio whose one model besides the pocket is of a size that trains in milliseconds."""
    folder = tmp_path_factory.mktemp("site")
    save_tiny(folder / "models" / "tiny", words=64)
    settings = Settings(data_dir=folder / "data", models_dir=folder / "models", min_free_bytes=0, preview_seconds=0.0)
    with supervised_site(settings, STARTS_MS / 1000) as running:
        yield running


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example with as many clips as a test has time for."""
    monkeypatch.setattr(example, "CLIPS", CLIPS)
    monkeypatch.setattr(example.write, "__defaults__", (CLIPS, 0))


def chip(page: Page, word: str) -> None:
    expect(page.locator("#datasets .page-head .chip")).to_have_text(word, timeout=STARTS_MS)


def to_settings(page: Page) -> None:
    """From an empty page to the form of a new run on the example, by its captions."""
    page.get_by_role("button", name="Make the example").click()
    page.locator(".set > a").click()
    expect(page.locator(".set-clip")).to_have_count(CLIPS)
    page.get_by_role("link", name="Captions").click()
    first = page.locator(".caption-row").first
    first.locator("textarea").fill("a zq crescent rises")
    first.get_by_role("button", name="Save").click()
    expect(first).to_contain_text("by hand")
    page.get_by_role("link", name="Settings").click()
    expect(page.locator(".preset")).to_have_count(3)


def started(page: Page, site: Site) -> str:
    """From the form to a run that trains, past two refusals that keep what was typed; the run's id."""
    form = page.locator(".train-form")
    form.locator("select[name=model]").select_option("tiny")
    form.locator("input[name=name]").fill("zq <b>")
    page.locator(".train-more summary").click()
    for name, value in (("rank", "4"), ("steps", "50000"), ("learning_rate", "0"), ("preview_steps", "0"), ("preview_sampling", "2")):
        form.locator(f"input[name={name}]").fill(value)
    form.get_by_role("button", name="Start training").click()
    refused = page.locator("#datasets [role=alert]")
    expect(refused).to_contain_text("name")  # a file cannot be called so; what was typed is still there
    expect(form.locator("input[name=steps]")).to_have_value("50000")
    form.locator("input[name=name]").fill("moons")
    form.get_by_role("button", name="Start training").click()
    expect(refused).to_contain_text("learning_rate")
    expect(form.locator("input[name=name]")).to_have_value("moons")
    expect(form.locator("select[name=model]")).to_have_value("tiny")
    assert site.studio.training.cards(owner=LOCAL) == ()
    form.locator("input[name=learning_rate]").fill("1e-3")
    form.get_by_role("button", name="Start training").click()
    chip(page, "Training")
    return site.studio.training.cards(owner=LOCAL)[0].id


def previewed_saved_paused_resumed_stopped(page: Page, site: Site, run: str) -> None:
    page.get_by_role("button", name="Preview now").click()
    expect(page.locator(".run-previews video").first).to_be_visible(timeout=STARTS_MS)
    page.get_by_role("button", name="Save now").click()
    lora = site.studio.training.run(run).lora_file("moons")
    wait_for(lora.is_file, "the LoRA to be saved", 90)
    page.get_by_role("button", name="Pause").click()
    chip(page, "Paused")
    at = site.studio.training.card(run, owner=LOCAL).state.step
    page.reload()
    page.get_by_role("button", name="Resume").click()
    chip(page, "Training")
    wait_for(lambda: site.studio.training.card(run, owner=LOCAL).state.step > at, "the run to go on", 90)
    page.get_by_role("button", name="Stop").click()
    chip(page, "Stopped")
    expect(page.locator("#datasets .curves svg")).to_have_count(4)
    assert any(event["kind"] == "resumed" and event["step"] == at for event in site.studio.training.run(run).events())


def compared(page: Page, site: Site, run: str) -> str:
    """With and without the LoRA on one seed; the LoRA's name on the shelf."""
    used = page.locator(".train-use")
    used.locator("textarea").fill("a zq crescent")
    used.locator("input[type=range]").fill("0.5")
    expect(used.locator("output")).to_have_text("0.5")
    used.locator("input[name=seed]").fill("x")
    used.get_by_role("button", name="Compare").click()
    expect(page.locator("#datasets [role=alert]")).to_contain_text("seed")
    used.locator("input[name=seed]").fill("7")
    used.get_by_role("button", name="Compare").click()
    expect(used.locator(".compared video")).to_have_count(2, timeout=STARTS_MS)
    shelf = site.studio.training.use(run, owner=LOCAL)
    made = [clip.recipe["request"] for clip in site.studio.clips(owner=LOCAL).clips]
    assert {(each["seed"], each["prompt"]) for each in made} == {(7, "a zq crescent")}
    assert sorted(map(str, (each["loras"] for each in made))) == sorted(map(str, ([], [[shelf.name, 0.5]])))
    return shelf.name


def used_in_create(page: Page, site: Site, lora: str) -> None:
    page.locator(".train-use").get_by_role("button", name="Use in Create").click()
    page.wait_for_selector("#generate:visible")
    expect(page.locator("#notice")).to_contain_text("moons is used, at strength 0.5")
    expect(page.locator("#field-prompt textarea")).to_have_value("a zq crescent")
    page.locator("#generate").click()
    job = wait_state(page, "done")
    clip = next(clip for clip in site.studio.clips(owner=LOCAL).clips if clip.job_id == job)
    assert [list(pair) for pair in clip.recipe["request"]["loras"]] == [[lora, 0.5]]


def test_from_an_example_set_to_a_clip_with_its_lora(site: Site, open_page: Callable[..., Page], few: None) -> None:
    page = open_page("/?view=train")
    to_settings(page)
    run = started(page, site)
    previewed_saved_paused_resumed_stopped(page, site, run)
    page.get_by_role("link", name="Clone").click()
    expect(page.locator(".train-form").locator("input[name=name]")).to_have_value("moons again")
    expect(page.locator(".train-form").locator("input[name=rank]")).to_have_value("4")
    page.go_back()
    chip(page, "Stopped")
    lora = compared(page, site, run)
    used_in_create(page, site, lora)
