"""Frames between two videos: which windows make them, by flow and by a model; both videos stay as they are; what cannot be joined."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.interpolate.run as running
from engine.errors import Cancelled, InvalidRequest
from engine.events import ClipWritten, CutsFound, Resumed
from engine.interpolate.filling import check_pair, gap, plan_filled, plan_flowed
from engine.interpolate.plan import InterpolatePlan
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import Origin, origin_of
from engine.media.probe import probe_video
from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.spec import read_spec
from engine.video.recipe import read_recipe
from tests.engine.media_files import write_video
from tests.engine.test_interpolate_run import CLIP, OTHER, Recorder, added, done, frames_of, psnr
from tests.engine.test_smoothing import FACTS, frames_in, made, model, models, video  # noqa: F401  (fixtures)
from tests.engine.tiny import CPU

A, B = f"{'0' * 64}.mp4", f"{'1' * 64}.mp4"


@pytest.mark.parametrize(("first", "between", "second", "slots"),
                         [(9, 7, 9, 7), (25, 31, 25, 7), (1, 1, 1, 7), (2, 3, 40, 5), (9, 63, 2, 7)])
def test_every_frame_between_is_made_once_from_what_is_there(first: int, between: int, second: int, slots: int) -> None:
    levels = gap(first, between, second, 8.0, slots)
    assert levels.frames == first + between + second and [level.frames for level in levels.levels][-1] == levels.frames
    there = set(levels.keys)
    for level in levels.levels:
        assert len({len(block.frames) for block in level.blocks}) == 1  # they are made in one batch
        for block in level.blocks:
            assert set(block.known) <= there and not set(block.makes) & there and len(block.frames) <= slots
            assert set(block.frames) - set(block.known) >= set(block.makes)
        fresh = [frame for block in level.blocks for frame in block.makes]
        assert len(fresh) == len(set(fresh))
        there |= set(fresh)
    assert there == set(range(levels.frames))


SIZES = (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 49, 96)


@pytest.mark.parametrize("slots", [3, 4, 5, 7, 9, 13])
@pytest.mark.parametrize("between", [2**rounds - 1 for rounds in range(1, 8)])
def test_every_frame_between_has_a_known_one_on_either_side(between: int, slots: int) -> None:
    for first, second in product(SIZES, SIZES):
        levels = gap(first, between, second, 8.0, slots)
        there = set(levels.keys)
        for level in levels.levels:
            for block in level.blocks:
                for frame in block.makes:
                    slot, known = block.frames.index(frame), there.intersection(block.known)
                    assert 0 < slot < len(block.frames) - 1, (first, second, level)
                    assert block.frames[slot - 1] in known and block.frames[slot + 1] in known, (first, second, level)
            fewest = -(-level.makes // ((len(level.blocks[0].frames) - 1) // 2))
            assert len(level.blocks) <= fewest + 1  # room for what they see beyond the gap
            there |= {frame for block in level.blocks for frame in block.makes}
        assert there == set(range(levels.frames))


def test_a_window_that_begins_beside_the_grid_of_the_gap() -> None:
    """The first video has room for one frame of the grid: windows must not end on frames that are not made yet."""
    first = gap(25, 127, 25, 8.0, 7).levels[2]
    assert [block.makes for block in first.blocks] == [(40, 72), (104, 136)]
    assert first.blocks[1].frames == (72, 88, 104, 120, 136, 152, 168)


def test_windows_see_both_videos_beyond_the_gap() -> None:
    first, *_ = gap(9, 7, 9, 8.0, 7).levels
    assert first.fps == 2.0 and first.blocks[0].frames == (0, 4, 8, 12, 16, 20, 24) and first.blocks[0].makes == (12,)
    short = gap(1, 7, 1, 8.0, 7).levels[0].blocks[0]
    assert short.frames == (0, 4, 8)  # nothing beyond


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    Recorder.seen = []
    monkeypatch.setattr(running, "SegmentWriter", Recorder)
    return Recorder.seen


def flowed(folder: Path, first: list[np.ndarray], second: list[np.ndarray], between: int) -> InterpolatePlan:
    names = [added(folder, write_video(folder / f"{name}.mp4", pixels, fps=8)) for name, pixels in (("a", first), ("b", second))]
    request = InterpolateRequest(video=names[0], then=names[1], between=between)
    return plan_flowed(request, *(probe_video(folder / name) for name in names))


def test_flow_between_leaves_both_as_they_are(tmp_path: Path, encoded: list[np.ndarray]) -> None:
    job = flowed(tmp_path, list(CLIP[:4]), list(CLIP[5:]), 1)
    *_, written = done(job, tmp_path)
    assert isinstance(written, ClipWritten) and (written.frames, written.fps) == (9, 8.0)
    given = [*frames_of(tmp_path / job.video), *frames_of(tmp_path / job.then)]
    assert all(np.array_equal(a, b) for a, b in zip([*encoded[:4], *encoded[5:]], given, strict=True))
    assert psnr(encoded[4], CLIP[4]) > 33  # the world's own frame


def test_an_interrupted_one_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SEGMENT_FRAMES", 2)
    monkeypatch.setattr(running, "LEAST_SEGMENT", 2)
    job = flowed(tmp_path, list(CLIP[:3]), list(CLIP[6:]), 4)
    done(job, tmp_path, work="whole")
    whole, asked = (tmp_path / "out.mp4").read_bytes(), iter([False] * 6)  # among the frames between
    with pytest.raises(Cancelled):
        done(job, tmp_path, cancelled=lambda: next(asked, True))
    assert [event.step for event in done(job, tmp_path) if isinstance(event, Resumed)]
    assert (tmp_path / "out.mp4").read_bytes() == whole


def test_two_scenes_fade_and_the_file_says_so(tmp_path: Path, encoded: list[np.ndarray]) -> None:
    job = flowed(tmp_path, list(CLIP[:2]), list(OTHER[:2]), 3)
    events = done(job, tmp_path)
    assert [event for event in events if isinstance(event, CutsFound)] == [CutsFound((0.625,), faded=True)]
    middle = (encoded[1].astype(float) + encoded[5]) / 2
    assert np.abs(encoded[3] - middle).max() <= 1
    assert read_recipe(tmp_path / "out.mp4")["cuts"] == [0.625]


def generated(folder: Path, inputs: Path, names: list[str], between: int) -> Plan:
    request = InterpolateRequest(video=names[0], then=names[1], between=between, method="generate")
    first, second = (probe_video(inputs / name) for name in names)
    return plan_filled(request, first, second, origin_of(first), read_spec(folder, "tiny"), lambda one, spec: plan(one, spec, CPU), "cpu")


def test_a_model_fills_in_and_both_stay_as_they_are(model: Path, models: ModelCache, tmp_path: Path) -> None:  # noqa: F811
    one, pixels = video(tmp_path / "in", frames=4)
    other, more = video(tmp_path / "in", frames=3, cut=0)
    job = generated(model, tmp_path / "in", [one, other], 3)
    assert (job.frames, job.fps, job.prompt) == (10, 8.0, "a fox") and "3 frames between 4 and 3 in 2 rounds: 10 frames" in job.notes[0]
    *_, last = made(job, tmp_path, models, tmp_path / "in")
    assert isinstance(last, ClipWritten) and last.frames == 10
    stored = frames_in(tmp_path)
    assert [stored[f"key-{i:06d}.png"] for i in (0, 1, 2, 3, 7, 8, 9)] == [frame.tobytes() for frame in (*pixels, *more)]
    assert {f"{i:06d}.png" for i in (4, 5, 6)} <= set(stored) and len(stored) == 10


def test_a_second_video_that_is_gone_is_named(model: Path, models: ModelCache, tmp_path: Path) -> None:  # noqa: F811
    names = [video(tmp_path / "in", frames=frames)[0] for frames in (3, 4)]
    job = generated(model, tmp_path / "in", names, 1)
    (tmp_path / "in" / names[1]).unlink()
    with pytest.raises(InvalidRequest, match="then: "):
        made(job, tmp_path, models, tmp_path / "in")


@pytest.mark.parametrize(("wish", "said"), [
    ({"then": A}, "then: is the same video"),
    ({"then": "b.mp4"}, "then: must be the name of an input"),
    ({"then": B, "fps": 24}, "fps: and slow are for one video"),
    ({"then": B, "slow": 2}, "fps: and slow are for one video"),
    ({"then": B, "between": 0}, "between: is 0; allowed is 1 to 127"),
    ({"then": B, "between": 128}, "between: is 128; allowed is 1 to 127"),
    ({"then": B, "between": 2.5}, "between: must be a whole number"),
    ({"then": B, "between": True}, "between: must be a whole number"),
    ({"then": B, "then_clip": "x"}, "then_clip: must be the id of a clip"),
    ({"between": 3, "fps": 24}, "between: says how many frames"),
    ({"then": None, "fps": 24}, "between: says how many frames"),
])
def test_wishes_that_are_wrong_for_every_pair(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        InterpolateRequest(video=A, **wish)


@pytest.mark.parametrize(("other", "said"), [
    ({"width": 128}, "then: is 128 x 64, and the first one 96 x 64"),
    ({"fps": 24.0}, "then: has 24 frames a second, and the first one 8. Smooth video to 24 fps"),
    ({"fps": 4.0}, "Smooth then to 8 fps"),
    ({"variable": True}, "then: has no constant frame rate"),
])
def test_pairs_that_cannot_be_one_clip(other: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        check_pair(InterpolateRequest(video=A, then=B), FACTS, replace(FACTS, **other))


@pytest.mark.parametrize(("between", "frames", "fps", "said"), [
    (5, 9, 8.0, r"between: is 5; .*1, 3, 7, 15"), (7, 250, 8.0, r"then: has 250 frames.*257"),
    (7, 9, 96.0, r"then: has 96 frames a second; .* 1 to 60.* use flow"), (7, 9, 0.5, r"then: has 0\.5 frames a second; .* use flow")])
def test_what_rounds_cannot_do(model: Path, between: int, frames: int, fps: float, said: str) -> None:  # noqa: F811
    request, facts = InterpolateRequest(video=A, then=B, between=between, method="generate"), replace(FACTS, fps=fps)
    with pytest.raises(InvalidRequest, match=said):
        plan_filled(request, facts, replace(facts, frames=frames), Origin("tiny", "a fox", 4), read_spec(model, "tiny"),
                    lambda one, spec: plan(one, spec, CPU), "cpu")


def test_the_same_wish_has_the_same_json() -> None:
    request = InterpolateRequest(video=A, then=B, between=3, then_clip="ab" * 16)
    assert InterpolateRequest.from_mapping(request.to_json()) == request
