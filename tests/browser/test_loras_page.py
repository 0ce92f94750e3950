"""LoRAs on Create: taken in, weighed, used, kept with the clip, brought back with it, and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from tests import fakes
from tests.browser.test_walk import drop, wait_state
from tests.fakes import POCKET
from tests.lora_files import lora_weights, save_lora
from tests.site import Site, whole_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The pretended model has the layers of the one that ships, here and in the worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_MODEL", str(POCKET))
        patch.setattr(fakes, "SPEC", replace(fakes.SPEC, path=POCKET))
        with whole_site(tmp_path_factory.mktemp("site"), step_seconds=0.1) as running:
            yield running


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return save_lora(tmp_path / "fox.safetensors", lora_weights(POCKET, rank=2), metadata={"trigger": "zwx fox"})


def unfold(page: Page) -> None:
    page.locator("#more > button").click()
    page.wait_for_selector("#loras .loras")


def weigh(page: Page, weight: str) -> None:
    """As a person does it with the keyboard: a value, then the change is done."""
    page.locator("#loras .lora.on input[type=range]").fill(weight)


def used(page: Page, title: str, weight: str) -> None:
    expect(page.locator("#loras .lora.on b")).to_have_text(title)
    expect(page.locator("#loras .lora.on output")).to_have_text(weight)
    expect(page.locator("#loras .lora.on input[type=range]")).to_have_value(weight)


def test_a_lora_goes_into_the_clip_and_comes_back_with_it(site: Site, open_page: Callable[..., Page], lora: Path, tmp_path: Path) -> None:
    page = open_page("/")
    unfold(page)
    expect(page.locator("#loras")).to_contain_text("gives the model a style or a subject")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a LoRA").click()
    chooser.value.set_files(lora)
    used(page, "fox.safetensors", "1")
    expect(page.locator("#loras .lora.on")).to_contain_text("rank 2")
    expect(page.locator("#notice")).to_contain_text("fox.safetensors is used in the next video with weight 1")
    weigh(page, "0.35")
    used(page, "fox.safetensors", "0.35")
    page.fill("#field-prompt textarea", "a fox")
    page.get_by_label("number input for Steps").fill("2")
    page.locator("#generate").click()  # behind the slider's own event
    job = wait_state(page, "done")
    name = site.studio.loras.find("fox.safetensors").name
    asked = site.studio.job(job).request
    assert asked["loras"] == [[name, 0.35]]

    page.get_by_role("link", name="Open in gallery").click()
    expect(page.locator(".facts")).to_contain_text("fox.safetensors × 0.35")
    clip = site.studio.job(job).clip_id
    assert clip is not None
    fresh = open_page("/?view=create")
    unfold(fresh)
    used(fresh, "fox.safetensors", "0.35")  # the job on the screen is this browser's last: its form comes back with its stack
    fresh.get_by_role("button", name="Leave out").click()
    expect(fresh.locator("#loras .lora.on")).to_have_count(0)
    drop(fresh, site.studio.clip_path(clip))
    expect(fresh.locator("#notice")).to_contain_text("It uses a LoRA")
    used(fresh, "fox.safetensors", "0.35")
    weigh(fresh, "-1.5")
    used(fresh, "fox.safetensors", "-1.5")
    page.get_by_role("button", name="Remix").click()
    used(page, "fox.safetensors", "0.35")

    fresh.get_by_role("button", name="Leave out").click()
    fresh.locator("#loras").get_by_role("button", name="Delete").click()
    fresh.get_by_role("button", name="Delete it").click()
    expect(fresh.locator("#loras .lora")).to_have_count(0)
    assert site.studio.loras.cards() == ()
    drop(fresh, site.studio.clip_path(clip))
    expect(fresh.locator("#notice")).to_contain_text("Not on this machine: the LoRA fox.safetensors")
    expect(fresh.locator("#loras .lora.on")).to_contain_text("Its file is not on this machine")
    expect(fresh.locator("#forecast")).to_contain_text("is not among the LoRAs of this studio")
    drop(fresh, lora)
    expect(fresh.locator("#loras .lora.on .source-warning")).to_have_count(0)
    used(fresh, "fox.safetensors", "0.35")


def test_what_does_not_fit_says_why(site: Site, open_page: Callable[..., Page], tmp_path: Path) -> None:
    big = {"transformer_blocks.0.attn1.to_q": (torch.ones(2, 3072), torch.ones(3072, 2))}
    save_lora(tmp_path / "of5b.safetensors", big)
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04\x95not a safetensors file")
    page = open_page("/", phone=True)
    unfold(page)
    drop(page, tmp_path / "evil.safetensors")
    expect(page.locator("#loras").get_by_role("alert")).to_contain_text("pickle")
    drop(page, tmp_path / "of5b.safetensors")
    expect(page.locator("#loras").get_by_role("alert")).to_have_count(0)
    expect(page.locator("#notice")).to_contain_text("It changes a to_q of 3072 x 3072; that of pocket is")
    page.locator("#loras .lora-odd summary").click()
    expect(page.locator("#loras .lora-odd")).to_contain_text("It was made for another model")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#loras .lora-odd").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#loras .lora-odd")).to_have_count(0)
