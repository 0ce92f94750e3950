"""Times, requests, plans and the flow itself: what lies between two frames."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidRequest
from engine.interpolate.flow import Pair, between
from engine.interpolate.plan import FlowTiming, cuts_note, forecast_seconds, plan_interpolation
from engine.interpolate.request import InterpolateRequest, wish_words
from engine.interpolate.timing import placed
from engine.media.probe import VideoFacts
from training.pocket import world

NAME = f"{'a' * 64}.mp4"
FACTS = VideoFacts("mp4", 0, 192, 128, 25, 8.0, 3.125, "h264", "yuv420p", False, False, False, None)


def asked(**values: Any) -> InterpolateRequest:
    return InterpolateRequest(**{"video": NAME, **values})


def steady(count: int, fps: float) -> list[tuple[float, float, int]]:
    return [(5.0 + number / fps, 1 / fps, number) for number in range(count)]  # clocks need not begin at 0


def times(shown: list[tuple[float, float, int]], fps: float, slow: float = 1.0) -> list[float]:
    """Where each frame of the result lies, counted in frames of the source."""
    return [round(each.before + each.place, 3) for each in placed(shown, fps, slow)]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_at_a_multiple_of_the_rate_every_given_frame_stands_as_it_is(factor: int) -> None:
    out = list(placed(steady(9, 8.0), 8.0 * factor))
    assert [each.before for each in out if each.after is None][:9] == list(range(9))
    assert [each.place for each in out[::factor]] == [0.0] * 9
    assert times(steady(9, 8.0), 8.0 * factor)[: 8 * factor + 1] == [round(i / factor, 3) for i in range(8 * factor + 1)]
    assert len(out) == 9 * factor  # as long as before: the last frame stays on display as long as it was


def test_a_rate_that_is_no_multiple_goes_by_presentation_time() -> None:
    got = times(steady(9, 8.0), 30.0)
    assert got[:34:15] == [0.0, 4.0, 8.0] and got[1:4] == [round(8 / 30 * i, 3) for i in (1, 2, 3)]
    assert len(got) == round(9 / 8 * 30)


def test_slower_is_the_same_frames_at_a_slower_clock() -> None:
    assert times(steady(5, 8.0), 8.0, 2.0) == times(steady(5, 8.0), 16.0)
    assert times(steady(5, 8.0), 24.0, 2.0) == times(steady(5, 8.0), 48.0)


def test_frames_that_come_at_uneven_times_are_placed_by_their_clock() -> None:
    shown = [(0.0, 0.1, 0), (0.1, 0.4, 1), (0.5, 0.1, 2), (0.6, 0.1, 3)]
    assert times(shown, 20.0) == [0, 0.5, 1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875, 2, 2.5, 3, 3]
    rounded = [(round(number / 24, 3), 1 / 24, number) for number in range(25)]  # as Matroska has them
    assert [each.before for each in placed(rounded, 48.0) if each.after is None][:25] == list(range(25))


def test_a_very_slow_result_does_not_stand_still_at_given_frames() -> None:
    out = list(placed(steady(3, 60.0), 60.0, 16.0))
    assert [index for index, each in enumerate(out[:33]) if each.after is None] == [0, 16, 32]
    assert times(steady(3, 60.0), 60.0, 16.0)[:33] == pytest.approx([index / 16 for index in range(33)], abs=0.001)


def test_time_that_stands_still_is_no_division_by_nothing() -> None:
    assert [each.before for each in placed([(0.0, 0.1, 0), (0.0, 0.1, 1), (0.1, 0.1, 2)], 10.0)] == [1, 2]
    assert list(placed([], 24.0)) == []


@pytest.mark.parametrize(("values", "field"), [
    ({"fps": 0}, "fps"), ({"fps": math.nan}, "fps"), ({"fps": 1000}, "fps"), ({"fps": "24"}, "fps"), ({"fps": True}, "fps"),
    ({"fps": -8}, "fps"), ({"fps": math.inf}, "fps"), ({}, "fps"), ({"slow": 1}, "slow"), ({"slow": 0.5}, "slow"),
    ({"slow": 17}, "slow"), ({"slow": math.nan}, "slow"), ({"fps": 24, "method": "magic"}, "method"),
    ({"fps": 24, "video": "../x.mp4"}, "video"), ({"fps": 24, "title": "a\nb"}, "title"), ({"fps": 24, "title": "x" * 201}, "title"),
    ({"fps": 24, "schema_version": 2}, "schema_version"),
])
def test_what_is_wrong_for_every_video_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        asked(**values)
    assert error.value.field == field and len(error.value.message) > 20


def test_a_request_comes_back_from_json_and_nothing_else_does() -> None:
    wish = asked(fps=24, slow=2.0, title="a red ball")
    assert InterpolateRequest.from_mapping(wish.to_json()) == wish
    for values in ({"fps": 24}, {"video": NAME, "fps": 24, "sharpness": 3}, [NAME]):
        with pytest.raises(InvalidRequest):
            InterpolateRequest.from_mapping(values)  # type: ignore[arg-type]
    assert (wish_words(24.0, None), wish_words(None, 2.0)) == ("Smooth to 24 fps", "Slow down 2x")


@pytest.mark.parametrize(("values", "facts", "field"), [
    ({"fps": 8}, {}, "fps"), ({"fps": 7.5}, {}, "fps"), ({"fps": 24}, {"frames": 1}, "video"), ({"fps": 24}, {"frames": 0}, "video"),
    ({"fps": 24}, {"fps": 0.0, "seconds": 0.0}, "video"),
    ({"slow": 2, "fps": 4}, {}, "fps"), ({"fps": 24}, {"width": 1}, "video"),
])
def test_what_a_video_cannot_be_asked_is_refused(values: dict[str, Any], facts: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        plan_interpolation(asked(**values), replace(FACTS, **facts))
    assert error.value.field == field


def test_the_plan_says_what_will_be_done() -> None:
    plan = plan_interpolation(asked(fps=24), replace(FACTS, sound=True, variable=True, width=193))
    assert (plan.frames, plan.width, plan.fps, plan.slow, plan.sound) == (75, 192, 24.0, 1.0, True)
    words = " ".join(plan.notes)
    assert "not generation" in words and "8 -> 24" in words and "varies" in words and "193 x 128 -> 192 x 128" in words
    slowed = plan_interpolation(asked(slow=2), replace(FACTS, sound=True))
    assert (slowed.frames, slowed.fps, slowed.sound) == (50, 8.0, False) and "sound is left out" in " ".join(slowed.notes)
    assert plan_interpolation(asked(fps=8), replace(FACTS, variable=True)).fps == 8  # evens the clock out


def test_the_forecast_goes_by_what_was_made_here() -> None:
    plan = plan_interpolation(asked(fps=24), FACTS)
    seconds, basis = forecast_seconds(plan, [FlowTiming(plan.pixels / 2, 1.0)])
    assert seconds == pytest.approx(2.0) and "1 made on this machine" in basis
    assert "rough" in forecast_seconds(plan, [])[1]
    assert cuts_note((1.0, 2.5)).startswith("2 scene cuts found (at 1.00 s, 2.50 s)")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def blended(a: np.ndarray, b: np.ndarray, time: float) -> np.ndarray:
    return np.rint((1 - time) * a + time * b).astype(np.uint8)


def textured(shift: float, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """Smooth waves that have moved `shift` pixels to the right; the whole picture moves."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    waves = [np.sin((x - shift) / p + y / q) + np.cos((x - shift) / q - y / p) for p, q in ((5, 9), (7, 6), (4, 11))]
    return np.rint(np.dstack(waves) * 50 + 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("time", [0.25, 0.5, 0.75])
def test_a_picture_that_moves_is_found_on_its_way(time: float) -> None:
    [made] = between(textured(0), textured(6), [time])
    truth, inner = textured(6 * time), (slice(8, -8), slice(8, -8))
    assert psnr(made[inner], truth[inner]) > psnr(blended(textured(0), textured(6), time)[inner], truth[inner]) + 15


@pytest.mark.parametrize("index", [0, 3, 5])
def test_scenes_of_the_pocket_world_are_far_better_than_blended(index: int) -> None:
    clip = world.render(world.scene_at(7, index, "held-out"), 25).video
    flow, blend = [], []
    for start in range(0, 24, 4):
        a, b = clip[start], clip[start + 4]
        for step, made in enumerate(between(a, b, [0.25, 0.5, 0.75]), 1):
            flow.append(psnr(made, clip[start + step]))
            blend.append(psnr(blended(a, b, step / 4), clip[start + step]))
    assert np.mean(flow) > np.mean(blend) + 4


def test_forwards_and_backwards_are_the_same_film() -> None:
    clip = world.render(world.scene_at(7, 3, "held-out"), 25).video
    there, back = Pair(clip[4], clip[8]), Pair(clip[8], clip[4])
    assert psnr(there.at(0.25), back.at(0.75)) > 45


def test_what_does_not_move_stays_bit_for_bit() -> None:
    picture = textured(0)
    assert np.array_equal(Pair(picture, picture).at(0.5), picture)
    moved = picture.copy()
    moved[40:60, 50:70] = 0
    made = Pair(picture, moved).at(0.5)
    assert np.array_equal(made[:30], picture[:30]) and np.array_equal(made[:, :40], picture[:, :40])


def test_a_cut_is_told_from_motion() -> None:
    clips = [world.render(world.scene_at(7, index, "held-out"), 25).video for index in range(8)]
    scenes = [world.scene_at(7, index, "held-out") for index in range(8)]
    assert not any(Pair(clip[i], clip[i + step]).cut for clip in clips for step in (1, 4, 8) for i in range(0, 25 - step, 6))
    pairs = [(i, j) for i in range(8) for j in range(8) if scenes[i].background != scenes[j].background]
    assert len(pairs) > 20 and all(Pair(clips[i][12], clips[j][12]).cut for i, j in pairs)
    i, j = pairs[0]
    assert np.array_equal(Pair(clips[i][12], clips[j][12]).at(0.9), clips[i][12])  # holds until the new scene is there


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (47, 400), (48, 48), (50, 1000), (130, 49)])
def test_frames_of_any_size(size: tuple[int, int]) -> None:
    a, b = textured(0, size), textured(3, size)
    made = Pair(a, b).at(0.5)
    assert made.shape == a.shape and made.dtype == np.uint8
    corner = a.copy()
    corner[-1, -1] = 255 - corner[-1, -1]
    assert Pair(a, corner).at(0.5).shape == a.shape


def test_frames_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not two of uint8"):
        Pair(textured(0), textured(0, (48, 48)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Pair(textured(0), textured(1)).at(1.0)
