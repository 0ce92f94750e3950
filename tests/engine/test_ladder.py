"""Where a job goes after memory ran out: one rung lower, never up, never smaller, and not for ever."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from engine.choices import ORDER, Policy, Way, permitted, weigh
from engine.errors import CannotFit, MemoryRanOut
from engine.ladder import CLEARLY, MOST_LAPSES, PHASES, Lapse, needed, next_rung, read_lapses
from engine.memory import Shape
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from tests.engine.test_plan import GPU, SPEC
from tests.engine.tiny import CPU

BIG = replace(GPU, free_bytes=200 * 10**9, total_bytes=200 * 10**9)
ROOMY = replace(CPU, free_bytes=200 * 10**9, total_bytes=200 * 10**9)


def ask(lapses: tuple[Lapse, ...] = (), hardware: Any = BIG, **fields: Any) -> Plan:
    return plan(GenerationRequest(**({"prompt": "a fox", "model": "big", "seed": 3} | fields)), SPEC, hardware, lapses=lapses)


def ladder(phase: str, hardware: Any = BIG, **fields: Any) -> tuple[list[Plan], MemoryRanOut]:
    """All the plans of a job that runs out of memory in `phase` every time, and how it ends."""
    lapses: tuple[Lapse, ...] = ()
    plans: list[Plan] = []
    while len(plans) < 50:
        try:
            plans.append(ask(lapses, hardware, **fields))
        except MemoryRanOut as error:
            return plans, error
        lapses = (*lapses, Lapse(phase, "device", plans[-1].placement))
    raise AssertionError("it never ends")


@pytest.mark.parametrize("hardware", [BIG, ROOMY], ids=["gpu", "cpu"])
@pytest.mark.parametrize("phase", PHASES)
def test_down_to_the_last_rung_once_more_and_then_a_message(phase: str, hardware: Any) -> None:
    plans, error = ladder(phase, hardware)
    shape, dtype = Shape(49, 480, 720, True), plans[0].dtype
    seen = [weigh(SPEC, shape, dtype, hardware, Policy(), one.placement) for one in plans]
    for number, (before, after) in enumerate(pairwise(seen), start=1):
        if after.placement == before.placement:  # nothing lower: once more in a fresh process
            assert number == len(plans) - 1
            assert plans[-1].notes[-1] == f"Memory ran out {PHASES[phase]}; going on the same way in a fresh process."
            continue
        assert needed(after, phase, "device") <= CLEARLY * needed(before, phase, "device")
        assert all(after.forecast.stages[stage] <= size for stage, size in before.forecast.stages.items())
    assert len(plans) == MOST_LAPSES or plans[-1].placement == plans[-2].placement
    assert [ORDER.index(way.quality) for way in seen] == sorted(ORDER.index(way.quality) for way in seen)
    first = plans[0]
    for one in plans:
        assert (one.frames, one.width, one.height, one.steps, one.request()) == (
            first.frames, first.width, first.height, first.steps, first.request())
    assert (error.code, error.phase, isinstance(error, CannotFit)) == ("out_of_memory", phase, True)
    assert f"Memory ran out {PHASES[phase]}, {len(plans)} times in all" in str(error) and "Clos" in str(error)


def test_decoding_goes_to_tiles_at_last_and_says_so() -> None:
    plans, error = ladder("decode", ROOMY)
    assert plans[0].placement.decode == "whole" and plans[-1].quality == "near-lossless"
    told = [note for note in plans[-1].notes if note.startswith("Memory ran out")]
    assert len(told) == len(plans) - 1
    assert any(re.fullmatch(r"Memory ran out while decoding; going on .*in tiles of \d+ x \d+ pixels.*", note) for note in told)
    for ended in (error, ladder("sample", ROOMY)[1]):
        assert re.search(r"or ask for (\d+ x \d+ or smaller|\d+ frames or fewer)\.$", str(ended))
    assert str(ladder("load", ROOMY)[1]).endswith("or choose a smaller model.")


def test_what_was_not_allowed_stays_so_and_the_message_says_what_would_help() -> None:
    plans, error = ladder("decode", ROOMY, quality="lossless")
    assert {one.quality for one in plans} == {"lossless"}
    assert re.search(r"With quality near-lossless it would be tried .*tiles of \d+ x \d+ pixels", str(error))


def test_weights_give_way_before_the_picture_does() -> None:
    for phase in ("decode", "load"):
        first, second = ladder(phase, BIG)[0][:2]
        assert (first.residency, first.placement.decode) == ("resident", "whole")
        assert second.placement != first.placement and second.quality == "lossless"


def ways_of(*sizes: tuple[int, int, int, str, float]) -> list[Way]:
    """Ways by (encode, sample, decode) bytes, quality and seconds."""
    way = weigh(SPEC, Shape(9, 480, 720, True), "bf16", GPU, Policy(), ask().placement)
    return [Way(way.placement, replace(way.forecast, stages={"encode": e, "sample": s, "decode": d}, device_bytes=max(e, s, d)),
                seconds, quality) for e, s, d, quality, seconds in sizes]


def test_which_rung_is_next() -> None:
    failed, *ways = ways_of((10, 10, 100, "lossless", 1), (10, 10, 97, "lossless", 1), (10, 11, 20, "lossless", 2),
                            (10, 9, 20, "tiles", 3), (10, 10, 50, "lossless", 9), (10, 10, 90, "lossless", 5),
                            (10, 10, 90, "lossless", 4), (5, 10, 100, "lossless", 1))
    assert next_rung(ways, failed, "decode") == ways[5]  # clearly less, no more elsewhere, then lossless, then the fastest
    assert next_rung(ways[:3], failed, "decode") == ways[2]
    assert next_rung(ways[:2], failed, "decode") is None
    assert next_rung(ways, failed, "text") == next_rung(ways, failed, "load") == ways[6]
    assert next_rung([failed], failed, "sample") is None


def test_memory_of_the_computer_itself_is_another_matter() -> None:
    failed, same = ways_of((10, 10, 100, "lossless", 1), (10, 10, 10, "lossless", 1))
    less = Way(failed.placement, replace(failed.forecast, ram_bytes=failed.forecast.ram_bytes // 2), 9.0, "lossless")
    assert next_rung([same, less], failed, "decode", "ram") == less
    assert next_rung([same], failed, "decode", "ram") is None


def test_a_rung_that_does_not_fit_is_passed_over_where_one_does() -> None:
    first = ask()
    lapse = (Lapse("decode", "device", first.placement),)
    ways = permitted(SPEC, Shape(49, 480, 720, True), "bf16", BIG, Policy())
    least = min(way.forecast.device_bytes for way in ways)
    assert least < ask(lapse).predicted_bytes < first.predicted_bytes
    tight = replace(BIG, free_bytes=int(least / 0.94))
    assert ask(lapse, tight).predicted_bytes <= 0.95 * tight.free_bytes
    hopeless = replace(BIG, free_bytes=10**9)
    assert 10**9 < ask(lapse, hopeless).predicted_bytes < first.predicted_bytes  # it is tried all the same


def test_never_more_than_so_many_times() -> None:
    placement = ask().placement
    lapses = tuple(Lapse("sample" if n % 2 else "decode", "device", replace(placement, tile=(n, n))) for n in range(MOST_LAPSES))
    with pytest.raises(MemoryRanOut, match=f"{MOST_LAPSES} times in all"):
        ask(lapses)


def test_lapses_are_kept_and_what_is_not_understood_is_left_out() -> None:
    lapse = Lapse("decode", "device", ask().placement)
    stored = json.loads(json.dumps([lapse.to_json()]))
    assert read_lapses(stored) == (lapse,)
    later = json.loads(json.dumps(stored))
    later[0]["placement"]["a_choice_of_tomorrow"] = 1
    assert read_lapses([*later, {}, {"phase": "nowhere", **stored[0], "placement": None}, *stored]) == (lapse,)
