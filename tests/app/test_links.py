"""The way between devices: kept where it was measured, known to plans and the page, and named as measured or assumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.links import FILE, keep, key_of, with_link
from app.parallel_view import devices_words, page_choices
from app.queue import door
from app.queue.door import SprocketEngine
from engine.events import Event, Stage, StageStarted
from engine.facts import published
from engine.hardware import Gpu, Hardware, detect

GPUS = tuple(Gpu(device=f"cuda:{at}", name="a card", total_bytes=80 * 2**30, free_bytes=79 * 2**30) for at in range(2))
TWO = Hardware(device="cuda:0", name="a card", total_bytes=80 * 2**30, free_bytes=79 * 2**30, cores=8, bf16=True, gpus=GPUS)
SLOW = (2e9, 1e-3)
CPU = Hardware(device="cpu", name="a processor", total_bytes=16 * 2**30, free_bytes=12 * 2**30, cores=4, bf16=False)


def test_a_link_is_kept_for_the_devices_it_was_measured_between(tmp_path: Path) -> None:
    assert with_link(TWO, tmp_path) == TWO
    keep(tmp_path, TWO, SLOW, 1.8e9)
    known = with_link(replace(TWO, free_bytes=5, gpus=tuple(reversed(GPUS))), tmp_path)  # whatever is free, in whatever order
    assert (known.link, known.link_at) == (SLOW, 1.8e9) and Hardware.from_json(json.loads(json.dumps(asdict(known)))) == known
    for other in (replace(TWO, gpus=GPUS[:1]), replace(TWO, gpus=(GPUS[0], replace(GPUS[1], name="another"))), CPU):
        assert with_link(other, tmp_path).link is None
    keep(tmp_path, CPU, (5e8, 1e-4), 1.9e9)
    assert with_link(TWO, tmp_path).link == SLOW and with_link(CPU, tmp_path).link == (5e8, 1e-4)
    for damaged in ('{"', "[]", json.dumps({key_of(TWO): {"bytes_per_second": "fast"}}), json.dumps({key_of(TWO): 3})):
        (tmp_path / FILE).write_text(damaged)
        assert with_link(TWO, tmp_path) == TWO
    (tmp_path / "full").write_text("a file, where the folder should be")
    keep(tmp_path / "full", TWO, SLOW, 1.8e9)  # no harm done



def test_the_engine_keeps_what_its_fleet_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPROCKET_DATA_DIR", str(tmp_path))
    one, later = SprocketEngine(), SprocketEngine()
    assert one.hardware("cpu").link is None
    one._models = SimpleNamespace(fleet=SimpleNamespace(link=SLOW, pids={}, held={}, devices=("cpu",) * 2))  # type: ignore[assignment]
    measured = one.hardware("cpu")
    assert measured.link == SLOW and measured.link_at is not None
    assert one.hardware("cpu").link_at == measured.link_at  # once, not at every look
    assert later.hardware("cpu").link == SLOW  # in another process, before it has a fleet


def test_a_link_of_ranks_on_the_processor_is_not_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "detect", lambda device=None, _held=None: CPU if device == "cpu" else TWO)
    engine = door.open_engine("app.queue.door:SprocketEngine", tmp_path / "given")
    assert isinstance(engine, SprocketEngine)
    fleet = SimpleNamespace(link=None, pids={}, held={}, devices=("cpu", "cpu"))
    engine._models = SimpleNamespace(fleet=fleet)  # type: ignore[assignment]
    (tmp_path / "given").mkdir()

    def events() -> Iterator[Event]:
        fleet.link = SLOW
        yield StageStarted(Stage.LOAD)

    assert [event.stage for event in engine._on_fleet(events()) if isinstance(event, StageStarted)] == [Stage.LOAD]
    assert with_link(CPU, tmp_path / "given").link == SLOW  # at once, in the folder that was named
    assert engine.hardware().link is None and engine.hardware("cpu").link == SLOW


def test_plan_and_page_say_whether_it_was_measured(tmp_path: Path) -> None:
    five = published("THUDM/CogVideoX-5b")
    assert "150 GB/s between them is assumed" in devices_words(TWO)
    slow = replace(TWO, link=SLOW, link_at=0.0)
    assert "2 GB/s between them, measured here on " in devices_words(slow) and " 19" in devices_words(slow)
    assert page_choices(five, TWO) != page_choices(five, slow)
    assert "between" not in devices_words(replace(TWO, gpus=GPUS[:1]))
    asked = ["plan", "--model", "pocket", "--gpus", "2", "--device", "cpu", "--data-dir", str(tmp_path)]
    assumed = CliRunner().invoke(app, asked).stdout
    before = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert "Link: 0.6 GB/s between them is assumed" in assumed and before["link"]["measured"] is None
    keep(tmp_path, detect("cpu"), (1e6, 0.5), 1.8e9)
    after = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert "Link: 0.001 GB/s between them, measured here on" in CliRunner().invoke(app, asked).stdout
    assert after["link"] == {"bytes_per_second": 1e6, "latency_seconds": 0.5, "measured": 1.8e9}
    assert after["parallel"][0]["predicted_speed_up"] < before["parallel"][0]["predicted_speed_up"]
    imagined = json.loads(CliRunner().invoke(app, [*asked, "--budget", "8GiB", "--json"]).stdout)
    assert imagined["link"]["measured"] is None  # a device that is not here
