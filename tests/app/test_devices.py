"""One job per GPU, or all GPUs for one job: who is started for what, and changing over while work goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.cli import main
from app.planning import plan_here
from app.queue.devices import environment, wanted
from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.request import GenerationRequest
from tests.fakes import MACHINE, SPEC, FakeEngine


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    monkeypatch.setenv("FAKE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return FakeEngine().hardware()


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_who_is_started_for_what(two_gpus: Hardware) -> None:
    assert wanted("each", two_gpus) == ("cuda:0", "cuda:1")
    assert wanted("together", two_gpus) == wanted("each", MACHINE) == wanted("each", replace(two_gpus, gpus=two_gpus.gpus[:1])) == ("",)
    assert environment("", {}) == {} and environment("cuda:1", {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert environment("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6"}) == {"CUDA_VISIBLE_DEVICES": "6"}


def test_a_clip_that_wants_several_is_made_on_one_and_its_notes_say_so(two_gpus: Hardware, settings: Settings) -> None:
    wish = GenerationRequest(prompt="x", parallel="cfg=2")
    assert plan_here(wish, SPEC, two_gpus, (), settings).devices == ("cuda:0", "cuda:1")
    made = plan_here(wish, SPEC, two_gpus, (), settings, own_device=True)
    assert made.devices == () and made.parallel == "" and "not divided by cfg=2" in made.notes[-1]
    assert plan_here(replace(wish, parallel=None), SPEC, two_gpus, (), settings, own_device=True).notes == made.notes[:-1]


def test_the_switch(studio: Studio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert studio.devices() == "together"
    with pytest.raises(InvalidRequest, match="'some'; use each"):
        studio.set_devices("some")
    assert studio.set_devices("each") == "each"
    monkeypatch.setattr("sys.argv", ["sprocket", "queue", "devices", "--json"])
    monkeypatch.setenv("SPROCKET_ENGINE", "tests.fakes:FakeEngine")
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out) == {"devices": "each", "gpus": 0}


def test_each_gpu_has_a_job_and_a_change_over_costs_none(settings: Settings, two_gpus: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.25")
    settings = settings.model_copy(update={"devices": "each"})
    supervisor = Supervisor(settings)
    supervisor.start()
    studio = open_studio(settings)
    try:
        jobs = [studio.submit({"prompt": f"clip {number}", "parallel": "cfg=2"}).id for number in range(2)]
        until(lambda: all(studio.job(job).step >= 2 for job in jobs))  # both at once
        assert set(supervisor.worker_pids) == {"cuda:0", "cuda:1"} and supervisor.worker_pid is None
        assert set(studio.store.recall_all("worker")) == {"worker:cuda:0", "worker:cuda:1"}
        monkeypatch.setenv("FAKE_STEP_SECONDS", "0.0")
        studio.set_devices("together")
        until(lambda: all(studio.job(job).state.ended for job in jobs))
        assert set(supervisor.worker_pids) == {""} and set(studio.store.recall_all("worker")) == {"worker"}
        for job in map(studio.job, jobs):
            assert (job.state.value, job.attempt) == ("done", 2) and (job.resumed_from or 0) >= 2
    finally:
        supervisor.close()
        studio.close()
