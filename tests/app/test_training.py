"""Training runs in the studio: a job of the queue trains a tiny base in its own process, and the LoRA is on the shelf; what pages show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.datasets import Import
from app.errors import NotAllowed, NotFound
from app.settings import Settings
from app.sharing.owned import OwnedStudio
from app.sharing.settings import SharingSettings
from app.sharing.visitor import Role, Visitor
from app.studio import LOCAL, Studio, open_studio
from app.ui.html.curves import curve_svg, smoothed, spark_svg, thinned
from app.ui.html.train import chosen_of, new_html, run_html, runs_html
from app.ui.html.train_use import Comparison, use_html
from engine.errors import InvalidRequest
from tests.training.lora_tools import base_of, random_set
from training.data import edits, example
from training.lora.config import POCKET_WORLD
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import RunState

ASKED: dict[str, Any] = {"dataset": POCKET_WORLD, "name": "made", "rank": 4, "steps": 6, "warmup": 2, "batch": 2, "eval_steps": 3,
                         "eval_clips": 1, "learning_rate": 1e-3, "threads": 1, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("base"))


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = open_studio(Settings(data_dir=tmp_path / "data"))
    yield made
    made.close()


def test_a_run_is_a_job_and_its_lora_is_on_the_shelf(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL)
    assert card.job is not None and card.job.kind == "train" and card.state.state == "waiting"
    assert not studio.training.forecast(card.config).measured
    save_set(studio.training.run(card.id).folder / SAMPLES, random_set())
    ended = studio.run_here(card.job.id)
    assert ended.state.value == "done", ended.error
    done = studio.training.card(card.id, owner=LOCAL)
    assert (done.state.state, done.state.step, done.job) == ("done", 6, None)
    assert studio.training.forecast(done.config).measured  # the next run's time is by this one's
    assert [lora.file for lora in studio.loras.cards()] == ["made.safetensors"]
    assert studio.training.use(card.id, owner=LOCAL).name == studio.loras.cards()[0].name
    with pytest.raises(NotAllowed, match="is done"):
        studio.training.resume(card.id, owner=LOCAL)
    markup = run_html(done, studio.training.run(card.id).events(), used=use_html(done, "a <b>clip", [Comparison("a", 7, 0.5, None, None)]))
    assert "a <b>" not in markup and "With, strength 0.5" in markup and "Compare with and without" in markup
    assert markup.count("<svg") == 4 and "Use in Create" in markup and "Held out" in markup


def test_a_run_of_all_weights_is_used_as_a_model_of_its_own(studio: Studio, base: Path) -> None:
    from training.lora.full import save_model
    from training.lora.rundir import RunState

    card = studio.training.start(ASKED | {"model": str(base), "method": "full", "name": "tuned"}, owner=LOCAL)
    studio.cancel(card.job.id, owner=LOCAL) if card.job else None
    with pytest.raises(NotAllowed, match="saved no model yet"):
        studio.training.use_model(card.id, owner=LOCAL)
    run = studio.training.run(card.id)
    save_model(base, {}, run.model_folder("tuned"), {"step": 6})  # what a trainer does at its end
    run.set_state(RunState("done", 6, 6))
    assert studio.training.use_model(card.id, owner=LOCAL) == "tuned" == studio.training.use_model(card.id, owner=LOCAL)
    assert "tuned" in [spec.name for spec in studio.models()]
    with pytest.raises(NotAllowed, match="a model, not a LoRA"):
        studio.training.use(card.id, owner=LOCAL)
    done = studio.training.card(card.id, owner=LOCAL)
    markup = run_html(done, run.events(), used=use_html(done, "a clip"))
    between = use_html(replace(done, config=replace(done.config, method="stage-two")), "a clip")
    assert "Compare with" in markup and "Compare with" not in between and "Use in Create" in between
    assert "every weight of the transformer" in markup and "Strength" not in markup and "all weights" in runs_html([done], {})


def test_a_base_that_is_gone_fails_in_words(studio: Studio, base: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(base, tmp_path / "copy")
    card = studio.training.start(ASKED | {"model": str(copy)}, owner=LOCAL)
    shutil.rmtree(copy)
    assert card.job is not None
    ended = studio.run_here(card.job.id)
    assert ended.state.value == "failed" and ended.error and "model_index.json" in ended.error


def test_wishes_before_a_run_begins_take_it_out_of_the_queue(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL)
    with pytest.raises(NotAllowed, match="works already"):
        studio.training.resume(card.id, owner=LOCAL)
    paused = studio.training.ask(card.id, "pause", owner=LOCAL)
    assert paused.job is None and paused.state.state == "paused"
    with pytest.raises(InvalidRequest, match="rank"):
        studio.training.resume(card.id, owner=LOCAL, changes={"rank": 8})
    again = studio.training.resume(card.id, owner=LOCAL, changes={"preview_steps": 3, "steps": 9})
    assert again.job is not None and again.config.steps == 9 and again.job.id != (card.job.id if card.job else "")
    with pytest.raises(NotAllowed, match="Stop it first"):
        studio.training.delete(card.id, owner=LOCAL)
    studio.training.ask(card.id, "stop", owner=LOCAL)
    with pytest.raises(NotAllowed, match="saved no LoRA"):
        studio.training.use(card.id, owner=LOCAL)
    studio.training.delete(card.id, owner=LOCAL)
    with pytest.raises(NotFound):
        studio.training.card(card.id, owner=LOCAL)


def test_a_run_that_finds_no_place_in_the_queue_stays_as_it_was(tmp_path: Path) -> None:
    studio = open_studio(Settings(data_dir=tmp_path / "data", max_waiting=1))
    first = studio.training.start(ASKED | {"model": "pocket"}, owner=LOCAL)
    studio.training.ask(first.id, "pause", owner=LOCAL)
    before = studio.training.card(first.id, owner=LOCAL)
    other = studio.training.start(ASKED | {"model": "pocket"}, owner=LOCAL)
    for run in (lambda: studio.training.resume(first.id, owner=LOCAL, changes={"name": "else"}),
                lambda: studio.training.start(ASKED | {"model": "pocket"}, owner=LOCAL)):
        with pytest.raises(NotAllowed, match="wait already"):
            run()
    after = studio.training.card(first.id, owner=LOCAL)
    assert (after.config, after.state.state, after.state.message) == (before.config, "paused", before.state.message)
    assert [card.id for card in studio.training.cards(owner=LOCAL)] == [other.id, first.id]
    studio.close()


def test_a_run_is_its_owner_s_alone(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner="user:anna")
    for act in (lambda: studio.training.card(card.id, owner="user:bert"), lambda: studio.training.ask(card.id, "stop", owner="user:bert"),
                lambda: studio.training.use(card.id, owner=LOCAL), lambda: studio.training.delete(card.id, owner=LOCAL)):
        with pytest.raises(NotFound):
            act()
    assert studio.training.cards(owner=LOCAL) == () and [each.id for each in studio.training.cards(owner="user:anna")] == [card.id]

    def seen_by(name: str, role: Role) -> Any:
        return OwnedStudio(studio, lambda: Visitor(f"user:{name}", name, role), SharingSettings()).training

    assert [each.id for each in seen_by("anna", Role.VIEWER).cards(owner=LOCAL)] == [card.id]
    assert seen_by("anna", Role.VIEWER).run(card.id).folder.name == card.id
    for role in Role:
        with pytest.raises(NotFound):
            seen_by("bert", role).run(card.id)
        with pytest.raises(NotFound):
            seen_by("bert", role).preview_path(card.id, 0, 0, "mp4")
    with pytest.raises(NotAllowed):
        seen_by("anna", Role.VIEWER).ask(card.id, "stop", owner=LOCAL)


def test_what_cannot_be_trained_is_refused_before_a_run_exists(studio: Studio) -> None:
    for values, field in (({"rank": 0}, "rank"), ({"dataset": "none such"}, "dataset"), ({"lerning_rate": 1}, "lerning_rate")):
        with pytest.raises(InvalidRequest) as refused:
            studio.training.start(ASKED | {"model": "pocket"} | values, owner=LOCAL)
        assert refused.value.field == field
    assert studio.training.cards(owner=LOCAL) == () and studio.jobs(owner=LOCAL) == ()
    with pytest.raises(NotFound):
        studio.training.card("../../etc", owner=LOCAL)


def test_a_set_that_a_run_needs_cannot_be_deleted(studio: Studio, base: Path, tmp_path: Path) -> None:
    example.write(tmp_path / "clips", clips=2)
    made = studio.datasets.add(Import(str(tmp_path / "clips"), "crescents"), owner=LOCAL)
    by_name, by_id = (studio.training.start(ASKED | {"model": str(base), "dataset": said}, owner=LOCAL) for said in ("crescents", made.id))
    assert by_name.facts["dataset"] == by_id.facts["dataset"] == made.id
    studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL)  # of the pocket world
    studio.datasets.change(made.id, lambda now: edits.with_name(now, POCKET_WORLD), owner=LOCAL)
    studio.training.ask(by_name.id, "pause", owner=LOCAL)
    with pytest.raises(NotAllowed, match=r"needed by 2 training runs not yet done: .* Stop or delete them first") as refused:
        studio.datasets.delete(made.id, owner=LOCAL)
    assert f"'made' ({by_name.id}, paused)" in str(refused.value) and f"'made' ({by_id.id}, waiting)" in str(refused.value)
    studio.training.ask(by_name.id, "stop", owner=LOCAL)
    with pytest.raises(NotAllowed, match="needed by 1 training run not yet done"):
        studio.datasets.delete(made.id, owner=LOCAL)
    studio.training.ask(by_id.id, "stop", owner=LOCAL)
    assert studio.datasets.delete(made.id, owner=LOCAL).id == made.id and studio.datasets.list(owner=LOCAL) == ()


def test_the_form_and_the_lists_say_what_people_typed_as_text(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base), "trigger": "<b>x</b>"}, owner=LOCAL)
    studio.training.run(card.id).tell("warning", step=1, text="<script>alert(1)</script>")
    studio.training.run(card.id).tell("preview", step=0, number=0, prompt="<i>a fox", file="x")
    shown = run_html(card, studio.training.run(card.id).events(), said="<u>no</u>") + runs_html([card], {card.id: [3.0, 2.0]})
    shown += new_html(["pocket"], {"d": "<s>set"}, chosen_of(card.config), {"quick": "<em>cannot"})
    for bad in ("<script>", "<i>a fox", "<u>no", "<b>x", "<s>set", "<em>cannot"):
        assert bad not in shown
    assert "made again" in shown and "run=new&amp;origin=" in shown


def test_curves_leave_out_what_is_not_finite_and_keep_their_ends() -> None:
    points = [(step, float(step)) for step in range(5000)]
    assert thinned(points)[0] == points[0] and thinned(points)[-1] == points[-1] and len(thinned(points)) < 500
    assert curve_svg({"raw": [(0, float("nan"))]}, 10, "x") == "" and "polyline" not in spark_svg([1.0])
    assert "polyline" in curve_svg({"held": [(0, 1.0), (9, 1.0)]}, 10, "x")
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])


def test_a_run_whose_job_is_gone_is_interrupted(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL)
    assert card.job is not None
    studio.cancel(card.job.id, owner=LOCAL)
    import json

    path = studio.training.run(card.id).folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"at": time.time() - 60, "step": 4}))
    assert studio.training.card(card.id, owner=LOCAL).state.state == "interrupted"
    with pytest.raises(NotAllowed, match=r"nothing of it since its last save is a LoRA yet\. Resume it, then Stop"):
        studio.training.ask(card.id, "stop", owner=LOCAL)
    run = studio.training.run(card.id)
    run.lora_file("made").parent.mkdir()
    run.lora_file("made").write_bytes(b"of Save now")
    assert studio.training.ask(card.id, "stop", owner=LOCAL).state.message == "Stopped; what was trained can be used."


def test_a_run_that_failed_is_used_where_it_was_exported(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL)
    failed = replace(card, job=None, state=RunState("failed", 4, 6))
    for made in (False, True):
        shown = replace(failed, made=made)
        assert ("Use in Create" in use_html(shown, "a clip"), "train_use" in runs_html([shown], {})) == (made, made)
