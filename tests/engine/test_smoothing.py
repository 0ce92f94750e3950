"""Frames between those of a clip, made by the stage-two model of what made the clip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.digest import file_sha256
from engine.errors import Cancelled, InvalidRequest
from engine.events import ClipWritten, CutsFound, Event
from engine.interpolate.adapter import FILE, Facts, write_adapter
from engine.interpolate.cuts import held, parted, scene_of
from engine.interpolate.levels import Block
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import Origin, origin_of, plan_smoothed
from engine.media.clip import read_frames
from engine.media.probe import VideoFacts, probe_video
from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.run import run
from engine.spec import read_spec
from engine.video.writer import ClipWriter
from tests.engine.test_hierarchy import trained, transformer_of
from tests.engine.tiny import CPU, save_tiny

RECIPE = {"app_version": "0", "sprocket": 1, "request": {"model": "tiny", "prompt": "a fox", "seed": 4}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("smoothing") / "tiny")
    facts = Facts(base=read_spec(folder, "tiny").fingerprint, layout="frames", slots=5, channels=4, rank=2, modulation_rank=1, steps=2)
    write_adapter(folder / FILE, trained(transformer_of(folder)), facts)
    return folder


@pytest.fixture(scope="module")
def models() -> Any:
    cache = ModelCache()
    yield cache
    cache.close()


def video(inputs: Path, *, frames: int = 5, cut: int | None = None, size: tuple[int, int] = (96, 64)) -> tuple[str, np.ndarray]:
    """(name of the input, its frames as the file gives them back): a patch that moves, and another picture from `cut` on."""
    rng = np.random.default_rng(3)
    scenes = [np.asarray(Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)) for _ in "ab"]
    pixels = np.stack([scenes[int(cut is not None and i >= cut)] for i in range(frames)]).copy()
    for i in range(frames):
        pixels[i, 20:40, 8 * i:8 * i + 16] = (250, 240, 30)
    inputs.mkdir(exist_ok=True)
    path = inputs / "x.mp4"
    with ClipWriter(path, width=size[0], height=size[1], fps=8, frames=frames, recipe=RECIPE) as writer:
        writer.write(pixels)
        writer.finish()
    name = f"{file_sha256(path)}.mp4"
    path.rename(inputs / name)
    return name, read_frames(inputs / name, frames=frames, width=size[0], height=size[1], fit="crop")


def planned(model: Path, inputs: Path, name: str, **wish: Any) -> Plan:
    facts = probe_video(inputs / name)
    return plan_smoothed(InterpolateRequest(video=name, method="generate", **wish), facts, origin_of(facts), read_spec(model, "tiny"),
                         lambda one, spec: plan(one, spec, CPU), "cpu")


def made(job: Plan, folder: Path, models: ModelCache, inputs: Path, **options: Any) -> list[Event]:
    return list(run(job, part=folder / "clip.part.mp4", workspace=folder / "work", recipe=RECIPE, models=models, inputs=inputs,
                    cancelled=options.pop("cancelled", lambda: False), **options))


def frames_in(folder: Path) -> dict[str, bytes]:
    return {path.name: np.array(Image.open(path)).tobytes() for path in sorted((folder / "work").rglob("*.png"))}


def test_the_frames_of_the_video_stay_and_the_rate_doubles_twice(model: Path, models: ModelCache, tmp_path: Path) -> None:
    name, pixels = video(tmp_path / "in")
    job = planned(model, tmp_path / "in", name, fps=32)
    assert (job.frames, job.fps, job.prompt, job.seed) == (17, 32, "a fox", 4)
    *_, last = made(job, tmp_path, models, tmp_path / "in")
    assert isinstance(last, ClipWritten) and (last.frames, last.fps) == (17, 32)
    stored = frames_in(tmp_path)
    assert [stored[f"key-{4 * i:06d}.png"] for i in range(5)] == [frame.tobytes() for frame in pixels]
    assert len(stored) == 17


def test_an_interrupted_one_ends_the_same(model: Path, models: ModelCache, tmp_path: Path) -> None:
    name, _ = video(tmp_path / "in")
    job = planned(model, tmp_path / "in", name, slow=4)
    assert (job.frames, job.fps) == (17, 8)
    made(job, tmp_path / "whole", models, tmp_path / "in")
    asked = iter([False] * 11)
    with pytest.raises(Cancelled):
        made(job, tmp_path / "cut", models, tmp_path / "in", cancelled=lambda: next(asked, True))
    assert 5 < len(frames_in(tmp_path / "cut")) < 17
    made(job, tmp_path / "cut", models, tmp_path / "in")
    assert frames_in(tmp_path / "cut") == frames_in(tmp_path / "whole")


def test_nothing_is_made_across_a_cut(model: Path, models: ModelCache, tmp_path: Path) -> None:
    name, pixels = video(tmp_path / "in", cut=3)
    job = planned(model, tmp_path / "in", name, fps=32)
    events = made(job, tmp_path, models, tmp_path / "in")
    assert [event.seconds for event in events if isinstance(event, CutsFound)] == [(0.375,)]
    stored = frames_in(tmp_path)
    assert all(stored[f"{index:06d}.png"] == pixels[2].tobytes() for index in (9, 10, 11))
    first, _ = video(tmp_path / "in", frames=5)
    uncut = planned(model, tmp_path / "in", first, fps=32)
    made(uncut, tmp_path / "b", models, tmp_path / "in")
    assert frames_in(tmp_path / "b")["000010.png"] != stored["000010.png"]


def test_windows_are_parted_at_cuts() -> None:
    assert [scene_of(frame, (8,), 4) for frame in (0, 4, 5, 7, 8, 12)] == [0, 0, None, None, 1, 1]
    block = Block((0, 2, 4, 6, 8, 10, 12), (0, 4, 8, 12), (2, 6, 10))
    assert parted([block], (8,), 4) == (Block(block.frames, (0, 4), (2,)), Block(block.frames, (8, 12), (10,)))
    assert parted([block], (), 4) == (block,)
    assert held((8,), 4, 2) == [(6, 4)] and held((8,), 4, 1) == [(5, 4), (7, 4)]


FACTS = VideoFacts(reader="mp4", stream=0, width=96, height=64, frames=9, fps=8.0, seconds=1.1, codec="h264", pixel_format="yuv420p",
                   variable=False, sound=False, hlg=False, recipe=json.dumps(RECIPE))


@pytest.mark.parametrize(("wish", "facts", "said"), [
    ({"fps": 24}, {}, r"fps: is 24; each round doubles the rate of 8, so use 16, 32"),
    ({"fps": 8}, {}, r"fps: is 8"),
    ({"fps": 120}, {}, r"fps: is 120"),
    ({"slow": 3}, {}, r"slow: is 3; .*use 2, 4, 8"),
    ({"fps": 16}, {"frames": 1}, r"video: has 1 frame; "),
    ({"fps": 16}, {"frames": 258}, r"video: has 258 frames; .*257"),
    ({"fps": 16}, {"variable": True}, r"video: has no constant frame rate"),
])
def test_what_rounds_cannot_do_is_said(model: Path, wish: dict[str, Any], facts: dict[str, Any], said: str) -> None:
    request = InterpolateRequest(video="0" * 64 + ".mp4", method="generate", **wish)
    with pytest.raises(InvalidRequest, match=said):
        plan_smoothed(request, replace(FACTS, **facts), Origin("tiny", "a fox", 4), read_spec(model, "tiny"),
                      lambda one, spec: plan(one, spec, CPU), "cpu")


def test_more_frames_than_a_model_makes_at_once_are_a_request(model: Path) -> None:
    request = InterpolateRequest(video="0" * 64 + ".mp4", method="generate", fps=56)
    job = plan_smoothed(request, replace(FACTS, frames=193, fps=7.0), Origin("tiny", "a fox", 4), read_spec(model, "tiny"),
                        lambda one, spec: plan(one, spec, CPU), "cpu")
    assert (job.frames, job.request().frames, job.request().key_frames) == (1537, 1537, 193)  # a run asks for it


def test_a_model_without_stage_two_and_a_video_without_a_model(tmp_path: Path) -> None:
    bare = save_tiny(tmp_path / "bare")
    request = InterpolateRequest(video="0" * 64 + ".mp4", method="generate", fps=16)
    with pytest.raises(InvalidRequest, match=r"method: generate needs stage-two weights, and bare has none"):
        plan_smoothed(request, FACTS, Origin("bare", "a fox", 4), read_spec(bare, "bare"), lambda one, spec: plan(one, spec, CPU), "cpu")
    for recipe in (None, "{", "[]", "7", '{"request": 3}', '{"request": {"prompt": "", "model": "x", "seed": 1}}',
                   '{"request": {"prompt": "a fox", "model": "/srv/models/private", "seed": 1}}',
                   '{"kind": "interpolate", "source": {"prompt": "a"}}'):
        with pytest.raises(InvalidRequest, match="method: generate needs a clip that a model of Sprocket made"):
            origin_of(replace(FACTS, recipe=recipe))
    flow = RECIPE | {"kind": "interpolate", "source": RECIPE["request"]}
    assert origin_of(replace(FACTS, recipe=json.dumps(flow))) == Origin("tiny", "a fox", 4)
