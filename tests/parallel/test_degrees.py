"""Dividing tokens, heads and guidance; the traffic that follows; when a fleet is broken."""

from __future__ import annotations

import math
from itertools import product

import pytest

from engine.errors import InvalidRequest
from engine.facts import published
from engine.memory.shapes import Shape
from engine.parallel.cost import Machine, choices, step_cost
from engine.parallel.degrees import Degrees, deal, every_degrees, parse_degrees, share_of, starts, why_not
from engine.parallel.watch import SILENT_SECONDS, STUCK_SECONDS, Heard, Pulse, broken, heard

FIVE = published("THUDM/CogVideoX-5b")
TWO = published("THUDM/CogVideoX-2b")
CLIP = Shape(49, 480, 720, True)
L40 = Machine(1.06e14, 2e10)


def test_degrees_are_read_and_written() -> None:
    assert parse_degrees("cfg=2,ulysses=2,ring=1") == Degrees(2, 2, 1)
    assert parse_degrees(" ring=3 ") == Degrees(1, 1, 3)
    for degrees in (Degrees(), Degrees(2, 3, 4)):
        assert parse_degrees(str(degrees)) == degrees


@pytest.mark.parametrize(("text", "word"), [
    ("", "empty"), ("cfg", "not understood"), ("cfg=2,cfg=2", "not understood"), ("cfg=-1", "not understood"), ("pipe=2", "not understood"),
    ("ulysses=0", "least is 1"), ("cfg=3", "two halves"), ("ulysses=9,ring=9", "64"), (4, "must be text"), ("ring=٣", "not understood"),
    ("ring=1e3", "not understood"), ("cfg=2;drop", "not understood")])
def test_what_is_no_degree_is_refused_with_the_way_out(text: object, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as found:
        parse_degrees(text)
    assert found.value.field == "parallel"


def test_every_rank_has_a_place_of_its_own() -> None:
    degrees = Degrees(2, 3, 2)
    assert {degrees.place(rank) for rank in range(12)} == set(product(range(2), range(2), range(3)))
    assert degrees.place(1) == (0, 0, 1)  # neighbours in number share heads, as they share the fastest link


@pytest.mark.parametrize(("total", "parts"), [(17550, 8), (226, 4), (17, 3), (5, 2), (30, 4), (2, 3)])
def test_parts_differ_by_at_most_one_and_are_all_of_it(total: int, parts: int) -> None:
    for sizes in (deal(total, parts), deal(total, parts, last=True)):
        assert sum(sizes) == total and max(sizes) - min(sizes) <= 1 and len(sizes) == parts
        assert [begin + size for begin, size in zip(starts(sizes), sizes, strict=True)][-1] == total


@pytest.mark.parametrize("degrees", [Degrees(1, 4, 1), Degrees(1, 1, 4), Degrees(1, 2, 4), Degrees(1, 8, 1)])
def test_where_all_divides_traffic_is_the_papers(degrees: Degrees) -> None:
    text, video, heads, width, rows = 16, 320, 8, 64, 2
    share, (_, u, r) = share_of(degrees, text, video, heads), (0, degrees.ulysses, degrees.ring)
    numbers = rows * (text + video) * heads * width
    for part in range(degrees.sequence):
        ulysses, ring = share.sent(part, rows, width)
        assert ulysses == 4 * numbers * (u - 1) // (u * u * r)
        assert ring == 2 * numbers * (r - 1) // (u * r)


def test_the_joint_sequence_is_even_though_its_two_kinds_are_not() -> None:
    share = share_of(Degrees(1, 4, 1), 226, 17550, 30)
    assert share.heads == (8, 8, 7, 7)
    assert max(share.tokens) - min(share.tokens) <= 1  # 56 + 4388, 57 + 4387


def test_only_what_can_be_divided_is_offered() -> None:
    assert why_not(Degrees(2), guided=False, heads=30, video=100)
    assert why_not(Degrees(1, 6), guided=True, heads=5, video=100)
    assert why_not(Degrees(1, 2, 4), guided=True, heads=5, video=7)
    assert set(every_degrees(4, guided=True, heads=30, video=17550)) == {
        Degrees(1, 4, 1), Degrees(1, 2, 2), Degrees(1, 1, 4), Degrees(2, 2, 1), Degrees(2, 1, 2)}
    assert set(every_degrees(7, guided=False, heads=5, video=50)) == {Degrees(1, 1, 7)}
    assert list(every_degrees(3, guided=True, heads=2, video=2)) == []


def test_the_prediction_counts_all_arithmetic_once() -> None:
    alone = step_cost(FIVE, CLIP, Degrees(), L40)
    n, d = 17776, 3072
    assert alone.compute == pytest.approx(2 * 42 * (24 * n * d * d + 4 * n * n * d) / L40.flops)
    assert alone.exchange == 0 and alone.sent_bytes == 0
    free = Machine(L40.flops, math.inf, 0.0)
    for degrees in (Degrees(2), Degrees(1, 2), Degrees(1, 1, 2), Degrees(2, 2, 2)):
        assert alone.compute / step_cost(FIVE, CLIP, degrees, free).seconds == pytest.approx(degrees.ranks, rel=1e-3)


def test_guidance_is_divided_first_and_heads_that_do_not_divide_cost_something() -> None:
    for ranks in (2, 4, 8):
        best = choices(FIVE, CLIP, ranks, L40)[0]
        assert best.degrees.cfg == 2 and 1 < best.speed_up <= ranks
    assert all(one.degrees.cfg == 1 for one in choices(FIVE, Shape(49, 480, 720, False), 4, L40))
    free = Machine(L40.flops, math.inf, 0.0)  # 30 heads on 4: one rank has 8 of them
    found = {one.degrees: one.speed_up for one in choices(TWO, CLIP, 4, free)}
    assert found[Degrees(1, 4, 1)] < 3.9 < found[Degrees(2, 2, 1)] == pytest.approx(4, rel=1e-3)


def test_a_fleet_is_broken_by_silence_and_by_waiting_for_each_other() -> None:
    busy, waits = Pulse(5, False), Pulse(6, True)
    well = {0: Heard(100.0, waits, 40.0), 1: Heard(100.0, busy, 40.0)}
    assert broken(well, 101.0) is None  # one computes, for a minute already
    silent = broken(well | {1: Heard(80.0, busy, 40.0)}, 80.1 + SILENT_SECONDS)
    assert silent is not None and silent[0] == (1,) and "rank 1 has not been heard of" in silent[1]
    stuck = {rank: Heard(100.0, waits, 100.0 - STUCK_SECONDS - 1) for rank in (0, 1)}
    found = broken(stuck, 100.5)
    assert found is not None and "waited for each other" in found[1]
    assert broken({0: stuck[0]}, 100.5) is None  # nobody to wait for
    first = heard(None, waits, 10.0)
    assert heard(first, waits, 11.0) == Heard(11.0, waits, 10.0) and heard(first, Pulse(7, True), 11.0).since == 11.0
