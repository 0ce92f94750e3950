"""What a request may say about memory and quality, and what the plan keeps of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.alternatives import alternatives
from engine.choices import Policy
from engine.errors import CannotFit, InvalidRequest
from engine.hardware import detect
from engine.memory import Forecast
from engine.memory.corrections import LEAST, Measured, corrections, measurable, placement_kind
from engine.plan import Plan, Timing, disk_need, forecast_seconds, forecast_stages, plan
from engine.request import MAX_BUDGET, MIN_BUDGET, GenerationRequest
from engine.video.recipe import build_recipe
from tests.engine.test_plan import GPU, SPEC
from tests.engine.tiny import CPU

GIB = 2**30


def ask(policy: Policy | None = None, hardware: Any = GPU, **fields: Any) -> Plan:
    return plan(GenerationRequest(**({"prompt": "a fox", "model": "big"} | fields)), SPEC, hardware, policy or Policy())


@pytest.mark.parametrize(("field", "value", "says"), [
    ("profile", "quick", "fast, balanced, tiny"), ("profile", 1, "fast, balanced"), ("quality", "best", "lossless, near-lossless, fast"),
    ("budget", 5, "256 MiB to 16 TiB"), ("budget", MIN_BUDGET - 1, "256 MiB"), ("budget", MAX_BUDGET + 1, "16 TiB"),
    ("budget", "8GiB", "whole number"), ("budget", 8.0 * GIB, "whole number"), ("budget", True, "whole number"),
    ("budget", float("nan"), "whole number"), ("device", "tpu", "cuda, cpu"), ("device", "cuda:0", "cuda, cpu")])
def test_what_is_wrong_is_refused_by_name(field: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        GenerationRequest(prompt="x", **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("fields", [{}, {"profile": "tiny"}, {"quality": "fast", "profile": "balanced"}, {"budget": 40 * GIB},
                                    {"budget": 22 * GIB, "profile": "tiny", "device": "cuda", "quality": "near-lossless"}])
def test_the_plan_keeps_them_and_the_recipe_gives_them_back(fields: dict[str, Any]) -> None:
    made = ask(**fields)
    again = GenerationRequest.from_mapping(json.loads(json.dumps(build_recipe(made)))["request"])
    assert plan(replace(again, model="big"), SPEC, GPU) == made
    assert {name: getattr(made.request(), name) for name in fields} == fields
    assert (made.budget, made.allowed) == (fields.get("budget", 0), fields.get("quality", ""))
    assert None not in made.to_json().values()


def test_the_request_wins_over_the_policy() -> None:
    small = ask(Policy(profile="tiny", quality="near-lossless"))
    assert (small.profile, small.allowed) == ("tiny", "near-lossless")
    assert ask(Policy(profile="tiny"), profile="fast") == ask()
    assert small.predicted_bytes < ask().predicted_bytes
    assert small == ask(profile="tiny", quality="near-lossless")


def test_a_budget_bounds_the_plan_and_is_named_where_it_is_the_limit() -> None:
    free = ask()
    bound = ask(budget=free.predicted_bytes)
    assert bound.predicted_bytes < free.predicted_bytes  # with room to spare, as for free memory
    assert ask(budget=MAX_BUDGET).placement == free.placement
    with pytest.raises(CannotFit, match=r"The budget of 1\.1 GB is the limit here"):
        ask(budget=GIB)
    with pytest.raises(CannotFit) as caught:
        ask(budget=8 * GIB, hardware=replace(GPU, free_bytes=GIB))
    assert "budget" not in str(caught.value)


def test_a_device_that_is_not_here_is_refused() -> None:
    assert ask(device="cuda").wanted_device == "cuda"
    with pytest.raises(InvalidRequest, match=r"device: is cpu, and the one here is cuda \(a GPU\)"):
        ask(device="cpu")
    with pytest.raises(InvalidRequest, match="is cuda, and the one here is cpu") as caught:
        ask(device="cuda", hardware=CPU)
    assert (caught.value.field, caught.value.suggestion) == ("device", "cpu")
    assert detect("cpu").device == "cpu"


def history(made: Plan, ratios: list[float], **changes: Any) -> list[Measured]:
    expected = measurable(made.forecast, made.device)
    job = Measured(model=made.model, device=made.device, kind=placement_kind(made.placement), forecast_bytes=expected, measured_bytes=0)
    return [replace(job, measured_bytes=ratio * expected, **changes) for ratio in ratios]


@pytest.mark.parametrize("hardware", [GPU, replace(CPU, free_bytes=300 * 10**9, total_bytes=300 * 10**9)], ids=["gpu", "cpu"])
@pytest.mark.parametrize("truth", [0.62, 0.9, 1.0, 1.18, 1.45])
def test_after_a_few_jobs_the_forecast_is_within_a_tenth(hardware: Any, truth: float) -> None:
    """What a clip of another length really takes, by a machine whose memory differs from the formulas by `truth` +- 6 %."""
    few = [truth * noise for noise in (0.97, 1.06, 1.0, 0.94, 1.6)]  # the last one is a bad day
    known = corrections(history(ask(frames=9, hardware=hardware), few), "big", hardware.device)
    plain, wise = (ask(Policy(corrections=c), frames=49, hardware=hardware) for c in ((), known))
    assert plain.placement == wise.placement
    really = truth * measurable(plain.forecast, plain.device)
    told = measurable(wise.forecast, wise.device) * wise.forecast.correction
    assert abs(told / really - 1) <= 0.10
    if abs(truth - 1) > 0.1:
        assert abs(measurable(plain.forecast, plain.device) / really - 1) > 0.10  # it was not before
        assert any("5 clips made on this machine" in note for note in wise.notes)
    assert measurable(wise.forecast, wise.device) == pytest.approx(measurable(plain.forecast, plain.device))  # nothing feeds on itself


def test_a_correction_comes_from_jobs_of_its_kind_alone_and_stays_within_bounds() -> None:
    made = ask()
    assert corrections(history(made, [1.3] * (LEAST - 1)), "big", "cuda:0") == ()
    assert corrections(history(made, [1.3] * 5, model="other"), "big", "cuda:0") == ()
    assert corrections(history(made, [1.3] * 5, device="cpu"), "big", "cuda:0") == ()
    assert corrections(history(made, [1.3] * 5, forecast_bytes=0), "big", "cuda:0") == ()
    other = corrections(history(made, [1.3] * 5, kind="another"), "big", "cuda:0")
    assert ask(Policy(corrections=other)) == made
    assert [one.ratio for one in corrections(history(made, [90.0] * 5), "big", "cuda:0")] == [2.0]
    assert [one.ratio for one in corrections(history(made, [0.01] * 5), "big", "cuda:0")] == [0.5]
    assert corrections(history(made, [1.9] * 30 + [1.1] * 8), "big", "cuda:0")[0].ratio == pytest.approx(1.1)  # the recent ones


def test_what_this_machine_learnt_decides_what_fits() -> None:
    free = replace(GPU, free_bytes=int(ask().predicted_bytes / 0.94))
    assert ask(hardware=free).residency == "resident"
    heavy = corrections(history(ask(), [1.2, 1.2, 1.2]), "big", "cuda:0")
    careful = ask(Policy(corrections=heavy), hardware=free)
    assert careful.placement != ask().placement and careful.forecast.device_bytes <= 0.95 * free.free_bytes


def test_seconds_by_stage_come_from_clips_made_the_same_way_first() -> None:
    made = ask()
    seconds = {"load": 4.0, "encode": 1.0, "sample": 100.0, "decode": 20.0, "verify": 1.0}
    same = Timing(model="big", device="cuda:0", work=made.work, seconds=seconds, kind=placement_kind(made.placement))
    slow = replace(same, kind="another", seconds=seconds | {"sample": 900.0})
    assert forecast_stages(made, [same, slow, slow, slow])[0] == pytest.approx(seconds)
    assert forecast_seconds(made, [same]) == (pytest.approx(126.0), "from 1 clip made on this machine")
    assert forecast_stages(made, [slow])[0]["sample"] == pytest.approx(900.0)
    assert forecast_stages(made, [slow], alike_only=True)[0] == forecast_stages(made, [])[0] == {}


def test_the_three_words_and_every_way() -> None:
    made = ask(quality="near-lossless")
    timing = Timing(model="big", device="cuda:0", work=made.work, seconds={"sample": 10.0}, kind=placement_kind(made.placement))
    found = alternatives(made, GPU, [timing])
    assert [one.word for one in found.words] == ["Fast", "Balanced", "Tiny"]
    peaks = [one.peak_bytes for one in found.words]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] == made.predicted_bytes
    assert [one.chosen for one in found.words] == [one.peak_bytes == peaks[0] for one in found.words]
    assert {one.kind for one in found.words} <= {one.kind for one in found.every}
    assert len({json.dumps(one.to_json()) for one in found.every}) == len(found.every) >= 3
    assert [one.seconds for one in found.every if one.chosen] == [10.0]
    assert None in {one.seconds for one in found.every}  # never guessed
    assert all(one.fits and one.permitted for one in found.every)
    strict = alternatives(ask(budget=int(made.predicted_bytes * 0.8), quality="lossless"), GPU, [])
    assert {one.quality for one in strict.words} == {"lossless"} and all(one.fits for one in strict.words)
    assert {one.permitted for one in strict.every} == {True, False} == {one.fits for one in strict.every}
    assert json.loads(json.dumps([one.to_json() for one in strict.every]))


def test_the_disk_a_job_needs_grows_with_the_clip() -> None:
    small, large = disk_need(ask(frames=9)), disk_need(ask(frames=49))
    assert 2**20 < small < large
    assert large > 2 * 3 * 4 * 13 * 16 * 60 * 90  # at least the saved states
    assert Forecast(1, {}, 1, 0, 0).to_json()["correction"] == 1.0


def test_ways_that_another_one_beats_are_not_shown() -> None:
    from engine.alternatives import _worth_seeing
    from engine.choices import ORDER
    from tests.engine.test_ladder import ways_of

    best, slower_and_larger, smaller, lossy_for_nothing, lossy_and_small, twin = ways_of(
        (1, 1, 50, "lossless", 5), (1, 1, 60, "lossless", 6), (1, 1, 40, "lossless", 9), (1, 1, 50, "tiles", 5), (1, 1, 10, "tiles", 9),
        (1, 1, 50, "lossless", 5))
    kept = _worth_seeing([lossy_and_small, slower_and_larger, best, lossy_for_nothing, smaller, twin])
    assert kept == [best, smaller, lossy_and_small] and twin.placement == best.placement
    assert [ORDER.index(way.quality) for way in kept] == sorted(ORDER.index(way.quality) for way in kept)
