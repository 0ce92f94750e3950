"""Smooth to 24 fps, from a clip's page to the smoother clip, its lineage and its label; and the same through the API."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from app.history.records import Clip
from engine.media.probe import probe_video
from tests.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
LABEL = "Motion interpolation, not generation"


def a_clip(site: Site) -> Clip:
    job = site.studio.submit({"prompt": "a red ball", "seed": 7})
    clip_id = wait_for(lambda: site.studio.job(job.id).clip_id, "the first clip", 120)
    return site.studio.clip(clip_id)


def test_smooth_to_24_fps_from_the_gallery(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SPROCKET_WALK_PICTURES", tmp_path))
    clip = a_clip(site)
    page = open_page(f"/?view=gallery&clip={clip.id}")
    group = page.get_by_role("group", name=LABEL)
    expect(group.get_by_role("button")).to_have_text(
        ["Smooth to 16 fps", "Smooth to 24 fps", "Smooth to 30 fps", "Slow down 2x", "Slow down 4x"])
    page.screenshot(path=pictures / "smooth-1-clip.png")
    group.get_by_role("button", name="Smooth to 24 fps").click()
    page.wait_for_selector("#stage .stage[data-state='done']")
    expect(page.locator("#stage .caption-line")).to_contain_text(re.compile(r"24 fps · motion interpolation, not generation"))
    expect(page.get_by_role("button", name="Remix")).to_have_count(0)
    job = site.studio.jobs()[0]
    smooth = site.studio.clip(job.clip_id)
    facts = probe_video(site.studio.clip_path(smooth.id))
    assert (facts.frames, facts.fps, smooth.made_from) == (27, 24.0, clip.id)
    page.screenshot(path=pictures / "smooth-2-done.png")

    page.get_by_role("link", name="Open in gallery").click()
    expect(page.locator(".facts")).to_contain_text("motion interpolation, not generation")
    page.wait_for_function("() => { const v = document.querySelector('.clip video'); return v && v.readyState >= 2 && !v.error }")
    expect(page.locator(".lineage").filter(has_text="Made from").locator(f"[data-clip='{clip.id}']")).to_be_visible()
    page.screenshot(path=pictures / "smooth-3-gallery.png")
    page.goto(f"{site.url}/?view=queue")
    expect(page.locator(".job").first).to_contain_text("Smooth to 24 fps: a red ball")
    expect(page.locator(".job").first).to_contain_text("Motion interpolation")
    page.screenshot(path=pictures / "smooth-4-queue.png")
    phone = open_page(f"/?view=gallery&clip={smooth.id}", phone=True)
    expect(phone.get_by_role("group", name=LABEL).get_by_role("button").first).to_have_text("Smooth to 30 fps")
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    phone.screenshot(path=pictures / "smooth-5-phone.png", full_page=True)


def test_the_api_asks_for_the_same(site: Site) -> None:
    clip = a_clip(site)
    client = Client(site.url, verbose=False)
    job_id = client.predict(clip.id, None, 2, api_name="/interpolate")
    done = wait_for(lambda: (said := client.predict(job_id, api_name="/job"))["state"] == "done" and said, "the slower clip", 60)
    assert (done["kind"], done["title"], done["clip"]["kind"]) == ("interpolate", "Slow down 2x: a red ball", "interpolate")
    assert (done["clip"]["frames"], done["clip"]["made_from"]) == (18, clip.id)
    again = client.predict(clip=None, fps=16, slow=None, method="flow", video=site.studio.job(job_id).request["video"],
                           api_name="/interpolate")
    assert site.studio.job(again).kind == "interpolate"
    for values in ((clip.id, 8), (clip.id, 0), (clip.id, 1000), (clip.id, "24"), (clip.id, 24, None, "generate"), (None, 24)):
        with pytest.raises(Exception, match=r"fps|method|clip"):
            client.predict(*values, api_name="/interpolate")
