"""How a training job ends: its trainer saves before the job is over, one trainer works on a run, a full disk is no failure, and what is
used stays."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import storage
from app.cli_train import _here
from app.errors import NotAllowed
from app.queue.door import open_engine
from app.queue.executor import Workplace, perform
from app.queue.kinds import train
from app.queue.process import this_process
from app.queue.reports import WORKER, write_report
from app.settings import Settings
from app.studio import LOCAL, Studio, open_studio
from app.training import RunCard
from engine.errors import InvalidRequest
from engine.hardware import Hardware
from tests.app.test_training import ASKED
from tests.training.lora_tools import base_of, random_set
from training.lora.checkpoint import checkpoints
from training.lora.config import from_mapping
from training.lora.full import save_model
from training.lora.lock import run_lock
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import RunDir, RunState


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("base"))


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = open_studio(Settings(data_dir=tmp_path / "data", stop_seconds=120.0, cancel_grace_seconds=120.0))  # a busy computer is slow
    yield made
    made.close()


def started(studio: Studio, base: Path, **changes: Any) -> tuple[RunCard, RunDir]:
    card = studio.training.start(ASKED | {"model": str(base)} | changes, owner=LOCAL)
    run = studio.training.run(card.id)
    save_set(run.folder / SAMPLES, random_set())
    return card, run


def work(studio: Studio, card: RunCard, stopping: threading.Event | None = None) -> str:
    """What a worker does; the state of the job after it."""
    assert card.job is not None
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=card.job.id)
    assert claim is not None
    engine = open_engine(studio.settings.engine)
    perform(Workplace(studio.settings, studio.store, engine, engine.open_models(), stopping or threading.Event()), claim)
    return studio.job(card.job.id).state.value


def at_step(run: RunDir, step: int, act: Callable[[], None]) -> None:
    """`act` in a thread, once the run is so far."""
    def wait() -> None:
        until = time.monotonic() + 200
        while run.state().step < step and time.monotonic() < until:
            time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


LONG: dict[str, Any] = {"steps": 500, "warmup": 0, "schedule": "constant", "save_steps": 500, "eval_steps": 0, "accumulate": 16}
"""A step takes most of a second, and nothing is saved before the end."""


def saved(run: RunDir) -> bool:
    """Whether the run is paused and saved where it stands, and its trainer is gone."""
    with run_lock(run.folder):
        state = run.state()
    return state.state == "paused" and [path.name for path in checkpoints(run.checkpoints)] == [f"step-{state.step:08d}"]


def test_a_worker_that_ends_waits_until_its_trainer_has_saved(studio: Studio, base: Path) -> None:
    card, run = started(studio, base, **LONG)
    stopping = threading.Event()
    at_step(run, 1, stopping.set)
    assert work(studio, card, stopping) == "queued"  # handed back, for the next worker
    assert saved(run) and run.state().step >= 1
    assert studio.training.card(card.id, owner=LOCAL).state.state == "waiting"


def test_ctrl_c_of_the_command_line_pauses(studio: Studio, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    card, run = started(studio, base, **LONG | {"accumulate": 64})  # so long that it cannot save in passing
    at_step(run, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        _here(studio, card, as_json=False)
    assert ended.value.code == 10 and saved(run)
    said = capfd.readouterr().err
    assert "Pausing after this step" in said and "Resume goes on exactly here" in said
    assert studio.training.resume(card.id, owner=LOCAL).job is not None


def test_the_trainer_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPROCKET_REFINER_KEY", "SPROCKET_DATABASE", "SPROCKET_LOG"):
        monkeypatch.setenv(name, "sk-12345")
    told = train.environment()
    assert "PYTHONPATH" in told and [name for name, value in told.items() if value == "sk-12345"] == ["SPROCKET_LOG"]


DIES = """
import sys
from training.lora.rundir import RunDir, RunState
RunDir(sys.argv[1]).set_state(RunState("running", 3, 6), alive=True)
print("training: no room", file=sys.stderr)
sys.exit(1)
"""


def replaced(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """`program` in place of the trainer; it gets the run's folder."""
    monkeypatch.setattr(train, "launch_command", lambda run, *rest, **more: [sys.executable, "-c", program, str(run)])


def test_a_trainer_without_a_last_word_on_a_full_disk_waits_for_room(studio: Studio, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, _run = started(studio, base)
    replaced(monkeypatch, DIES)
    looks = iter([None])
    monkeypatch.setattr(storage, "problem", lambda settings, need=0: next(looks, "The disk is full. Free some space."))
    assert work(studio, card) == "blocked"
    assert card.job is not None and "Free some space" in str(studio.job(card.job.id).error)


def test_a_trainer_that_just_dies_is_a_failure_in_its_own_words(studio: Studio, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, run = started(studio, base)
    run.set_state(RunState("paused", 2, 6))  # of an attempt before, which says nothing about this one
    replaced(monkeypatch, "import sys; print('training: it broke', file=sys.stderr); print('Traceback of the launcher'); sys.exit(1)")
    assert work(studio, card) == "failed"
    assert card.job is not None
    error = str(studio.job(card.job.id).error)
    assert "it broke" in error and "Traceback" not in error


def test_no_second_job_for_a_run(studio: Studio, base: Path) -> None:
    card, run = started(studio, base)
    assert card.job is not None
    with pytest.raises(NotAllowed, match="works already, or waits"):
        studio.duplicate(card.job.id, owner=LOCAL)
    studio.cancel(card.job.id, owner=LOCAL)
    second = studio.training.resume(card.id, owner=LOCAL).job
    assert second is not None
    for again in (studio.retry, studio.duplicate):
        with pytest.raises(NotAllowed, match="works already, or waits"):
            again(card.job.id, owner=LOCAL)
    studio.training.ask(card.id, "pause", owner=LOCAL)
    assert run.asked("pause")
    assert studio.retry(card.job.id, owner=LOCAL).state.value == "queued" and not run.asked("pause")  # else it would pause at once


def test_a_run_of_the_command_line_is_not_taken_by_the_server(studio: Studio, base: Path) -> None:
    card = studio.training.start(ASKED | {"model": str(base)}, owner=LOCAL, reserve=True)
    for again in (False, True):
        if again:
            studio.training.ask(card.id, "pause", owner=LOCAL)
            card = studio.training.resume(card.id, owner=LOCAL, reserve=True)
        assert card.job is not None
        assert studio.store.leases.claim(replace(this_process(), pid=1), now=time.time()) is None
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=card.job.id)
    assert claim is not None and claim.job.id == card.job.id


def test_a_run_is_planned_with_what_the_worker_says_is_free(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (Hardware(device="cuda", name="fake", total_bytes=24 * 2**30, free_bytes=free * 2**30, cores=2, bf16=True,
                             ram_bytes=2**35) for free in (2, 20))
    monkeypatch.setattr(studio._engine, "hardware", lambda device=None: small)
    assert studio.training.forecast(from_mapping(ASKED | {"model": "pocket", "device": ""})).free_bytes == 2 * 2**30
    write_report(studio.store, WORKER, this_process(), large)
    for device, free in (("", 20), ("cuda", 20), ("cpu", 2)):
        config = from_mapping(ASKED | {"model": "pocket", "device": device})
        assert studio.training.forecast(config).free_bytes == free * 2**30


def test_speed_is_that_of_the_same_device(studio: Studio) -> None:
    config = from_mapping(ASKED | {"model": "pocket"})
    RunDir(studio.training.folder / "1").create(config, {"device": "cuda", "flops_per_second": 1e14})
    assert not studio.training.forecast(config).measured
    RunDir(studio.training.folder / "0").create(config, {"device": "cpu", "flops_per_second": 1e10})
    assert studio.training.forecast(config).measured


def test_a_run_that_another_process_has_is_left_alone(studio: Studio, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, run = started(studio, base)
    assert card.job is not None
    replaced(monkeypatch, "raise SystemExit(1)")
    monkeypatch.setattr(train, "HELD_SECONDS", 0.5)
    with run_lock(run.folder):
        run.set_state(RunState("running", 4, 6), alive=True)
        with pytest.raises(InvalidRequest, match="worked on by another process"), run_lock(run.folder):
            pass
        assert work(studio, card) == "failed"
        assert "worked on by another process" in str(studio.job(card.job.id).error)
        assert (run.state().state, run.state().step) == ("running", 4)
        for act in (studio.training.resume, studio.training.delete):
            with pytest.raises(NotAllowed, match="Another process works on this run"):
                act(card.id, owner=LOCAL)
    studio.training.delete(card.id, owner=LOCAL)
    assert not run.folder.exists()


def test_a_run_whose_model_is_listed_stays(studio: Studio, base: Path) -> None:
    card, run = started(studio, base, method="full", name="tuned")
    assert card.job is not None
    studio.cancel(card.job.id, owner=LOCAL)
    save_model(base, {}, run.model_folder("tuned"), {"step": 6})
    run.set_state(RunState("done", 6, 6))
    assert studio.training.use_model(card.id, owner=LOCAL) == "tuned"
    with pytest.raises(NotAllowed, match="Remove tuned from Models first"):
        studio.training.delete(card.id, owner=LOCAL)
    assert "tuned" in [spec.name for spec in studio.models()]
    studio.hub.delete("tuned")
    studio.training.delete(card.id, owner=LOCAL)
    assert not run.folder.exists()
