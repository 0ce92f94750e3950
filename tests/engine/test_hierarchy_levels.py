"""The planner of hierarchical clips: which frames are made when, from which."""

from __future__ import annotations

import pytest

from engine.errors import InvalidRequest
from engine.interpolate.levels import Hierarchy, frames_for, hierarchy
from engine.request import GenerationRequest


def levels(frames: int | None = None, fps: float = 8.0, keys: int | None = None, given: tuple[int, ...] = (), most: int = 49,
           slots: int = 7) -> Hierarchy:
    return hierarchy(frames, fps, keys, given, most_keys=most, slots=slots)


def test_the_plan_in_one_sentence() -> None:
    assert levels(49, 8.0, 7).sentence() == "7 key frames at 1 fps, then 3 rounds to 8 fps: 49 frames"
    assert levels(3, 8.0, 3).sentence() == "3 key frames at 8 fps and no rounds: 3 frames"


def test_the_rate_doubles_each_round() -> None:
    plan = levels(97, 16.0, 7)
    assert [level.fps for level in plan.levels] == [2, 4, 8, 16]
    assert [level.frames for level in plan.levels] == [13, 25, 49, 97]


@pytest.mark.parametrize("slots", [3, 5, 7])
@pytest.mark.parametrize(("frames", "keys"), [(3, 2), (9, 2), (9, 3), (17, 9), (49, 7), (81, 6), (97, 13), (385, 25)])
def test_every_frame_is_made_once_from_frames_that_are_known_by_then(frames: int, keys: int, slots: int) -> None:
    plan = levels(frames, 8.0, keys, given=(1,) if frames > 3 else (), slots=slots)
    there = set(plan.keys) | set(plan.given)
    for level in plan.levels:
        made: set[int] = set()
        for block in level.blocks:
            assert set(block.known) <= there - made  # of one round no block waits for another
            assert set(block.known).isdisjoint(block.makes) and set(block.makes) <= set(block.frames)
            assert len(block.frames) <= slots and block.frames[0] in block.known and block.frames[-1] in block.known
            assert made.isdisjoint(block.makes)
            made |= set(block.makes)
        there |= made
        assert there >= set(range(0, frames, 2 ** (plan.rounds - level.number)))
    assert there == set(range(frames))


def test_neighbouring_blocks_share_a_frame() -> None:
    for level in levels(385, 8.0, 25).levels:
        for before, after in zip(level.blocks, level.blocks[1:], strict=False):
            assert set(before.frames) & set(after.frames)


def test_given_frames_are_never_made() -> None:
    plan = levels(49, 8.0, 7, given=(0, 5, 24, 48))
    assert plan.given_keys == (0, 24, 48)
    assert not {0, 5, 24, 48} & {frame for level in plan.levels for block in level.blocks for frame in block.makes}
    assert 5 in {frame for block in plan.levels[-1].blocks for frame in block.known}


@pytest.mark.parametrize(("seconds", "fps", "keys", "frames"),
                         [(6, 8, None, 49), (6, 8, 7, 49), (12, 8, None, 97), (48, 8, None, 385), (3, 8, None, 25), (6, 16, None, 97),
                          (4.5, 8, 7, 25), (2.2, 8, 7, 13)])
def test_seconds_become_frames_that_rounds_can_make(seconds: float, fps: float, keys: int | None, frames: int) -> None:
    assert frames_for(seconds, fps, keys, most_keys=49) == frames


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 2.7, 7, 33, 100, 600])
@pytest.mark.parametrize("fps", [1, 8, 12, 24, 29.97, 60])
@pytest.mark.parametrize("keys", [None, 2, 5, 12])
def test_what_seconds_become_is_always_planned(seconds: float, fps: float, keys: int | None) -> None:
    frames = frames_for(seconds, fps, keys, most_keys=49)
    assert levels(frames, fps, keys).frames == frames


@pytest.mark.parametrize(("frames", "keys", "field", "suggestion"), [
    (10, 20, "key_frames", 10), (49, 50, "key_frames", 49), (48, 7, "frames", 49), (1, None, "frames", 49), (50, None, "frames", 49)])
def test_numbers_that_do_not_go_together(frames: int, keys: int | None, field: str, suggestion: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        levels(frames, 8.0, keys)
    assert (error.value.field, error.value.suggestion) == (field, suggestion)
    assert str(keys if field == "key_frames" else frames) in error.value.message


def test_a_given_frame_outside_the_clip() -> None:
    with pytest.raises(InvalidRequest, match="frame 49; the clip has 49, numbered 0 to 48"):
        levels(49, 8.0, 7, given=(0, 49))


IMAGE, OTHER = "a" * 64 + ".png", "b" * 64 + ".png"


@pytest.mark.parametrize("fps", [0, -1, 0.5, 1000, float("nan"), float("inf"), "8", True])
def test_rates_that_are_none(fps: object) -> None:
    with pytest.raises(InvalidRequest, match="fps"):
        GenerationRequest(prompt="a ball", fps=fps)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "says"), [
    ([[3, IMAGE], [3, OTHER]], "frame 3 twice"), ([[-1, IMAGE]], "frame -1"), ([[True, IMAGE]], "frame True"), ([[0, "x.png"]], "input"),
    ([[0, 7]], "input"), ([[0]], "pair"), ("0", "list"), ([[n, IMAGE] for n in range(65)], "at most 64"), ([[10**6, IMAGE]], "1000000")])
def test_given_frames_that_are_none(given: object, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as error:
        GenerationRequest(prompt="a ball", given=given)  # type: ignore[arg-type]
    assert error.value.field == "given"


def test_requests_say_the_same_after_a_round_trip() -> None:
    request = GenerationRequest(prompt="a ball", fps=8, key_frames=7, frames=1537, given=((48, OTHER), (0, IMAGE)), edits=((8, 5),),
                                review=True)
    assert request.given == ((0, IMAGE), (48, OTHER))
    assert GenerationRequest.from_mapping(request.to_json()) == request


@pytest.mark.parametrize("fields", [{"review": True}, {"edits": ((0, 1),)}, {"frames": 1537}, {"fps": 8, "video": IMAGE},
                                    {"image": IMAGE, "given": ((0, OTHER),)}, {"review": 1, "fps": 8}])
def test_settings_without_effect_are_refused(fields: dict) -> None:
    with pytest.raises(InvalidRequest):
        GenerationRequest(prompt="a ball", **fields)
