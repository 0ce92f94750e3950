"""What a run is said to cost: the maps counted again, and what a small budget does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import CannotFit
from engine.facts import published
from engine.hardware import Hardware
from engine.memory.peak import CONTEXT_BYTES
from engine.memory.weights import layout, working_bytes
from engine.models.catalogue import find
from engine.spec import read_spec
from tests.engine.tiny import save_tiny
from tests.training.lora_tools import kept_for_the_gradient
from training.lora.adapter import Adapter
from training.lora.base import Velocity, load_base
from training.lora.config import TrainConfig
from training.lora.forecast import KEPT_MAPS, checkpoint_bytes, choose_memory, cost, lora_numbers, step_seconds, text_home
from training.lora.rundir import RunDir
from training.lora.samples import Clip, encode_set
from training.lora.session import Session

CPU = Hardware(device="cpu", name="test", total_bytes=16 * 10**9, free_bytes=12 * 10**9, cores=1, bf16=True)


@pytest.mark.parametrize("targets", ["attention", "attention+ff", "all"])
def test_maps_kept_for_the_gradient_are_those_that_autograd_keeps(targets: str) -> None:
    spec = read_spec(find("pocket"), "pocket")
    for column, precision in enumerate(("bf16", "fp32")):
        config = TrainConfig(model="pocket", dataset="d", name="n", rank=16, targets=targets, precision=precision)
        model = load_base(spec, config, CPU)
        adapter = Adapter(model.transformer, config)
        assert lora_numbers(spec, config) == sum(parameter.numel() for parameter in adapter.parameters.values())
        own = {parameter.untyped_storage().data_ptr() for parameter in model.transformer.parameters()}
        with kept_for_the_gradient(own) as kept:
            Velocity(model)(torch.randn(1, 3, 8, 16, 24), torch.tensor([500]), torch.randn(1, 48, 128))
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        one_map = (3 * 96 + 48) * spec.width * (4 if precision == "fp32" else 2)
        assert size / spec.layers / one_map == pytest.approx(KEPT_MAPS[targets][column], rel=0.06)
        model.close()


def test_less_memory_means_recomputing_then_offloading_then_a_refusal_that_helps() -> None:
    spec = read_spec(find("pocket"), "pocket")
    config = TrainConfig(model="pocket", dataset="d", name="n")
    assert set(choose_memory(spec, config, CPU).policy) == {"keep"}
    sizes = [cost(spec, config, CPU, (word,) * spec.layers).bytes for word in ("keep", "recompute", "offload")]
    assert sizes == sorted(sizes, reverse=True)
    tight = replace(CPU, free_bytes=int(sizes[1] * 1.02 / 0.92))
    assert "recompute" in choose_memory(spec, config, tight).policy
    streams = cost(spec, config, CPU, ("offload",) * spec.layers, streamed="disk")
    assert streams.bytes < sizes[2]
    least = choose_memory(spec, config, replace(CPU, free_bytes=int(streams.bytes * 1.005 / 0.92)))
    assert (least.streamed, set(least.policy)) == ("disk", {"offload"}) and "their files" in least.words
    assert choose_memory(spec, replace(config, streaming="ram"), CPU).streamed == "ram"
    tighter = replace(CPU, free_bytes=int(sizes[2] * 1.005 / 0.92))
    assert "offload" in choose_memory(spec, config, tighter).policy
    with pytest.raises(CannotFit, match="streaming auto"):
        choose_memory(spec, replace(config, streaming="no"), replace(CPU, free_bytes=int(streams.bytes * 1.005 / 0.92)))
    with pytest.raises(CannotFit, match="base int8"):
        choose_memory(spec, config, replace(CPU, free_bytes=10**6))
    slow = cost(spec, config, CPU, ("recompute",) * spec.layers)
    assert step_seconds(slow, CPU) > step_seconds(cost(spec, config, CPU, ("keep",) * spec.layers), CPU)


@pytest.mark.parametrize(("gib", "whole"), [(8, False), (16, True), (20, False), (32, True), (140, True)])
def test_the_text_encoder_is_planned_for_beside_what_stays(gib: int, whole: bool) -> None:
    spec = published("cogvideox-5b")
    config = TrainConfig(model=spec.name, dataset="d", name="n", rank=64)
    machine = Hardware(device="cuda:0", name="test", total_bytes=gib * 2**30, free_bytes=gib * 2**30, cores=8, bf16=True, ram_bytes=2**36)
    choice = choose_memory(spec, config, machine)
    assert (choice.text == "") is whole
    encoder = working_bytes(layout(spec, "text_encoder"), text_home("bf16", choice.text), "bf16")
    stays = choice.parts["weights"] + choice.parts["lora"] + CONTEXT_BYTES
    assert stays + encoder <= choice.bytes <= 0.92 * machine.free_bytes
    assert "captions" in cost(spec, config, machine, ("offload",) * spec.layers, text="").parts


def test_a_text_encoder_that_comes_block_by_block_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(save_tiny(tmp_path / "deep", layers=(3, 4)))
    clips = [Clip(np.full((9, 64, 96, 3), 40 * number, np.uint8), f"clip {word}") for number, word in enumerate("ab")]
    made = []
    for text in ("", "disk"):
        monkeypatch.setattr("training.lora.session.choose_memory", lambda *given, text=text, **more: replace(
            choose_memory(*given, **more), text=text))
        run = RunDir(tmp_path / f"run{text}")
        run.create(TrainConfig(model=str(spec.path), dataset="made", name="made", rank=4, precision="fp32", threads=1, device="cpu"))
        trainer = Session(run, spec, CPU, lambda model: encode_set(model, clips)).prepare()
        assert trainer.model.components["text_encoder"].home.residency == ("streamed" if text else "staged")
        made.append((trainer.samples.train[1].text(), trainer.update().loss))
    assert torch.equal(made[0][0], made[1][0]) and made[0][1] == made[1][1]


def test_a_checkpoint_has_no_gradient_and_an_average_only_where_there_is_one() -> None:
    config = TrainConfig(model="pocket", dataset="d", name="n", method="full", optimizer="adamw")
    assert (checkpoint_bytes(config), checkpoint_bytes(replace(config, ema=0.99))) == (12, 16)


def test_a_budget_is_obeyed(tmp_path: Path) -> None:
    spec = read_spec(find("pocket"), "pocket")
    config = TrainConfig(model="pocket", dataset="d", name="n")
    most = cost(spec, config, CPU, ("keep",) * spec.layers).bytes
    assert choose_memory(spec, replace(config, budget=most), CPU).bytes < most
