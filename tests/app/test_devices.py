"""One job per GPU, or all GPUs for one job: who is started for what, and changing over while work goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.cli import main
from app.planning import plan_here
from app.queue.devices import environment, wanted
from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.studio import Studio, open_studio
from app.ui.actions import ACTIONS
from app.ui.html.devices import DevicesView, devices_html
from app.ui.layout import build_ui
from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.request import GenerationRequest
from tests.fakes import MACHINE, SPEC, FakeEngine
from tests.site import wait_for


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    monkeypatch.setenv("FAKE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return FakeEngine().hardware()


def test_who_is_started_for_what(two_gpus: Hardware) -> None:
    assert wanted("each", two_gpus) == ("cuda:0", "cuda:1")
    assert wanted("together", two_gpus) == wanted("each", MACHINE) == wanted("each", replace(two_gpus, gpus=two_gpus.gpus[:1])) == ("",)
    assert environment("", {}) == {} and environment("cuda:1", {}) == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6"})["CUDA_VISIBLE_DEVICES"] == "6"
    assert environment("cuda:1", {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


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
        wait_for(lambda: all(studio.job(job).step >= 2 for job in jobs), "a second step of both", 60)  # both at once
        assert set(supervisor.worker_pids) == {"cuda:0", "cuda:1"} and supervisor.worker_pid is None
        assert set(studio.store.recall_all("worker")) == {"worker:cuda:0", "worker:cuda:1"}
        monkeypatch.setenv("FAKE_STEP_SECONDS", "0.0")
        studio.set_devices("together")
        wait_for(lambda: all(studio.job(job).state.ended for job in jobs), "the end of both", 60)
        assert set(supervisor.worker_pids) == {""} and set(studio.store.recall_all("worker")) == {"worker"}
        for job in map(studio.job, jobs):
            assert (job.state.value, job.attempt) == ("done", 2) and (job.resumed_from or 0) >= 2
    finally:
        supervisor.close()
        studio.close()


def test_the_fold_says_what_each_device_has_and_which_way_is_chosen(two_gpus: Hardware) -> None:
    closed, opened = devices_html(None), devices_html(DevicesView(two_gpus, "each"))
    assert 'data-open="devices"' in closed and "Looking" in closed
    assert opened.count('class="device"') == 2 and "40.0 GB of 48.0 GB free" in opened and "7 %" in opened
    assert re.findall(r'data-mode="(\w+)" aria-pressed="(\w+)"', opened) == [("together", "false"), ("each", "true")]
    evil = replace(MACHINE, name="<script>")
    alone = devices_html(DevicesView(evil, "each", problem="<b>no"))
    assert "<script>" not in alone and "<b>no" not in alone and "device-mode" not in alone and "2 cores" in alone
    full = replace(two_gpus, gpus=(replace(two_gpus.gpus[0], free_bytes=0, load=None),))
    assert 'aria-valuenow="100"' in devices_html(DevicesView(full, "each")) and "Load" not in devices_html(
        DevicesView(full, "each")).split("<ul")[1]


def test_the_switch_on_the_page(studio: Studio, two_gpus: Hardware) -> None:
    demo = build_ui(studio)
    panel = next(block for block in demo.blocks.values() if getattr(block, "elem_id", "") == "devices")

    def clicked(**said: str) -> str:
        click = SimpleNamespace(studio=studio, parts=SimpleNamespace(devices=panel), text=lambda name: said.get(name, ""))
        return ACTIONS[said["act"]](click)[panel]  # type: ignore[arg-type]

    assert 'data-mode="together" aria-pressed="true"' in clicked(act="devices")
    assert 'data-mode="each" aria-pressed="true"' in clicked(act="share_devices", mode="each")
    assert studio.devices() == "each"
    assert "use each" in clicked(act="share_devices", mode="none") and studio.devices() == "each"
