"""Adam's state in 8 bits: near to that in 32, and the same bits after going on."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from engine.errors import InvalidRequest
from training.lora.config import POCKET_WORLD, TrainConfig
from training.lora.optimizers import make_optimizer, restore, set_rate, state_of

SHAPES = ((64, 128), (4, 32))
"""torchao keeps 4096 numbers and more in 8 bits, fewer as they are."""


def begun(optimizer: str) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    config = TrainConfig(model="pocket", dataset=POCKET_WORLD, name="made", optimizer=optimizer)
    return parameters, make_optimizer(config, parameters)


def steps(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        set_rate(optimizer, 1e-2 / (1 + number))
        optimizer.step()


def test_state_in_eight_bits_goes_on_exactly_and_stays_near() -> None:
    whole, optimizer = begun("adamw8bit")
    steps(whole, optimizer, range(4))
    part, first = begun("adamw8bit")
    steps(part, first, range(2))
    tensors, rest = state_of(first)
    assert {tensor.dtype for name, tensor in tensors.items() if "codes" in name} == {torch.uint8}
    again, second = begun("adamw8bit")
    for parameter, trained in zip(again, part, strict=True):
        parameter.data.copy_(trained.data)
    restore(second, tensors, rest)
    steps(again, second, range(2, 4))
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one, other)
    plain, exact = begun("adamw")
    steps(plain, exact, range(4))
    start = begun("adamw")[0]
    change, wanted = (torch.cat([(after - before).flatten() for after, before in zip(each, start, strict=True)]) for each in (whole, plain))
    assert torch.nn.functional.cosine_similarity(change, wanted, dim=0) > 0.99


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    monkeypatch.delitem(sys.modules, "training.lora.eight_bit_adam", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(InvalidRequest, match="pip install torchao") as refused:
        begun("adamw8bit")
    assert refused.value.suggestion == "adamw"


def test_small_tensors_of_eight_bits_go_on_beside_their_parameters() -> None:
    part, first = begun("adamw8bit")
    steps(part, first, range(1))
    there = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    second = make_optimizer(TrainConfig(model="pocket", dataset=POCKET_WORLD, name="made", optimizer="adamw8bit"), there)
    restore(second, *state_of(first))
    for parameter in there:
        assert {key: value.device.type for key, value in second.state[parameter].items() if key != "step"} == {
            "exp_avg": "meta", "exp_avg_sq": "meta"}
