"""The command line through its own entry point: what it prints, how it exits, what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.history.records import Job, JobState
from app.studio import Studio
from tests.site import wait_for


class Run:
    """`run(...)` calls the command in this process and returns (exit code, standard output, standard error)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["sprocket", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        out, err = self._capfd.readouterr()
        return int(ended.value.code or 0), out, err

    def json(self, *arguments: str) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("SPROCKET_ENGINE", "tests.fakes:FakeEngine")
    return Run(monkeypatch, capfd)


def test_generate_prints_one_json_object_and_keeps_the_clip(run: Run, tmp_path: Path, own_data_dir: Path) -> None:
    out = tmp_path / "clip.mp4"
    made = run.json("generate", "--prompt", "a red ball", "--seed", "7", "--out", str(out))
    assert made["path"] == str(out) and out.stat().st_size > 0
    assert made["recipe"]["request"] | {"seed": 7, "prompt": "a red ball"} == made["recipe"]["request"]
    assert set(made["seconds"]) >= {"load", "sample", "decode"}
    listed = run.json("history", "list")["clips"]
    assert [clip["id"] for clip in listed] == [made["clip"]]
    assert Path(listed[0]["path"]).read_bytes() == out.read_bytes()
    assert not list(own_data_dir.rglob("*.part")) and not list(tmp_path.glob("*.part"))


def test_show_restore_rebuild(run: Run, tmp_path: Path, own_data_dir: Path) -> None:
    made = run.json("generate", "--prompt", "a red ball's day", "--seed", "7", "--guidance", "3.5")
    assert run.json("history", "show", made["clip"])["recipe"] == made["recipe"]
    request = run.json("history", "restore", made["path"])["request"]
    assert request == run.json("history", "restore", made["clip"])["request"] == made["recipe"]["request"]
    _code, line, _err = run("history", "restore", made["path"])
    assert line.startswith("sprocket generate ") and "--guidance 3.5" in line and "'a red ball'\"'\"'s day'" in line
    (own_data_dir / "history.db").unlink()
    assert run.json("history", "rebuild") == {"clips": 1}
    assert run.json("history", "show", made["clip"])["recipe"]["request"] == made["recipe"]["request"]


def test_restore_says_what_its_line_cannot(run: Run, own_data_dir: Path) -> None:
    made = run.json("generate", "--prompt", "a red ball")
    told = Path(made["path"]).with_suffix(".json")
    recipe = json.loads(told.read_text())
    assert "edited" not in run("history", "restore", str(told))[2]
    recipe["request"] |= {"key_frames": 3, "edits": [[0, 7]]}
    told.write_text(json.dumps(recipe))
    _code, line, err = run("history", "restore", str(told))
    assert line.startswith("sprocket generate ") and "1 of its key frames were edited" in err
    assert run.json("history", "restore", str(told))["request"]["edits"] == [[0, 7]]


def test_lists_are_empty_but_not_silent(run: Run) -> None:
    assert run.json("queue", "list") == {"jobs": []}
    assert run.json("history", "list") == {"clips": []}
    code, out, err = run("queue", "list")
    assert (code, out) == (0, "") and "Nothing runs or waits" in err


@pytest.mark.parametrize(("arguments", "field", "says"), [
    (["--prompt", "  "], "prompt", "empty"),
    (["--prompt", "x" * 1_000_000], "prompt", "1,000,000"),
    (["--prompt", "a\x07b"], "prompt", "control character"),
    (["--prompt", "a\udc80b"], "prompt", "surrogate"),
    (["--prompt", "a", "--seed", str(2**63)], "seed", "2^63 - 1"),
    (["--prompt", "a", "--seed", "-1"], "seed", "0 to"),
    (["--prompt", "a", "--frames", "24"], "frames", "nearest is 25"),
    (["--prompt", "a", "--width", "100"], "width", "multiple of 16"),
    (["--prompt", "a", "--height", "99999"], "height", "4,096"),
    (["--prompt", "a", "--steps", "0"], "steps", "1 to 200"),
    (["--prompt", "a", "--guidance", "nan"], "guidance", "nan"),
    (["--prompt", "a", "--guidance", "inf"], "guidance", "inf"),
    (["--prompt", "a", "--scheduler", "euler"], "scheduler", "dpm, ddim"),
    (["--prompt", "a", "--out", "nowhere/clip.mp4"], "out", "folder"),
    (["--prompt", "a", "--out", "clip.avi"], "out", ".mp4"),
])
def test_bad_requests_exit_2_name_the_field_and_write_nothing(run: Run, own_data_dir: Path, arguments: list[str],
                                                              field: str, says: str) -> None:
    code, out, err = run("generate", *arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"]["field"] == field
    assert says in err and len(err) < 2000
    assert not list(own_data_dir.rglob("*.mp4"))
    assert run.json("queue", "list") == {"jobs": []}


def test_an_unknown_model_is_an_error_that_says_where_to_look(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPROCKET_ENGINE")
    code, out, err = run("generate", "--prompt", "a", "--model", "no-such-model", "--json")
    assert code == 2 and json.loads(out)["error"]["code"] == "model_missing"
    assert "no-such-model" in err and "Installed: pocket" in err


def test_a_clip_too_large_for_the_memory_exits_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.fakes

    def small(_self: object) -> Any:
        from dataclasses import replace
        return replace(tests.fakes.MACHINE, free_bytes=2**20)

    monkeypatch.setattr(tests.fakes.FakeEngine, "hardware", small)
    code, out, err = run("generate", "--prompt", "a", "--json")
    assert code == 3 and json.loads(out)["error"]["code"] == "cannot_fit" and "memory" in err


LONG = "a" * 300


@pytest.mark.parametrize(("arguments", "says"), [
    (["history", "show", "no-such-clip"], "no such clip"),
    (["history", "restore", LONG], "no such clip"),  # a name that no file can have was an error of the operating system
    (["interpolate", LONG, "--fps", "24"], "no such file"),
    (["train", "show", "no-such-run"], "no such training run"),
    (["train", "resume", LONG], "no such training run"),
    (["dataset", "import", LONG], "cannot be opened"),
    (["loras", "delete", "nothing"], "No LoRA"),
    (["generate", "--prompt", "a", "--lora", f"{LONG}:0.5"], "cannot be opened"),
    (["generate", "--prompt", "a", "--out", f"{LONG}.mp4"], "at most 240"),
    (["users", "remove", "nobody"], "no user"),
])
def test_a_name_that_is_not_there_is_a_bad_request(run: Run, arguments: list[str], says: str) -> None:
    code, _out, err = run(*arguments)
    assert code == 2 and says in err


def test_refining_for_a_model_that_is_not_there_says_that(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPROCKET_ENGINE")  # the pretended one has any model
    for arguments in (["refine", "ball", "--model", "nope"], ["generate", "--refine", "auto", "--prompt", "a", "--model", "nope"]):
        code, out, _err = run(*arguments, "--json")
        assert code == 2 and json.loads(out)["error"]["code"] == "model_missing"  # "No refiner is set up" sent people elsewhere


def test_a_key_frame_that_is_no_file_is_refused_by_its_own_name(run: Run) -> None:
    code, out, _err = run("generate", "--prompt", "a", "--keyframe", "0=/nope.png", "--json")
    error = json.loads(out)["error"]
    assert (code, error["field"]) == (2, "keyframe") and "/nope.png" in error["message"]


def test_interpolating_without_the_memory_exits_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run.json("generate", "--prompt", "a red ball", "--seed", "7")

    def short(self: Studio, job_id: str, _on_event: object = None) -> Job:
        return dataclasses.replace(self.job(job_id), state=JobState.FAILED, error="memory ran out", error_code="out_of_memory")

    monkeypatch.setattr(Studio, "run_here", short)
    code, out, _err = run("interpolate", made["clip"], "--fps", "24", "--json")
    assert code == 3 and json.loads(out)["error"]["code"] == "cannot_fit"


def test_doctor_finds_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("in the way")
    code, out, _err = run("doctor", "--data-dir", str(file / "data"), "--json")
    report = json.loads(out)
    assert code == 1 and not report["ok"]
    assert [f["what"] for f in report["findings"] if f["ok"] is False] == ["data folder"]


def test_doctor_is_content_here(run: Run) -> None:
    report = run.json("doctor")
    assert report["ok"], [f for f in report["findings"] if f["ok"] is False]


def test_help_needs_no_torch_and_no_gradio() -> None:
    import subprocess
    code = "import sys, app.cli\nprint([m for m in ('torch', 'gradio', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).resolve().parents[2])
    assert done.stdout.strip() == "[]"


def test_generate_ended_by_sigterm_leaves_no_job_running(run: Run, own_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.5")
    program = [sys.executable, "-c", "from app.cli import main; main()", "generate", "--prompt", "a red ball"]
    working = subprocess.Popen(program, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(own_data_dir.rglob("checkpoint.json")), "the first step")
    working.send_signal(signal.SIGTERM)
    _out, err = working.communicate(timeout=60)
    assert working.returncode != 0 and "Traceback" not in err
    assert run.json("queue", "list")["jobs"] == []  # before: `running`, until another process looked
    assert run.json("history", "list")["clips"] == []
