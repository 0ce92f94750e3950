"""Settings, schedules, order and randomness: pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from app.ui.html.train import chosen_of
from engine.errors import InvalidRequest
from training.lora.config import FIELDS, HARMLESS, TrainConfig, explained, from_mapping, may_change
from training.lora.order import Order, share, time_at
from training.lora.schedules import factor
from training.lora.streams import generator, seed_of, shuffled

CONFIG = TrainConfig(model="pocket", dataset="d", name="n")


@pytest.mark.parametrize(("field", "value"), [
    ("learning_rate", 0), ("learning_rate", float("nan")), ("learning_rate", 5), ("rank", 0), ("rank", 5000), ("steps", 0), ("batch", 0),
    ("optimizer", "sgd"), ("schedule", "step"), ("targets", "attn9.to_q"), ("targets", ""), ("name", "../x"), ("name", "  "), ("alpha", 0),
    ("alpha", float("inf")), ("caption_dropout", 1.5), ("precision", "fp8"), ("trackers", ("comet",)), ("warmup", 5000), ("seed", -1),
    ("name", "a\nb"), ("name", "a\x1bb"), ("name", "a\ud800"), ("name", "\U0001f98a" * 51), ("name", "a\u200d"), ("trigger", "z\nq"),
    ("trigger", "\ud800"), ("trigger", "z" * 201)])
def test_a_setting_that_makes_no_sense_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        replace(CONFIG, **{field: value})
    assert refused.value.field == field


def test_words_are_kept_in_every_script_and_prompts_on_one_line() -> None:
    for name in ("\U0001f98a" * 50, "\u72d0" * 60, "می\u200cخواهم", "a fox"):
        made = replace(CONFIG, name=name, trigger=name, preview_prompts=("a fox\n runs\ud800", name))
        assert (made.name, made.trigger, made.preview_prompts) == (name, name, ("a fox runs", name))
        again = chosen_of(made)["name"]
        assert again.endswith(" again") and replace(CONFIG, name=again).name == again


def test_unknown_settings_are_errors_that_name_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean learning_rate"):
        from_mapping({"model": "pocket", "dataset": "d", "name": "n", "learning-rat": 1})


def test_settings_survive_json_and_text() -> None:
    asked = replace(CONFIG, preview_prompts=("a", "b"), ema=0.99, dora=True, alpha=3.0)
    assert from_mapping(asked.to_json()) == asked
    assert from_mapping({"model": "pocket", "dataset": "d", "name": "n", "rank": "8", "learning_rate": "1e-3", "dora": "true"}).rank == 8
    with pytest.raises(InvalidRequest, match="whole number"):
        from_mapping({"model": "pocket", "dataset": "d", "name": "n", "rank": "8.5"})


def test_every_setting_is_explained_or_says_all_by_its_name() -> None:
    words = explained()
    assert set(words) == set(FIELDS)
    assert words["accumulate"].startswith("Passes an update sums up")


def test_a_long_seed_keeps_its_last_digits() -> None:
    known = {"model": "pocket", "dataset": "d", "name": "n"}
    assert from_mapping(known | {"seed": "9007199254740993"}).seed == 2**53 + 1
    assert from_mapping(known | {"seed": "1e3"}).seed == 1000


def test_a_run_that_goes_on_may_change_what_leaves_the_weights_alone() -> None:
    may_change(CONFIG, replace(CONFIG, preview_steps=5, save_steps=7, steps=2000))
    for field, value in (("rank", 8), ("learning_rate", 1e-3), ("seed", 1), ("caption_dropout", 0.0), ("dataset", "e"), ("accumulate", 2)):
        assert field not in HARMLESS
        with pytest.raises(InvalidRequest, match="Begin a new run"):
            may_change(CONFIG, replace(CONFIG, **{field: value}))
    cosine = replace(CONFIG, schedule="cosine")
    with pytest.raises(InvalidRequest, match="schedule"):
        may_change(cosine, replace(cosine, steps=2000))


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_learning_rates_are_those_of_diffusers(schedule: str) -> None:
    import torch
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    stock = get_scheduler(schedule, optimizer, num_warmup_steps=5, num_training_steps=40, num_cycles=3, power=2.0)
    for step in range(40):
        ours = 1e-2 * factor(schedule, step, warmup=5, steps=40, cycles=3, power=2.0, rate=1e-2)
        assert ours == pytest.approx(stock.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        stock.step()


def test_an_epoch_is_every_clip_once_and_no_batch_mixes_shapes() -> None:
    order = Order(("a", "b", "a", "a", "b", "c", "a"), 2, seed=3)
    for epoch in range(3):
        batches = [order.at(epoch * order.per_epoch + at) for at in range(order.per_epoch)]
        assert Counter(clip for batch in batches for clip in batch) == Counter(range(7))
        assert all(len({order.buckets[clip] for clip in batch}) == 1 for batch in batches)
    assert [order.at(at) for at in range(4)] != [order.at(order.per_epoch + at) for at in range(4)]


def test_processes_share_a_step_without_rest_or_overlap() -> None:
    assert sorted(one for rank in range(3) for one in share(range(12, 24), rank, 3)) == list(range(12, 24))


def test_stratified_times_cover_every_window_evenly_and_are_uniform() -> None:
    times = [time_at(visit, seed=1, times=1000, window=4, stratified=True) for visit in range(8000)]
    for window in range(0, 8000, 8):
        assert sorted(time // 125 for time in times[window:window + 8]) == list(range(8))
    assert abs(sum(times) / len(times) - 499.5) < 5
    loose = [time_at(visit, seed=1, times=1000, window=4, stratified=False) for visit in range(8)]
    assert sorted(time // 125 for time in loose) != list(range(8))


def test_randomness_is_a_function_of_seed_stream_and_position() -> None:
    seen = {seed_of(seed, stream, at) for seed in (0, 1) for stream in ("noise", "time") for at in (0, 1, 2)}
    assert len(seen) == 12
    assert seed_of(5, "noise", 7) == 7611307919968244907
    assert generator(5, "noise", 7).initial_seed() == seed_of(5, "noise", 7)
    assert sorted(shuffled(9, 1, "order", 0)) == list(range(9))
    with pytest.raises(ValueError, match="no stream"):
        seed_of(0, "else", 1)
