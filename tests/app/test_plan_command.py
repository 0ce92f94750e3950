"""`sprocket plan`: budgets, published checkpoints, and refusals, with no weights and no GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import cli
from app.plan_command import parse_bytes, resolve
from app.planning import timings_of
from engine.errors import InvalidRequest
from engine.models.catalogue import pocket_dir
from engine.plan import Plan, forecast_stages, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from engine.video.recipe import build_recipe
from tests.engine.tiny import CPU


def sprocket(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Any, str]:
    """Exit code, the JSON object printed, and what stood on standard error."""
    monkeypatch.setattr("sys.argv", ["sprocket", "plan", *words, "--json"])
    code: int | str | None = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    seen = capsys.readouterr()
    assert isinstance(code, int | None)
    return code or 0, json.loads(seen.out), seen.err


@pytest.mark.parametrize(("text", "size"), [("8GiB", 8 * 2**30), ("8GB", 8 * 10**9), (" 8 gib ", 8 * 2**30), ("512MiB", 2**29),
                                            ("1.5TB", 1_500_000_000_000), ("8589934592", 2**33), (".5GiB", 2**29), ("24e9", 24 * 10**9)])
def test_amounts(text: str, size: int) -> None:
    assert parse_bytes("budget", text) == size


@pytest.mark.parametrize(("text", "says"), [
    ("0", "more than 0"), ("0GiB", "more than 0"), ("-8GiB", "more than 0"), ("nan", "more than 0"), ("NaNGiB", "more than 0"),
    ("inf", "more than 16 TiB"), ("1e999GiB", "more than 16 TiB"), ("8", "A bare number counts bytes"),
    ("8 MB", "nothing runs below 256 MiB"),
    ("1e9TiB", "no device has that"), ("8Gi", "not an amount"), ("8 gigabytes", "not an amount"), ("", "not an amount"),
    ("8,5GiB", "not an amount"), ("GiB", "not an amount"), ("8GiB GiB", "not an amount"), ("x" * 500, "not an amount"), ("٨GiB", "not an")])
def test_amounts_that_are_none(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_bytes("budget", text)
    assert caught.value.field == "budget"
    assert caught.value.suggestion
    assert len(str(caught.value)) < 250


def test_a_published_checkpoint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = ("--model", "THUDM/CogVideoX-5b", "--budget", "8GiB", "--data-dir", str(tmp_path))
    code, made, _ = sprocket(capsys, monkeypatch, *base)
    assert (code, made["runs"], made["model"]["installed"]) == (0, False, False)
    assert made["forecast"]["device_bytes"] <= 8 * 2**30
    assert made["plan"]["placement"]["transformer"]["residency"] == "streamed"
    assert made["missing"] == []
    code, small, _ = sprocket(capsys, monkeypatch, *base, "--width", "480", "--height", "320", "--frames", "9", "--steps", "20")
    assert (small["plan"]["frames"], small["plan"]["steps"], small["plan"]["width"]) == (9, 20, 480)
    assert small["forecast"]["stages"]["sample"] < made["forecast"]["stages"]["sample"]
    assert (made["plan"]["quality"], made["plan"]["placement"]["decode"]) == ("lossless", "banded")
    code, now, _ = sprocket(capsys, monkeypatch, *base, "--now")
    assert (code, now["plan"]["placement"]) == (0, made["plan"]["placement"])
    code, error, _ = sprocket(capsys, monkeypatch, *base, "--budget", "1GiB")
    assert (code, error["error"]["code"]) == (3, "cannot_fit")
    assert list(tmp_path.iterdir()) == []


def test_every_published_checkpoint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.facts import published_ids

    for model in published_ids():
        code, made, _ = sprocket(capsys, monkeypatch, "--model", model, "--budget", "24GiB", "--data-dir", str(tmp_path))
        assert (code, made["model"]["path"]) == (0, model)


def test_the_pocket_model_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, made, _ = sprocket(capsys, monkeypatch, "--budget", "4GiB", "--device", "cpu", "--data-dir", str(tmp_path))
    assert (code, made["runs"], made["missing"], made["plan"]["residency"]) == (0, True, [], "resident")


def test_a_model_goes_by_the_name_that_its_clips_have(tmp_path: Path) -> None:
    shutil.copytree(pocket_dir(), tmp_path / "models/me--pocket")
    assert resolve("me/pocket", tmp_path / "models").name == "me/pocket"
    assert resolve(str(tmp_path / "models/me--pocket"), None).name == "me--pocket"


def test_seconds_are_those_of_clips_of_the_same_sort() -> None:
    spec = read_spec(pocket_dir(), "pocket")
    plain, keyed = (plan(GenerationRequest(prompt="a fox", frames=49, **more), spec, CPU) for more in ({}, {"key_frames": 7}))

    def clips(made: Plan, seconds: dict[str, float]) -> list[Any]:
        return [SimpleNamespace(model="pocket", recipe=build_recipe(made) | {"seconds": seconds})] * 2

    shown, rounds = {"sample": 10.0, "decode": 6.0}, {"sample": 20.0, "decode": 0.4}
    both = timings_of([*clips(plain, shown), *clips(keyed, rounds), *clips(keyed, rounds)])
    for made, seconds, count in ((plain, shown, 2), (keyed, rounds, 4)):  # work of the one is counted in operations, of the other in pixels
        assert forecast_stages(made, both) == (pytest.approx(seconds), f"from {count} clips made on this machine")
    assert forecast_stages(plain, both[2:]) == ({}, "nothing like it measured with this model on this machine yet")


def test_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["sprocket", "plan", "--model", "cogvideox-2b", "--budget", "12GiB", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "CogVideoX-2b: 49 frames of 720 x 480" in shown
    assert "not on this machine" in shown


@pytest.mark.parametrize(("words", "code", "field"), [
    (("--model", "cogvideox-9b", "--budget", "8GiB"), 2, "model"), (("--budget", "nan"), 2, "budget"),
    (("--budget", "8GiB", "--device", "tpu"), 2, "device"), (("--budget", "8GiB", "--profile", "quick"), 2, "profile"),
    (("--budget", "8GiB", "--quality", "perfect"), 2, "quality"), (("--budget", "8GiB", "--device", "cpu", "--ram", "8GiB"), 2, "ram"),
    (("--model", "cogvideox-5b", "--budget", "8GiB", "--frames", "50"), 2, "frames"),
    (("--model", "cogvideox-5b", "--budget", "1GiB"), 3, None)])
def test_refusals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...],
                  code: int, field: str | None) -> None:
    ended, said, shown = sprocket(capsys, monkeypatch, *words, "--data-dir", str(tmp_path))
    assert ended == code
    assert said["error"].get("field") == field
    assert "Traceback" not in shown
