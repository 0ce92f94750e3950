"""The form of a new run: what was chosen stays chosen, whatever is said of it, and a clone has all settings of its run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.datasets import Import
from app.settings import Settings
from app.studio import LOCAL, Studio, open_studio
from app.training import RunCard
from app.ui.actions import Click
from app.ui.address import Address
from app.ui.html.train import chosen_of, new_html, run_html
from app.ui.train import _config, fewer_steps, panel, train_start
from training.data import example
from training.lora.card import card as model_card
from training.lora.config import FIELDS, POCKET_WORLD, TrainConfig
from training.lora.rundir import RunState

PARTS: Any = SimpleNamespace(train="train", at="at", seen="seen", timer="timer", notice="notice")


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = open_studio(Settings(data_dir=tmp_path / "data"))
    yield made
    made.close()


def sent(studio: Studio, **said: str) -> str:
    """The page after the form was sent."""
    fields = {"model": "pocket", "clips": POCKET_WORLD, "name": "fox"} | said
    return str(train_start(Click(studio, PARTS, fields, Address(view="train", run="new"), "", None))["train"])


def filled(markup: str) -> dict[str, str]:
    """What a browser would send of the form."""
    said = {name: html.unescape(value) for name, value in re.findall(r'<input name="(\w+)" value="([^"]*)"', markup)}
    said |= {name: html.unescape(text) for name, text in re.findall(r'<textarea name="(\w+)"[^>]*>([^<]*)</textarea>', markup)}
    said |= dict(re.findall(r'<input type="radio" name="(preset)" value="(\w+)" checked', markup))
    for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', markup):
        chosen = [tag for tag in re.findall(r"<option[^>]*>", options) if " selected" in tag] or re.findall(r"<option[^>]*>", options)
        said[name] = html.unescape(re.findall(r'value="([^"]*)"', chosen[0])[0])
    return said


@pytest.mark.parametrize("more", [{"only": "forecast"}, {"rank": "0"}])
def test_what_was_chosen_stays_when_something_is_said(studio: Studio, more: dict[str, str]) -> None:
    page = sent(studio, preset="quick", image_noise="no", dora="yes", learning_rate="2e-4", **more)
    said = filled(page)
    assert {name: said[name] for name in ("preset", "image_noise", "dora", "rslora", "learning_rate", "name")} == {
        "preset": "quick", "image_noise": "no", "dora": "yes", "rslora": "", "learning_rate": "2e-4", "name": "fox"}
    assert "cloned run" not in page and '<details class="train-more" open>' in page
    assert ("about" if "only" in more else "rank") in page


def test_sizes_chosen_on_the_set_go_along(studio: Studio) -> None:
    for shapes, said in (("aspect", "aspect"), ("", ""), ("odd", "")):
        assert filled(panel(studio, Address(view="train", run="new", set="a" * 12, shapes=shapes)))["shapes"] == said


def test_a_clone_trains_on_the_set_of_its_run_or_on_none(studio: Studio, tmp_path: Path) -> None:
    example.write(tmp_path / "clips", clips=2)
    made = studio.datasets.add(Import(str(tmp_path / "clips"), "crescents"), owner=LOCAL)
    studio.datasets.add(Import(str(tmp_path / "clips"), "another"), owner=LOCAL)
    run = studio.training.start({"model": "pocket", "dataset": "crescents", "name": "fox"}, owner=LOCAL)
    at = Address(view="train", run="new", origin=run.id)
    assert filled(panel(studio, at))["clips"] == made.id
    studio.training.ask(run.id, "stop", owner=LOCAL)
    studio.datasets.delete(made.id, owner=LOCAL)
    said = filled(panel(studio, at))
    assert said["clips"] == made.id
    again = str(train_start(Click(studio, PARTS, said, at, "", None))["train"])
    assert "is no set of clips here" in again and filled(again)["clips"] == made.id
    assert len(studio.training.cards(owner=LOCAL)) == 1


def test_a_clone_keeps_a_model_that_is_not_in_the_list() -> None:
    config = TrainConfig(model="/models/own", dataset="d", name="fox")
    said = filled(new_html(["pocket"], {POCKET_WORLD: "world"}, chosen_of(config), {}))
    assert (said["model"], said["clips"]) == ("/models/own", "d")


def test_a_clone_has_all_settings_of_its_run() -> None:
    config = TrainConfig(model="pocket", dataset=POCKET_WORLD, name="fox", targets="attn1.to_q,ff.net.2", learning_rate=0.00012345678,
                         rslora=True, image_noise=False, shapes="aspect", budget=5 * 2**30,
                         preview_prompts=("a fox; it runs, fast", "a <b>cat"), trackers=("tensorboard",),
                         steps=1234567 // 10, alpha=7.1234567, beta3=None, schedule="linear", warmup=0, preview_steps=0)
    page = new_html(["pocket"], {POCKET_WORLD: "world"}, chosen_of(config), {})
    assert "those of the cloned run" in page
    said = filled(page)
    again = _config({name: said.get(name, "") for name in (*FIELDS, "preset")} | {"dataset": said["clips"]}).to_json()
    assert again.pop("name") == "fox again"
    assert again == {name: value for name, value in config.to_json().items() if name != "name"}


def test_a_long_run_says_what_it_began_with() -> None:
    events: list[dict[str, Any]] = [{"kind": "eval", "step": 0, "held_out": [0.5], "train": [0.5]},
                                    {"kind": "preview", "step": 0, "number": 0, "prompt": "a fox"}, {"kind": "warning", "text": "careful"}]
    events += [{"kind": "step", "step": step, "loss": 1.0, "rate": 1e-4} for step in range(1, 11)]
    events += [{"kind": "eval", "step": 10, "held_out": [0.25], "train": [0.5]}]
    fewer = fewer_steps(events, 4)
    assert [event["step"] for event in fewer if event["kind"] == "step"] == [1, 4, 7, 10]
    assert [event for event in fewer if event["kind"] != "step"] == [event for event in events if event["kind"] != "step"]
    assert fewer_steps(events) == events and fewer_steps(()) == []
    config = TrainConfig(model="pocket", dataset="d", name="fox")
    shown = RunCard("a", config, {}, RunState("done", 10, 10), 0.0, None)
    assert "Step 0 0.5000, now 0.2500, lowest 0.2500 at step 10." in run_html(shown, fewer)
    assert "Step 5 0.5000, now" in run_html(shown, [events[0] | {"step": 5}, *events[1:]])  # looked at later, or its line was lost


def test_a_card_says_at_which_steps_it_was_looked_at() -> None:
    config = TrainConfig(model="pocket", dataset="d", name="fox")
    for held, facts, says in (([(0, 0.5), (5, 0.4), (8, 0.25)], {}, "Held-out loss 0.5000 at step 0, 0.2500 at step 8."),
                              ([(5, 0.5)], {}, "Held-out loss 0.5000 at step 5."), ([], {"held_out": 0}, "No clips were held out."),
                              ([], {"held_out": 2}, "The loss on held-out clips was not looked at.")):
        assert f"trained with Sprocket. {says}\n" in model_card(config, base="b", facts=facts, previews=(), held_out=held, i2v=False)
