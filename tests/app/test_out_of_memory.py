"""A worker whose memory runs out: a new process, one rung lower, from the saved state; the clip as asked for; the owner told."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.cli import main
from app.history.leases import Limits
from app.history.records import Job, JobState
from app.queue.executor import Workplace, perform
from app.queue.minder import judge
from app.queue.process import this_process
from app.queue.reports import SUPERVISOR
from app.queue.supervisor import Supervisor
from app.queue.worker import MEMORY_EXIT
from app.settings import Settings
from app.studio import Studio
from engine.events import ClipWritten, Event, StageStarted, StepDone
from engine.ladder import MOST_LAPSES, PHASES
from tests.app.test_processes import soon
from tests.fakes import FakeEngine, FakeModels

SIZE = {"width": 256, "height": 256, "frames": 17}
LOWER = ("image", "decode", "verify")
"""Phases in which tiles take less; elsewhere a fresh process may be all there is on a processor."""


@pytest.fixture
def supervisor(studio: Studio) -> Iterator[Supervisor]:
    running = Supervisor(studio.settings, studio.store)
    yield running
    running.close()


def ask(studio: Studio, phase: str, times: int, **fields: Any) -> Job:
    return studio.submit({"prompt": f"memory {phase} {times}", **SIZE, **fields})


def attempt(studio: Studio, engine: FakeEngine | None = None) -> Workplace:
    """One job by a worker of its own."""
    place = Workplace(studio.settings, studio.store, engine or FakeEngine(), FakeModels(), threading.Event())
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    perform(place, claim)
    return place


def to_the_end(studio: Studio, job: Job) -> Job:
    """The job after as many workers as it takes."""
    for _ in range(MOST_LAPSES):
        if studio.job(job.id).state is JobState.QUEUED:
            attempt(studio)
    return studio.job(job.id)


def recipe_of(studio: Studio, job: Job) -> dict[str, Any]:
    return studio.clip(studio.job(job.id).clip_id or "").recipe


def test_every_phase_by_real_workers(studio: Studio, supervisor: Supervisor) -> None:
    plain = ask(studio, "nowhere", 0)
    jobs = {phase: ask(studio, phase, 1) for phase in PHASES}
    supervisor.start()
    soon(lambda: all(studio.job(job.id).state.ended for job in jobs.values()), 600)
    whole = recipe_of(studio, plain)
    for phase, job in jobs.items():
        done = studio.job(job.id)
        assert (done.state, done.attempt, len(done.lapses), done.error) == (JobState.DONE, 2, 1, None), phase
        told = next(note for note in done.notes if note.startswith("Memory ran out"))
        assert told.startswith(f"Memory ran out {PHASES[phase]}; going on")
        assert [event.detail for event in studio.job_events(job.id) if event.what == "queued"] == ["", told]
        assert "handed back" not in told and "Traceback" not in studio.log_text(job.id)
        assert done.resumed_from == {"sample": 5, "decode": 12, "verify": 12}.get(phase)
        recipe = recipe_of(studio, job)
        lower = recipe["plan"]["placement"] != whole["plan"]["placement"]
        assert lower if phase in LOWER else lower != ("in a fresh process" in told)
        wish = recipe["request"] | {"prompt": "", "seed": 0}
        assert wish == whole["request"] | {"prompt": "", "seed": 0}  # size, frames, steps: as asked
        clip = studio.clip(done.clip_id or "")
        assert (clip.width, clip.height, clip.frames) == (256, 256, 17)
    pids = {json.loads(studio.store.recall("worker")[0]["process"])["pid"]}  # type: ignore[index]
    assert pids == {supervisor.worker_pid}
    assert (studio.store.recall(SUPERVISOR) or (None,))[0] is None  # no crash, and no waiting
    assert not list(studio.settings.data_dir.rglob("*.part"))


def test_the_worker_ends_itself_and_the_next_starts_at_once(studio: Studio) -> None:
    job = ask(studio, "decode", 1)
    place = attempt(studio)
    assert place.out_of_memory.is_set() and place.stopping.is_set()
    waiting = studio.job(job.id)
    assert (waiting.state, waiting.lapses[0]["phase"], waiting.attempt) == (JobState.QUEUED, "decode", 1)
    assert judge(MEMORY_EXIT, None, 0, 0).crashed is False
    assert not attempt(studio).out_of_memory.is_set()
    assert studio.job(job.id).state is JobState.DONE


def test_it_ends_with_a_message_that_says_what_would_help(studio: Studio) -> None:
    job = ask(studio, "decode", 99)
    failed = to_the_end(studio, job)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "out_of_memory")
    assert f"Memory ran out while decoding, {failed.attempt} times in all" in str(failed.error)
    assert "ask for 9 frames or fewer" in str(failed.error)
    assert len(failed.lapses) + 1 == failed.attempt >= 3
    (studio.settings.job_dir(job.id) / "work" / "lapses").write_text("99")  # memory came free
    assert studio.retry(job.id).lapses == ()
    attempt(studio)
    done = studio.job(job.id)
    assert (done.state, done.resumed_from, recipe_of(studio, job)["plan"]["tile"]) == (JobState.DONE, 12, [256, 256])


def test_nothing_lossy_where_it_is_not_allowed(studio: Studio) -> None:
    job = ask(studio, "decode", 99, quality="lossless")
    failed = to_the_end(studio, job)
    assert failed.state is JobState.FAILED
    assert {lapse["placement"]["decode"] for lapse in failed.lapses}.isdisjoint({"tiled", "by-tile"})
    assert any("in a fresh process" in event.detail for event in studio.job_events(job.id))
    assert "With quality near-lossless it would be tried in tiles of" in str(failed.error)


def test_a_wish_to_cancel_wins(studio: Studio) -> None:
    job = ask(studio, "decode", 1)

    class Late(FakeEngine):
        def run(self, *args: Any, **more: Any) -> Iterator[Event]:
            for event in super().run(*args, **more):
                if isinstance(event, StageStarted) and event.stage == "decode":
                    studio.cancel(job.id)
                yield event
    attempt(studio, Late())
    assert studio.job(job.id).state is JobState.CANCELLED


def test_memory_that_the_kernel_takes(studio: Studio) -> None:
    """A worker that is killed cannot say what it was doing; its row can."""
    job = ask(studio, "nowhere", 0)
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None

    class Ends(FakeEngine):
        def run(self, *args: Any, **more: Any) -> Iterator[Event]:
            for event in super().run(*args, **more):
                yield event
                if isinstance(event, StageStarted) and event.stage == "decode":
                    time.sleep(0.2)  # the heartbeat writes it
                    raise SystemExit  # a death that nothing in the worker hears of

    with pytest.raises(SystemExit):
        perform(Workplace(studio.settings, studio.store, Ends(), FakeModels(), threading.Event()), claim)
    assert studio.job(job.id).state is JobState.RUNNING
    death = judge(-9, None, 3, 4)
    assert (death.crashed, death.memory) == (True, True) and not judge(-9, None, 3, 3).memory
    studio.store.leases.reap(now=time.time(), limits=Limits(3, 25), dead=lambda _: True, crashed=this_process(),
                             cause=death.cause, memory=death.memory)
    assert [lapse["phase"] for lapse in studio.job(job.id).lapses] == ["decode"]
    attempt(studio)
    done = studio.job(job.id)
    assert done.state is JobState.DONE and any("Memory ran out while decoding; going on" in note for note in done.notes)
    assert recipe_of(studio, job)["plan"]["placement"]["decode"] != "whole"


def test_generating_without_a_server_goes_on_in_a_process_of_its_own(studio: Studio) -> None:
    own = studio.submit({"prompt": "memory decode 1", **SIZE}, reserve=True)
    seen: list[Event] = []
    done = studio.run_here(own.id, seen.append)
    assert (done.state, done.attempt, done.resumed_from) == (JobState.DONE, 2, 12)
    assert not any(isinstance(event, ClipWritten) for event in seen)  # that one was written elsewhere
    assert recipe_of(studio, own)["plan"]["placement"]["decode"] != "whole"


@pytest.mark.parametrize("phase", ["decode", "scheduler"])
def test_the_true_engine_goes_on_to_the_same_pixels(studio: Studio, phase: str) -> None:
    import av
    import numpy as np

    from app.queue.door import SprocketEngine
    from tests.engine.test_out_of_memory import Faulty, an_error
    from tests.engine.tiny import save_tiny

    save_tiny(studio.settings.models_dir / "tiny")
    engine = SprocketEngine()
    true = Studio(studio.settings, studio.store, engine)
    models = engine.open_models()

    def attempt_with(cache: Any) -> None:
        claim = studio.store.leases.claim(this_process(), now=time.time())
        assert claim is not None
        perform(Workplace(studio.settings, studio.store, engine, cache, threading.Event()), claim)

    def pixels(job: Job) -> np.ndarray:
        with av.open(str(true.clip_path(true.job(job.id).clip_id or ""))) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    wish = {"prompt": "a red fox", "model": "tiny", "steps": 3, "seed": 7, "frames": 17}
    job = true.submit(wish)
    attempt_with(Faulty(models, phase, an_error("torch")))  # type: ignore[arg-type]
    lapse, = true.job(job.id).lapses
    attempt_with(models)
    done = true.job(job.id)
    assert (done.state, done.attempt, done.resumed_from) == (JobState.DONE, 2, {"decode": 3, "scheduler": 1}[phase])
    alone = true.submit(wish)  # the same rung, never interrupted
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    studio.store.leases.lower(claim, now=time.time(), lapse=lapse, why="to be compared")
    attempt_with(models)
    assert recipe_of(true, alone)["plan"]["placement"] == recipe_of(true, job)["plan"]["placement"]
    assert (pixels(job) == pixels(alone)).all()
    whole = true.submit(wish)
    attempt_with(models)
    if recipe_of(true, job)["plan"]["quality"] == "lossless":
        assert (pixels(whole) == pixels(job)).all()
    models.close()


def sprocket(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    monkeypatch.setenv("SPROCKET_ENGINE", "tests.fakes:FakeEngine")
    monkeypatch.setattr(sys, "argv", ["sprocket", *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), json.loads(out), err


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], own_data_dir: Any) -> None:
    base = ("generate", "--prompt", "a", "--width", "256", "--height", "256", "--seed", "1")
    code, made, _ = sprocket(monkeypatch, capfd, *base, "--profile", "tiny", "--quality", "near-lossless", "--budget", "4GiB",
                             "--device", "cpu")
    assert code == 0
    said = {name: made["recipe"]["request"][name] for name in ("profile", "quality", "budget", "device")}
    assert said == {"profile": "tiny", "quality": "near-lossless", "budget": 4 * 2**30, "device": "cpu"}
    assert made["recipe"]["plan"]["placement"]["decode"] != "whole"
    assert sprocket(monkeypatch, capfd, *base)[1]["recipe"]["plan"]["placement"]["decode"] == "whole"
    for words, wrong, field in [(("--profile", "quick"), 2, "profile"), (("--quality", "best"), 2, "quality"),
                                (("--budget", "8"), 2, "budget"), (("--budget", "nan"), 2, "budget"), (("--device", "cuda"), 2, "device"),
                                (("--device", "tpu"), 2, "device"), (("--budget", "300MiB"), 3, None)]:
        code, refused, err = sprocket(monkeypatch, capfd, *base, *words)
        assert (code, refused["error"].get("field")) == (wrong, field)
        assert "Traceback" not in err
    code, refused, _ = sprocket(monkeypatch, capfd, "generate", "--prompt", "memory sample 9", "--budget", "4GiB")
    assert (code, refused["error"]["code"]) == (3, "cannot_fit") and "Memory ran out while sampling" in refused["error"]["message"]


def test_the_studio_offers_the_alternatives_and_learns_what_memory_is_really_taken(studio: Studio) -> None:
    request = {"prompt": "a", **SIZE}
    before = studio.alternatives(request)
    assert [one.word for one in before.words] == ["Fast", "Balanced", "Tiny"]
    assert all(one.seconds is None for one in before.every) and len(before.every) >= 2
    first = studio.forecast(request)
    assert (first.stages, first.disk_bytes > 2**20) == ({}, True)

    class Hungry(FakeEngine):
        def run(self, *args: Any, **more: Any) -> Iterator[Event]:
            for event in super().run(*args, **more):
                if isinstance(event, ClipWritten):
                    object.__setattr__(event, "peak_bytes", int(event.peak_bytes * 1.3))
                yield event

    for seed in range(3):
        studio.submit(request | {"seed": seed})
        attempt(studio, Hungry())
    after = studio.forecast(request)
    assert after.memory_bytes == pytest.approx(1.3 * first.memory_bytes, rel=0.01)
    assert any("1.30 times the memory" in note for note in after.notes)
    assert set(after.stages) == {"load", "encode", "sample", "decode", "verify"}
    chosen, = [one for one in studio.alternatives(request).every if one.chosen]
    assert chosen.seconds == pytest.approx(sum(after.stages.values())) and chosen.peak_bytes == after.memory_bytes
    assert sum(one.seconds is not None for one in studio.alternatives(request).every) == 1
    for _ in range(3):  # a forecast that is right by now stays so: nothing feeds on its own correction
        studio.submit(request)
        attempt(studio, Hungry())
    assert studio.forecast(request).memory_bytes == pytest.approx(after.memory_bytes, rel=0.01)


def test_sprocket_plan_knows_this_machines_history(studio: Studio, settings: Settings, monkeypatch: pytest.MonkeyPatch,
                                                   capfd: pytest.CaptureFixture[str]) -> None:
    import app.plan_command
    from tests.fakes import MACHINE, SPEC

    monkeypatch.setattr(app.plan_command, "resolve", lambda model, models_dir: SPEC)
    monkeypatch.setattr(app.plan_command, "detect", lambda: MACHINE)
    where = ("plan", "--data-dir", str(settings.data_dir), "--width", "256", "--height", "256", "--frames", "17")
    _, empty, _ = sprocket(monkeypatch, capfd, *where)
    assert (empty["forecast"]["seconds"], empty["forecast"]["stage_seconds"]) == (None, {})
    for _ in range(2):
        ask(studio, "nowhere", 0)
        attempt(studio)
    code, made, _ = sprocket(monkeypatch, capfd, *where)
    forecast = made["forecast"]
    assert code == 0 and forecast["basis"] == "from 2 clips made on this machine"
    assert forecast["seconds"] == pytest.approx(sum(forecast["stage_seconds"].values())) and "decode" in forecast["stage_seconds"]
    assert forecast["job_disk_bytes"] > 2**20
    assert [one["word"] for one in made["choices"]["words"]] == ["Fast", "Balanced", "Tiny"]


def test_what_a_worker_holds_on_its_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace
    from types import SimpleNamespace

    import app.queue.door
    from app.queue.door import SprocketEngine
    from tests.fakes import MACHINE

    card = replace(MACHINE, device="cuda:0", total_bytes=24 * 2**30, free_bytes=2 * 2**30)
    monkeypatch.setattr(app.queue.door, "detect", lambda device, held: replace(card, free_bytes=card.free_bytes + held.get("cuda:0", 0)))
    for torch, free in [(SimpleNamespace(), 2), (SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)), 2),
                        (SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 1,
                                                              memory_reserved=lambda _: 20 * 2**30)), 22)]:
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert SprocketEngine().hardware().free_bytes == free * 2**30


def test_sigterm_while_a_child_process_goes_on_cancels(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.3")
    own = studio.submit({"prompt": "memory load 1", **SIZE}, reserve=True)

    def press(event: Event) -> None:
        if isinstance(event, StepDone) and studio.job(own.id).attempt == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        studio.run_here(own.id, press)
    assert studio.job(own.id).state is JobState.CANCELLED
    assert not list(studio.settings.data_dir.rglob("*.part"))
