"""A video on two ranks of the processor, asked for on the page: the frames of one rank, though one of the two is killed on the way.

The real engine with the embedded model; a real worker, a real fleet, a real Chromium.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from app.history.records import Job, JobState
from app.settings import Settings
from engine.hardware import detect
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.plan import plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from engine.video.recipe import build_recipe
from tests.site import Site, supervised_site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
PATIENCE = 400.0
"""Seconds for a clip; tests share their cores."""
WISH = {"prompt": "a red ball bounces", "seed": 11, "steps": 30, "frames": 9, "width": 96, "height": 64}


@pytest.fixture(scope="module")
def real_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    os.environ.pop("SPROCKET_ENGINE", None)
    settings = Settings(data_dir=tmp_path_factory.mktemp("real"), min_free_bytes=0, preview_seconds=0.0, checkpoint_seconds=0.0)
    with supervised_site(settings, PATIENCE) as site:
        yield site
    assert not ranks_of(settings.data_dir)


def ranks_of(_folder: Path) -> list[psutil.Process]:
    """Ranks that are alive below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "engine.parallel.rank" in process.cmdline():
                found.append(process)
    return found


def fill(page: Page) -> None:
    page.fill("#field-prompt textarea", str(WISH["prompt"]))
    page.fill("#field-seed input, #field-seed textarea", str(WISH["seed"]))
    for name in ("steps", "frames"):
        page.fill(f"#field-{name} input[type=number]", str(WISH[name]))
    page.get_by_role("button", name="More settings").click()
    for name in ("width", "height"):
        page.fill(f"#field-{name} input", str(WISH[name]))


def frames(file: Path) -> np.ndarray:
    with av.open(file) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def on_one(folder: Path) -> Path:
    """The clip of `WISH` made here, by one rank that predicts the halves of guidance one after the other, as two ranks do.

    In one batch of two rows a float32 product may end in another last bit, which thirty steps make visible.
    """
    usual = plan(GenerationRequest.from_mapping(WISH), read_spec(find("pocket")), detect("cpu"))
    halves = replace(usual, placement=replace(usual.placement, passes=2))
    torch.set_num_threads(1)
    for _ in run(halves, part=folder / "one.mp4", workspace=folder / "one", recipe=build_recipe(halves),
                 models=ModelCache(), cancelled=lambda: False):
        pass
    return folder / "one.mp4"


def ended(site: Site, job_id: str) -> Job | None:
    job: Job = site.studio.job(job_id)
    assert job.state is not JobState.FAILED, job.error
    return job if job.state is JobState.DONE else None


def test_two_ranks_make_the_frames_of_one_and_a_killed_one_costs_nothing(real_site: Site, chromium: Browser,
                                                                             tmp_path: Path) -> None:
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(real_site.url)
    expect(page.locator("#forecast")).to_contain_text("of memory")
    fill(page)
    page.click("#field-parallel input")
    page.get_by_role("option", name="2 ranks, cfg 2").click()
    expect(page.locator("#field-parallel")).to_contain_text("Faster, not smaller")
    if pictures := os.environ.get("SPROCKET_WALK_PICTURES"):
        page.locator("#field-parallel").scroll_into_view_if_needed()
        page.screenshot(path=Path(pictures) / "devices.png")
    page.keyboard.press("Escape")
    page.click("#generate")
    page.wait_for_function("() => document.querySelector('#stage .stage').dataset.job")
    job_id = page.get_attribute("#stage .stage", "data-job") or ""
    assert real_site.studio.job(job_id).request["parallel"] == "cfg=2,ulysses=1,ring=1"
    wait_for(lambda: (job := real_site.studio.job(job_id)).stage == "sample" and job.step >= 2, "the second step", PATIENCE)
    ranks = ranks_of(real_site.studio.settings.data_dir)
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    divided = wait_for(lambda: ended(real_site, job_id), "the clip on two ranks", PATIENCE)
    assert divided.attempt == 1 and divided.resumed_from >= 1
    expect(page.locator("#stage video")).to_be_visible(timeout=60_000)
    assert np.array_equal(frames(real_site.studio.clip_path(divided.clip_id)), frames(on_one(tmp_path)))
    page.close()
