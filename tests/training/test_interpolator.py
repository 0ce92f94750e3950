"""What the stage-two weights are trained on: windows at one rate, known frames, everything a function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.pocket.interpolator import (
    FINE,
    GRID,
    SLOTS,
    STRIDES,
    Frames,
    Interpolation,
    _columns,
    draw_known,
    draw_windows,
    places,
)
from training.pocket.tokenizer import build_tokenizer


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("slots", [SLOTS, 5, 3])
def test_a_window_is_consecutive_frames_at_one_rate(stride: int, slots: int) -> None:
    starts = (17, 60)
    kept = places(starts)
    assert len(kept) == 25 + 2 * SLOTS and min(kept) == 0 and max(kept) <= GRID
    for seed in range(20):
        window = [kept[column] for column in _columns(np.random.default_rng(seed), stride, slots)]
        assert len(window) == slots and set(np.diff(window)) == {stride}
        assert stride not in FINE or window[0] >= starts[FINE.index(stride)]


def test_every_kind_of_known_set_comes_up() -> None:
    seen = {tuple(draw_known(np.random.default_rng(seed), SLOTS)) for seed in range(300)}
    assert {(0, 2, 4, 6), (0, 6), (0, 3, 6), (0,), ()} <= seen and len(seen) > 20
    assert all(0 <= index < SLOTS for known in seen for index in known)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    frames = Frames(torch.rand(3, 39, 2, 8, 16, 24).bfloat16(), torch.zeros(3, 39, 16, 24, dtype=torch.uint8), torch.zeros(3, 2).long())
    draw = lambda step: draw_windows(frames, build_tokenizer(), Interpolation(batch=2), 0.66, seed=0, step=step)  # noqa: E731
    one, again, other = draw(4), draw(4), draw(5)
    assert torch.equal(one.latents, again.latents) and torch.equal(one.beside, again.beside) and torch.equal(one.ids, again.ids)
    assert not torch.equal(one.t, other.t)
    assert one.beside.shape[2] == 12 and torch.equal(one.beside[:, :, 8].bool()[..., 0, 0], one.real)
    assert (one.fps > 0).all()
