"""From files on a disk to a set with captions, in a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app.settings import Settings
from app.studio import open_studio
from tests.site import Site, serving
from training.data import example

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), engine="tests.fakes:FakeEngine", min_free_bytes=0)
    with contextlib.closing(open_studio(settings)) as studio, serving(studio) as running:
        yield running


def test_clips_become_a_set_with_captions(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    example.write_mp4(tmp_path / "one.mp4", example.render(0, 0), 16)
    example.write_mp4(tmp_path / "cuts.mp4", np.concatenate([example.render(0, index)[:25] for index in (2, 5)]), 16)
    (tmp_path / "one.txt").write_text("a yellow crescent <b>")
    (tmp_path / "text.mp4").write_text("no video")
    page = open_page("/?view=train")
    expect(page.locator("#datasets")).to_contain_text("No datasets yet")
    with page.expect_file_chooser() as chooser:
        page.locator(".set-drop").click()
    chooser.value.set_files([str(tmp_path / name) for name in ("one.mp4", "one.txt", "cuts.mp4", "text.mp4")])
    page.locator(".set > a").click()
    expect(page.locator(".set-clip")).to_have_count(2)
    expect(page.locator(".set-rejected")).to_contain_text("a text, not a video")
    page.get_by_role("button", name="Split into scenes").click()
    expect(page.locator(".set-clip")).to_have_count(3)
    page.get_by_role("link", name="Captions").click()
    rows = page.locator(".caption-row")
    expect(rows.locator("textarea").last).to_have_value("a yellow crescent <b>")
    page.get_by_role("link", name="With a problem").click()
    expect(rows).to_have_count(2)  # the two scenes, without captions; saved, the first leaves and the second moves into its row
    first, second = (rows.nth(number).locator("form").get_attribute("data-clip") for number in range(2))
    rows.last.locator("textarea").fill("a red crescent")
    rows.first.locator("textarea").fill("a green crescent")
    rows.first.get_by_role("button", name="Save").click()
    expect(rows).to_have_count(1)
    expect(rows.locator("form")).to_have_attribute("data-clip", second or "")
    expect(rows.locator("textarea")).to_have_value("a red crescent")
    rows.locator("textarea").press_sequentially("!")
    rows.get_by_role("button", name="Save").click()
    expect(rows).to_have_count(0)
    captions = {clip.id: clip.caption for clip in site.studio.datasets.list(owner="local")[0].clips}
    assert (captions[first], captions[second]) == ("a green crescent", "a red crescent!")
    page.get_by_role("link", name="All clips").click()
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("by hand")
    page.locator("input[name=find]").fill("crescent")
    page.locator("input[name=by]").fill("moon")
    page.get_by_role("button", name="Replace in all").click()
    expect(rows.locator("textarea").first).to_have_value("a green moon")  # though it was typed in
    expect(rows.locator("textarea").last).to_have_value("a yellow moon <b>")
    page.locator("input[name=prefix]").fill("zq")
    page.locator("[data-act=dataset_prefix] button").click()
    expect(page.locator(".set-sample")).to_contain_text("zq a green moon")
    page.reload()
    expect(rows).to_have_count(3)
    page.locator(".rename summary").click()
    page.get_by_role("button", name="Delete this set").click()
    page.locator("dialog.sure .btn.bad").click()
    expect(page.locator("#datasets")).to_contain_text("No datasets yet")
    assert site.studio.datasets.list(owner="local") == () and "set=" not in page.url
