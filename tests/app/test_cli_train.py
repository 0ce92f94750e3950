"""`sprocket train`: what is refused before there is a folder, how a run's end is told, and with which exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app import cli_train
from app.cli_torchrun import main as torchrun
from app.queue.kinds import train as kind
from tests.app.test_cli import Run
from training.lora.rundir import EXITS

POCKET = ("train", "--model", "pocket", "--dataset", "pocket-world", "--name", "made", "--steps", "6", "--warmup", "2", "--device", "cpu")
ENDS = """
import json, sys
with open(sys.argv[1] + "/state.json", "w") as file:
    json.dump({{"state": "{0}", "step": 3, "steps": 6, "message": "said so"}}, file)
sys.exit({1})
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capfd)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """ending(state): every trainer from here on only says that it ended so."""
    def set_end(state: str) -> None:
        def command(folder: Path, *_rest: object, **_more: object) -> list[str]:
            return [sys.executable, "-S", "-c", ENDS.format(state, EXITS[state]), str(folder)]

        monkeypatch.setattr(kind, "launch_command", command)
        monkeypatch.setattr(cli_train, "launch_command", command)

    return set_end


@pytest.mark.parametrize(("more", "field"), [(("--dataset", "nope"), "dataset"), (("--model", "nope"), "model")])
def test_what_cannot_be_trained_makes_no_folder(run: Run, tmp_path: Path, more: tuple[str, str], field: str) -> None:
    out = tmp_path / "run"
    code, said, _err = run(*POCKET, *more, "--out", str(out), "--json")
    assert code == 2 and json.loads(said)["error"]["field"] == field
    assert not out.exists()  # it kept the wrong name for good: no run goes on with another set


def test_a_dry_run_looks_the_set_up(run: Run) -> None:
    code, said, _err = run(*POCKET, "--dataset", "nope", "--dry-run", "--json")
    assert code == 2 and json.loads(said)["error"]["field"] == "dataset"


@pytest.mark.parametrize(("before", "field"), [(("--steps", "2000"), "steps"), (("--no-image-noise",), "image_noise"),
                                               (("--data-dir", "elsewhere"), "data_dir")])
def test_an_option_before_a_command_is_not_passed_over(run: Run, before: tuple[str, ...], field: str) -> None:
    code, said, _err = run("train", *before, "list", "--json")
    assert code == 2 and json.loads(said)["error"]["field"] == field
    assert f"stands before list, which would not see it. Write {before[0]} behind" in said


@pytest.mark.parametrize(("state", "code"), [("failed", 1), ("stopped", 11), ("blocked", 12)])
def test_how_a_run_ended_is_one_object_and_an_exit_code(run: Run, ending: Callable[[str], None], tmp_path: Path, state: str,
                                                        code: int) -> None:
    ending(state)
    for ways in (("--out", str(tmp_path / "run")), ()):
        ended, said, err = run(*POCKET, *ways, "--json")
        told = json.loads(said)  # one, also of a failure
        assert ended == code, err
        assert told.get("state", "failed") == state and "said so" in said


def test_a_run_is_shown_as_json_with_and_without_asking(run: Run, ending: Callable[[str], None]) -> None:
    ending("stopped")
    run(*POCKET)
    [row] = run.json("train", "list")["runs"]
    shown = run.json("train", "show", row["id"])
    assert shown["config"]["steps"] == 6 and json.loads(run("train", "show", row["id"])[1]) == shown


@pytest.mark.parametrize(("text", "says"), [(None, "No such file"), ("{", "no JSON"), ("[1]", "holds a list"), ('{"prompt": 3}', "prompt")])
def test_a_request_file_that_is_none_is_refused_before_ranks_begin(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str | None,
                                                                   says: str) -> None:
    if text is not None:
        (tmp_path / "request.json").write_text(text)
    assert torchrun(["--out", str(tmp_path / "clip.mp4"), "--request", str(tmp_path / "request.json")]) == 2
    assert says in capfd.readouterr().err


def test_torchrun_ends_with_the_codes_of_the_other_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["--out", str(tmp_path / "clip.mp4"), "--prompt", "a red ball", "--device", "cpu"]
    assert torchrun([*asked, "--model", "nope"]) == 2 and "no model 'nope'" in capfd.readouterr().err
    (tmp_path / "request.json").write_text(json.dumps({"budget": 2**28, "width": 1920, "height": 1088}))
    assert torchrun([*asked, "--request", str(tmp_path / "request.json")]) == 3
    assert not (tmp_path / "clip.mp4").exists()
