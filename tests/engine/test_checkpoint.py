"""A job that stops anywhere goes on and ends with the same bits; a checkpoint that lies is passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

from engine.checkpoint import PATTERN, newest_checkpoint, save_checkpoint
from engine.errors import Cancelled
from engine.events import CheckpointSaved, ClipWritten, Event, Resumed, StepDone
from engine.models.cache import ModelCache
from engine.plan import Plan
from engine.run import run
from engine.sample import SampleState
from engine.video.recipe import build_recipe

LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)  # a recipe holds the time, and the files are compared


def events(job: Plan, folder: Path, models: ModelCache, stop_after: int | None = None) -> list[Event]:
    """All events; the job is cancelled once `stop_after` sampling steps are done."""
    seen: list[Event] = []
    steps = lambda: sum(isinstance(e, StepDone) and e.stage == "sample" for e in seen)  # noqa: E731
    try:
        for event in run(job, part=folder / "clip.part", workspace=folder / "work", recipe=build_recipe(job, created=LONG_AGO),
                         models=models, cancelled=lambda: stop_after is not None and steps() >= stop_after, checkpoint_seconds=0):
            seen.append(event)
    except Cancelled:
        assert stop_after is not None
        assert not (folder / "clip.part").exists()
    return seen


def clip(seen: list[Event]) -> ClipWritten:
    assert isinstance(seen[-1], ClipWritten)
    return seen[-1]


@pytest.mark.parametrize("scheduler", ["dpm", "ddim"])
def test_stopped_at_every_step_gives_the_same_file(scheduler: str, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                   cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan(scheduler=scheduler)
    whole = clip(events(job, tmp_path / "whole", cache_of(job)))
    folder = tmp_path / "stopped"
    for done in range(1, job.steps + 1):
        seen = events(job, folder, cache_of(job), stop_after=1)
        assert [e.step for e in seen if isinstance(e, Resumed)] == ([done - 1] if done > 1 else [])
        assert [e.step for e in seen if isinstance(e, CheckpointSaved)] == [done]
        assert len(list((folder / "work").glob(PATTERN))) == min(done, 2)
    rest = events(job, folder, cache_of(job))
    assert [e.step for e in rest if isinstance(e, Resumed)] == [job.steps]
    assert not any(isinstance(e, StepDone) and e.stage == "sample" for e in rest)
    assert clip(rest).sha256 == whole.sha256
    assert clip(rest).seconds["sample"] > 0


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "flipped bit":
        data[-5] ^= 1
    elif how == "empty":
        data = bytearray()
    elif how == "text":
        data = bytearray(b"not a checkpoint at all, but text")
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "flipped bit", "empty", "text"])
def test_a_damaged_checkpoint_falls_back(how: str, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                         cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan()
    whole = clip(events(job, tmp_path / "whole", cache_of(job)))
    events(job, tmp_path, cache_of(job), stop_after=2)
    _, newer = sorted((tmp_path / "work").glob(PATTERN))
    damage(newer, how)
    seen = events(job, tmp_path, cache_of(job))
    assert [e.step for e in seen if isinstance(e, Resumed)] == [1]
    assert clip(seen).sha256 == whole.sha256
    for path in (tmp_path / "work").glob(PATTERN):
        damage(path, how)
    seen = events(job, tmp_path, cache_of(job))
    assert not any(isinstance(e, Resumed) for e in seen)
    assert clip(seen).sha256 == whole.sha256


def test_what_was_saved_by_another_version_does_not_push_out_what_is_saved_now(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                                              cache_of: Callable[[Plan], ModelCache]) -> None:
    job, before = tiny_plan(), tiny_plan(seed=8)
    events(before, tmp_path, cache_of(job), stop_after=3)
    seen = events(job, tmp_path, cache_of(job), stop_after=1)
    kept = [e.path for e in seen if isinstance(e, CheckpointSaved)]
    assert sorted((tmp_path / "work").glob(PATTERN)) == kept and kept[0].name == "step-0001.safetensors"
    seen = events(job, tmp_path, cache_of(job), stop_after=1)
    assert [e.step for e in seen if isinstance(e, Resumed)] == [1]


def test_a_state_is_read_to_the_processor_and_goes_to_a_device_as_a_whole(tmp_path: Path) -> None:
    """The first rank of several tells the others what it read: a tensor that named its own GPU would come to lie there for all."""
    latents = torch.randn(1, 2, 4, 8, 8)
    save_checkpoint(tmp_path, SampleState(3, latents, latents + 1, ((1, latents + 2),)), torch.Generator().manual_seed(1), {"a": 1}, 2.0)
    saved = newest_checkpoint(tmp_path, {"a": 1}, tuple(latents.shape), steps=5)
    assert saved is not None and torch.equal(saved.state.anchors[0][1], latents + 2)
    there = saved.to(torch.device("meta"))
    state = there.state
    assert state.clean is not None and {t.device.type for t in (state.latents, state.clean, state.anchors[0][1])} == {"meta"}
    assert (state.step, state.anchors[0][0], there.generator.device.type, there.seconds) == (3, 1, "cpu", 2.0)


def test_another_jobs_checkpoint_is_not_used(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                             cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan()
    events(job, tmp_path, cache_of(job), stop_after=2)
    for other in (tiny_plan(seed=8), tiny_plan(prompt="a dog"), tiny_plan(guidance=2.0), tiny_plan(scheduler="ddim"),
                  replace(job, spec=replace(job.spec, fingerprint="0" * 40))):
        seen = events(other, tmp_path, ModelCache() if other.spec != job.spec else cache_of(job), stop_after=0)
        assert not any(isinstance(e, Resumed) for e in seen)
