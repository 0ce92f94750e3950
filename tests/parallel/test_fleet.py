"""A fleet of two real processes: the clip of one, kept warm, cancelled, killed, stopped; and nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from engine.errors import Cancelled, InvalidRequest, MemoryRanOut, OutputRejected
from engine.events import CheckpointSaved, ClipWritten, Event, RanksRestarted, Resumed, Stage, StageStarted, StepDone
from engine.models.cache import ModelCache
from engine.parallel import drive, watch
from engine.parallel.drive import run_on_fleet
from engine.parallel.fleet import _runs
from engine.parallel.rank import _perform
from engine.parallel.wire import packed, unpacked
from engine.plan import Plan
from engine.run import run
from engine.video.recipe import build_recipe

pytestmark = pytest.mark.timeout(1200)


class Names(SimpleNamespace):
    """Has whatever is asked for."""

    def __getattr__(self, name: str) -> Any:
        return name


@pytest.fixture(scope="module")
def models() -> Iterator[ModelCache]:
    """Holds the fleet from test to test, as a worker does."""
    held = ModelCache()
    yield held
    pids = list(held.fleet.pids.values()) if held.fleet is not None else []
    held.close()
    assert pids and not any(map(_runs, pids))


@pytest.fixture
def job(tiny_plan: Callable[..., Plan]) -> Plan:
    made = tiny_plan("rope", steps=12, parallel="ulysses=2")
    assert made.devices == ("cpu", "cpu") and "share the cores" in " ".join(made.notes)
    return made


def frames(path: Path) -> np.ndarray:
    with av.open(path) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def on_fleet(plan: Plan, folder: Path, models: ModelCache, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    return run_on_fleet(plan, part=folder / "a.part", workspace=folder / "job", recipe=build_recipe(plan), models=models,
                        cancelled=cancelled, checkpoint_seconds=0, preview_seconds=0)


def alone(plan: Plan, folder: Path, models: ModelCache) -> list[Event]:
    single = replace(plan, parallel="", devices=())
    return list(run(single, part=folder / "a.part", workspace=folder / "job", recipe=build_recipe(plan), models=models,
                    cancelled=lambda: False, checkpoint_seconds=0))


def same(given: Path, expected: Path) -> None:
    """The clips in two folders: latents to 1e-5, and so pixels but for a rounding here and there, which H.264 spreads a little."""
    ends = [load_file(folder / "job" / "step-0012.safetensors")["latents"] for folder in (given, expected)]
    assert float((ends[0] - ends[1]).abs().max()) <= 1e-5
    pixels = [frames(folder / "a.part").astype(int) for folder in (given, expected)]
    assert pixels[0].shape == pixels[1].shape
    assert np.abs(pixels[0] - pixels[1]).mean() <= 0.05


def test_the_clip_is_that_of_one_process_and_the_fleet_stays_warm(job: Plan, models: ModelCache, tmp_path: Path,
                                                                 cache_of: Callable[[Plan], ModelCache]) -> None:
    alone(job, tmp_path / "alone", cache_of(job))
    events = list(on_fleet(job, tmp_path / "first", models))
    assert isinstance(events[-1], ClipWritten)
    assert [one.stage for one in events if isinstance(one, StageStarted)] == [
        Stage.LOAD, Stage.ENCODE, Stage.SAMPLE, Stage.DECODE, Stage.VERIFY]
    same(tmp_path / "first", tmp_path / "alone")
    assert models.fleet is not None and models.fleet.link is not None and models.fleet.link[0] > 1e6
    assert models.fleet is not None
    pids = models.fleet.pids
    other = replace(job, parallel="cfg=2,ulysses=1,ring=1", cache="first-block")
    alone(other, tmp_path / "cached alone", cache_of(other))
    list(on_fleet(other, tmp_path / "second", models))
    same(tmp_path / "second", tmp_path / "cached alone")
    assert models.fleet.pids == pids


def test_a_cancelled_job_goes_on_on_one_device(job: Plan, models: ModelCache, tmp_path: Path,
                                               cache_of: Callable[[Plan], ModelCache]) -> None:
    steps = [0]
    with pytest.raises(Cancelled):
        for event in on_fleet(job, tmp_path, models, lambda: steps[-1] >= 5):
            if isinstance(event, StepDone) and event.stage is Stage.SAMPLE:
                steps.append(event.step)
    done = steps[-1]
    assert models.fleet is not None and models.fleet.alive  # told in order, so all stopped at the same step
    assert 5 <= done < 12 and not (tmp_path / "a.part").exists()
    events = alone(job, tmp_path, cache_of(job))
    resumed = [event for event in events if isinstance(event, Resumed)]
    assert resumed and resumed[0].step >= 5
    alone(job, tmp_path / "never stopped", cache_of(job))
    same(tmp_path, tmp_path / "never stopped")


def test_a_rank_that_is_killed_or_stopped_costs_no_clip(job: Plan, models: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        cache_of: Callable[[Plan], ModelCache]) -> None:
    alone(job, tmp_path / "alone", cache_of(job))
    blows = {4: signal.SIGKILL, 8: signal.SIGSTOP}
    restarts, seen, struck = [], [], 0.0
    for event in on_fleet(job, tmp_path, models):
        if isinstance(event, StepDone) and event.stage is Stage.SAMPLE and event.step in blows:
            assert models.fleet is not None
            pids = models.fleet.pids
            os.kill(pids[1], blows.pop(event.step))
            struck = time.monotonic()
            monkeypatch.setattr(watch, "SILENT_SECONDS", 20.0 if blows else 4.0)
        elif isinstance(event, RanksRestarted):
            restarts.append(event)
            monkeypatch.setattr(watch, "SILENT_SECONDS", 20.0)
            assert time.monotonic() - struck < 30
            assert not any(map(_runs, pids.values()))
        elif isinstance(event, Resumed):
            seen.append(event.step)
    assert len(restarts) == 2 and "rank 1" in restarts[0].why and "not been heard of" in restarts[1].why
    assert len(seen) == 2 and seen[0] >= 3 and seen[1] >= 7
    same(tmp_path, tmp_path / "alone")


@pytest.fixture
def stand_in(models: ModelCache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Iterator[Event]]], None]]:
    """stand_in(attempt): in place of any fleet one that does `attempt()` for every job."""
    before, models.fleet = models.fleet, None

    def put(attempt: Callable[[], Iterator[Event]]) -> None:
        fleet = SimpleNamespace(ranks=2, alive=True, run=lambda *_: attempt(), close=lambda: None)
        monkeypatch.setattr(drive, "Fleet", lambda *_, **__: fleet)

    yield put
    models.fleet = before


def test_a_clip_that_no_fleet_can_make_fails_with_the_last_words(job: Plan, models: ModelCache, tmp_path: Path,
                                                                 stand_in: Callable[..., None]) -> None:
    def doomed() -> Iterator[Event]:
        yield StageStarted(Stage.LOAD)
        raise drive.RankLost("rank 1 ended without a word", "rank 1: one\nrank 1: no room")

    stand_in(doomed)
    with pytest.raises(drive.FleetBroken, match=r"3 times in a row.*rank 1: no room"):
        list(on_fleet(job, tmp_path, models))
    with pytest.raises(Cancelled):
        list(on_fleet(job, tmp_path, models, lambda: True))


@pytest.mark.parametrize("reached", [[2, 2, 2], [2, 5, 5, 5]])
def test_only_what_comes_further_counts_as_progress(reached: list[int], job: Plan, models: ModelCache, tmp_path: Path,
                                                    stand_in: Callable[..., None]) -> None:
    """An image is encoded in every attempt, and a checkpoint may be saved at the same step again: neither is a way out of the loop."""
    attempts = iter(reached)

    def stuck() -> Iterator[Event]:
        step = next(attempts)
        yield StepDone(Stage.ENCODE, 1, 1, None)
        yield CheckpointSaved(step, tmp_path / "x")
        raise drive.RankLost("rank 1 ended without a word", "no room")

    stand_in(stuck)
    with pytest.raises(drive.FleetBroken, match="times in a row"):
        list(on_fleet(job, tmp_path, models))
    assert next(attempts, None) is None


@pytest.mark.parametrize(("end", "said"), [(None, "done"), (Cancelled("stopped"), "failed")])
def test_what_a_rank_holds_is_told_however_its_job_ends(end: Exception | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next job takes what its own ranks hold for another program's."""
    def ends(*_plan: object, **_rest: object) -> Iterator[Event]:
        if end is not None:
            raise end
        yield from ()

    told: list[tuple[object, ...]] = []
    monkeypatch.setattr("engine.run.run", ends)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 12)
    line: Any = SimpleNamespace(say=lambda *message: told.append(message), cancelled=SimpleNamespace(is_set=lambda: False))
    job: Any = Names(plan=SimpleNamespace(device="cuda:1"))
    _perform(line, job, None, SimpleNamespace(device=torch.device("cuda"), leads=True))
    assert told[0] == ("held", "cuda:1", 12) and [message[0] for message in told] == ["held", said]


def test_ranks_meet_where_no_other_computer_can_reach_them(models: ModelCache) -> None:
    """torch's store on a port listens on every address without a secret, and unpickles."""
    assert models.fleet is not None and models.fleet.alive
    own = psutil.Process(models.fleet._launcher.pid)
    open_to = {found.laddr.ip for one in (own, *own.children(recursive=True)) for found in one.net_connections("inet")
               if found.status == psutil.CONN_LISTEN}
    assert open_to <= {"127.0.0.1", "::1"}


def test_errors_arrive_as_they_left() -> None:
    for error in (InvalidRequest("prompt", "is long", suggestion=3), MemoryRanOut("it went", phase="sample", where="ram"),
                  OutputRejected("black")):
        again = unpacked(packed(error))
        assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
