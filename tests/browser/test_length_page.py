"""Key frames on the page, with the real engine on tiny weights: wait, make one anew, put an image in the place of another, go on; and
what the finished clip says of its rounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from app.history.records import JobState
from app.settings import Settings
from engine.interpolate.adapter import FILE, Facts, write_adapter
from engine.media.clip import read_frames
from engine.spec import read_spec
from tests.browser.test_walk import wait_state
from tests.engine.test_hierarchy import trained, transformer_of
from tests.engine.tiny import save_tiny
from tests.site import Site, supervised_site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A studio whose pocket models are tiny ones, with stage-two weights beside them."""
    folder = tmp_path_factory.mktemp("length")
    save_tiny(folder / "pocket")
    second = save_tiny(folder / "pocket-i2v", "i2v-rope")
    (folder / "pocket-stage2").mkdir()
    mark = read_spec(second, "pocket-i2v").fingerprint
    facts = Facts(base=mark, layout="frames", slots=5, channels=4, rank=2, modulation_rank=1, steps=2)
    write_adapter(folder / "pocket-stage2" / FILE, trained(transformer_of(second)), facts, dtype=torch.float32)
    before = os.environ.get("SPROCKET_POCKET_DIR")
    os.environ["SPROCKET_POCKET_DIR"] = str(folder / "pocket")  # the worker is a process of its own
    settings = Settings(data_dir=folder / "data", min_free_bytes=0, preview_seconds=0.0)
    try:
        with supervised_site(settings) as running:
            yield running
    finally:
        os.environ.pop("SPROCKET_POCKET_DIR")
        if before is not None:
            os.environ["SPROCKET_POCKET_DIR"] = before


def tile(page: Page, number: int):
    return page.locator(".keys .key").nth(number)


def source(page: Page, number: int) -> str:
    return tile(page, number).locator("img").get_attribute("src") or ""


def paused(site: Site, job: str) -> None:
    wait_for(lambda: site.studio.job(job).state is JobState.PAUSED, "the key frames", 120)


def test_a_key_frame_is_made_anew_another_replaced_and_the_rounds_go_on(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    image = tmp_path / "mine.png"
    Image.fromarray(np.full((64, 96, 3), (200, 60, 40), np.uint8)).save(image)

    page = open_page("/")
    page.locator("#field-prompt textarea").fill("a fox")
    page.get_by_role("button", name="Length and smoothness").click()
    page.locator("#field-fps input").fill("8")
    page.locator("#field-fps input").press("Enter")
    page.locator("#field-seconds input[type=number]").fill("1")
    page.locator("#field-seconds input[type=number]").press("Enter")
    expect(page.locator(".timeline")).to_be_visible()
    page.get_by_label("Show me the key frames before the rounds").check()
    expect(page.locator("#forecast")).to_contain_text("key frames at")
    page.screenshot(path=pictures / "length-1-form.png", full_page=True)
    page.get_by_role("button", name="Generate", exact=True).click()
    job = wait_state(page, "paused")
    keys = page.locator(".keys .key")
    expect(keys.first).to_be_visible()
    count = keys.count()
    paused(site, job)
    page.screenshot(path=pictures / "length-2-keys.png")

    before = [frame.path.read_bytes() for frame in site.studio.key_frames(job)]
    old = source(page, 1)
    tile(page, 1).get_by_role("button", name="Make anew").click()
    expect(tile(page, 1)).to_contain_text("made anew", timeout=120_000)
    assert source(page, 1) != old
    after = [frame.path.read_bytes() for frame in site.studio.key_frames(job)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [index != 1 for index in range(count)]

    with page.expect_file_chooser() as chooser:
        tile(page, count - 1).get_by_role("button", name="Replace…").click()
    chooser.value.set_files(image)
    expect(tile(page, count - 1)).to_contain_text("your image", timeout=120_000)
    expect(tile(page, 1)).to_contain_text("made anew")
    paused(site, job)
    page.screenshot(path=pictures / "length-3-edited.png")
    phone = open_page(f"/?job={job}", phone=True)
    expect(phone.locator(".keys .key")).to_have_count(count)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.screenshot(path=pictures / "length-4-phone.png", full_page=True)

    page.get_by_role("button", name="Go on to the rounds").click()
    wait_state(page, "done")
    done = site.studio.job(job)
    clip = site.studio.clip(done.clip_id)
    assert clip.frames == 9 and done.request["review"] is False
    last = read_frames(site.studio.clip_path(clip.id), frames=9, width=96, height=64, fit="crop")[-1]
    assert np.abs(last.astype(int) - (200, 60, 40)).mean() < 3  # a plain picture: nothing is lost but rounding

    page.goto(f"{site.url}/?view=gallery&clip={clip.id}")
    made = page.locator(".hierarchy")
    expect(made).to_contain_text("How it was made")
    expect(made).to_contain_text("Key frames")
    expect(made).to_contain_text("Round 1")
    expect(made.locator(".mark.edited")).to_have_count(2)
    expect(page.get_by_role("group", name="Frames between, generated by the model").get_by_role("button")).to_have_text(
        ["Smooth to 16 fps", "Smooth to 32 fps", "Slow down 2x", "Slow down 4x"])
    page.wait_for_function("() => { const v = document.querySelector('.clip video'); return v && v.readyState >= 2 && !v.error }")
    page.screenshot(path=pictures / "length-5-clip.png", full_page=True)
    phone = open_page(f"/?view=gallery&clip={clip.id}", phone=True)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.screenshot(path=pictures / "length-6-clip-phone.png", full_page=True)

    group = page.get_by_role("group", name="Frames between, generated by the model")
    group.get_by_role("button", name="Smooth to 16 fps").click()
    page.wait_for_selector("#stage .stage[data-state='done']", timeout=120_000)
    expect(page.locator("#stage .caption-line")).to_contain_text("16 fps · frames between generated")
    smooth = site.studio.clip(site.studio.jobs()[0].clip_id)
    assert (smooth.frames, smooth.fps, smooth.made_from, smooth.recipe["request"]["method"]) == (17, 16.0, clip.id, "generate")
    page.goto(f"{site.url}/?view=gallery&clip={smooth.id}")
    expect(page.locator(".hierarchy")).to_contain_text("9 key frames at 8 fps, then 1 round to 16 fps: 17 frames")
    expect(page.locator(".facts")).to_contain_text("frames between generated")
    page.screenshot(path=pictures / "length-7-smooth.png", full_page=True)
