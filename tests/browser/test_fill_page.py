"""Fill between two clips, and more frames for a video of one's own, from the page to the finished clip."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from app.history.records import Clip
from engine.media.probe import probe_video
from tests.engine.media_files import write_video
from tests.fakes import moving_square
from tests.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pair(site: Site) -> tuple[Clip, Clip]:
    jobs = [site.studio.submit({"prompt": words, "seed": 7}) for words in ("a red ball", "a blue star")]
    first, second = (wait_for(lambda job=job: site.studio.job(job.id).clip_id, "a clip", 120) for job in jobs)
    return site.studio.clip(first), site.studio.clip(second)


def test_fill_between_two_clips(site: Site, open_page: Callable[..., Page], pair: tuple[Clip, Clip], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    first, second = pair
    page = open_page(f"/?view=gallery&clip={first.id}")
    page.get_by_text("Fill between this clip and another…").click()
    form = page.locator(".fill form")
    expect(form.get_by_role("radio")).to_have_count(1)
    form.get_by_role("button", name="Fill between").click()  # nothing is chosen yet, and the browser says so
    assert page.evaluate("document.querySelector('.fill :invalid') !== null") and len(site.studio.jobs()) == 2
    form.locator(".pick").click()
    form.locator("select[name=between]").select_option("3")
    page.screenshot(path=pictures / "fill-1-form.png", full_page=True)
    form.get_by_role("button", name="Fill between").click()
    page.wait_for_selector("#stage .stage[data-state='done']")
    joined = site.studio.clip(site.studio.jobs()[0].clip_id)
    assert (joined.frames, joined.parents) == (first.frames + 3 + second.frames, (first.id, second.id))
    page.goto(f"{site.url}/?view=gallery&clip={joined.id}")
    parents = page.locator(".lineage").filter(has_text="Made from")
    for parent in pair:
        expect(parents.locator(f"[data-clip='{parent.id}']")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("motion interpolation, not generation")
    page.screenshot(path=pictures / "fill-2-clip.png", full_page=True)
    phone = open_page(f"/?view=gallery&clip={second.id}", phone=True)
    phone.get_by_text("Fill between this clip and another…").click()
    expect(phone.locator(".lineage").filter(has_text="Made into").locator(f"[data-clip='{joined.id}']")).to_be_attached()
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.screenshot(path=pictures / "fill-3-phone.png", full_page=True)


def test_a_video_of_ones_own_is_smoothed(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    path = write_video(tmp_path / "mine.mp4", moving_square(6, 96, 128, 3), fps=20)
    page = open_page("/")
    page.get_by_role("group", name="Start from").get_by_role("button", name="Video").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#source .dropzone").click()
    chooser.value.set_files(path)
    row = page.locator(".only-frames").get_by_role("group", name="Motion interpolation, not generation")
    expect(row.get_by_role("button")).to_have_text(
        ["Smooth to 24 fps", "Smooth to 30 fps", "Smooth to 48 fps", "Slow down 2x", "Slow down 4x"])
    page.screenshot(path=pictures / "mine-1-form.png", full_page=True)
    phone = open_page("/", phone=True)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    row.get_by_role("button", name="Slow down 2x").click()
    page.wait_for_selector("#stage .stage[data-state='done']")
    job = site.studio.jobs()[0]
    slow = site.studio.clip(job.clip_id)
    assert (slow.frames, slow.fps, slow.made_from, slow.width) == (12, 20.0, None, 128)
    assert probe_video(site.studio.clip_path(slow.id)).frames == 12
    page.screenshot(path=pictures / "mine-2-done.png", full_page=True)


def test_the_api_fills_between(site: Site, pair: tuple[Clip, Clip]) -> None:
    client = Client(site.url, verbose=False)
    job_id = client.predict(pair[0].id, None, None, "flow", None, pair[1].id, 1, api_name="/interpolate")
    done = wait_for(lambda: (said := client.predict(job_id, api_name="/job"))["state"] == "done" and said, "the filled clip", 60)
    assert done["clip"]["frames"] == pair[0].frames + 1 + pair[1].frames and done["title"].startswith("Fill between: a red ball")
    for values in ((pair[0].id, None, None, "flow", None, pair[0].id), (pair[0].id, None, None, "flow", None, "/etc/passwd"),
                   (pair[0].id, 24, None, "flow", None, pair[1].id), (pair[0].id, None, None, "flow", None, pair[1].id, "7")):
        with pytest.raises(Exception, match=r"then|fps|between|clip"):
            client.predict(*values, api_name="/interpolate")
