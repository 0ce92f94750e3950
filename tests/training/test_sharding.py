"""FSDP2 over two processes by gloo: data, noise and losses of one, half of the weights each, and one goes on with what two saved."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import InvalidRequest
from engine.hardware import Gpu
from engine.models.catalogue import find
from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.parallel.ranks import together
from tests.training.lora_tools import config, random_set
from training.lora.checkpoint import newest_state
from training.lora.config import TrainConfig
from training.lora.forecast import cost
from training.lora.rundir import RunDir
from training.lora.session import Session
from training.lora.world import of_rank, the_world


def on_rank(base: Path, runs: list[RunDir]) -> list[int]:
    """Two steps of every run on one of two processes, as a launcher starts them; the numbers of the base each keeps here."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = os.environ["RANK"]
    world, kept = the_world(CPU), []
    for run in runs:
        session = Session(run, read_spec(base), CPU, lambda _model: random_set(), world=world)
        trainer = session.prepare()
        kept.append(sum(value.to_local().numel() if hasattr(value, "to_local") else value.numel()
                        for name, value in trainer.model.transformer.named_parameters() if "lora_" not in name))
        end = session.steps(trainer)
        session.finish(trainer)
        session.say(end, trainer.step)
    return kept


def test_two_processes_with_half_of_the_weights_each_train_as_one(tiny_base: Path, tmp_path: Path) -> None:
    wanted = config(tiny_base, steps=4, save_steps=2, eval_steps=2, eval_clips=1, schedule="constant", ema=0.5, optimizer="adamw",
                    preview_steps=0)
    ways = {"lora": replace(wanted, base="int8", dropout=0.1), "full": replace(wanted, method="full", learning_rate=1e-3)}
    for name, way in ways.items():
        RunDir(tmp_path / "one" / name).create(way)
        RunDir(tmp_path / "two" / name).create(replace(way, steps=2, sharding="fsdp", memory="recompute"))
    kept = together(2, on_rank, tiny_base, [RunDir(tmp_path / "two" / name) for name in ways])
    numbers = read_spec(tiny_base).component_parameters["transformer"]
    for (name, way), shares in zip(ways.items(), zip(*kept, strict=True), strict=True):
        one, two = (RunDir(tmp_path / each / name) for each in ("one", "two"))
        assert sum(shares) >= numbers - 200 and max(shares) < 0.6 * numbers
        saved, _ = newest_state(two.checkpoints)
        assert saved is not None and saved.step == 2
        two.write(way, two.read()[1])  # and now alone, all weights here
        assert [Session(run, read_spec(tiny_base), CPU, lambda _model: random_set()).work() for run in (one, two)] == ["done"] * 2
        alone, shared = ([event for event in run.events() if event["kind"] == "step"] for run in (one, two))
        assert [event["step"] for event in shared] == [1, 2, 3, 4]
        for by_one, by_two in zip(alone, shared, strict=True):
            assert by_one["times"][:len(by_two["times"])] == by_two["times"]
            assert by_two["loss"] == pytest.approx(by_one["loss"], rel=1e-4), name
            assert by_two["norm"] == pytest.approx(by_one["norm"], rel=1e-3), name
        held = [[event["held_out"] for event in run.events() if event["kind"] == "eval"] for run in (one, two)]
        for by_one, by_two in zip(*held, strict=True):
            assert by_two == pytest.approx(by_one, rel=1e-4), name
        ends = [newest_state(run.checkpoints)[0] for run in (one, two)]
        assert ends[0] is not None and ends[1] is not None
        for tensor, value in ends[0].adapter.items():
            torch.testing.assert_close(ends[1].adapter[tensor], value, rtol=1e-2, atol=1e-4)
        assert two.result(way).exists()


def test_each_process_has_the_gpu_of_its_own_number() -> None:
    gpus = tuple(Gpu(device=f"cuda:{n}", name="a GPU", total_bytes=8 * 2**30, free_bytes=(8 - n) * 2**30) for n in range(2))
    both = replace(CPU, device="cuda:1", gpus=gpus)
    seen = [of_rank(both, {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}) for rank in range(2)]
    assert [(each.device, each.free_bytes) for each in seen] == [("cuda:0", 8 * 2**30), ("cuda:1", 7 * 2**30)]
    assert of_rank(both, {}) == both and of_rank(CPU, {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == CPU
    with pytest.raises(InvalidRequest, match="has 2 GPUs"):
        of_rank(both, {"WORLD_SIZE": "3", "LOCAL_RANK": "2"})


def test_sharing_out_is_planned_with_and_what_cannot_be_shared_is_refused() -> None:
    spec = read_spec(find("pocket"), "pocket")
    wanted = TrainConfig(model="pocket", dataset="d", name="n", method="full", sharding="fsdp")
    alone, shared = (cost(spec, wanted, CPU, ("recompute",) * spec.layers, ranks=ranks) for ranks in (1, 4))
    assert shared.parts["trained"] == alone.parts["trained"] // 4 and shared.parts["weights"] < alone.parts["weights"]
    for changes in ({"streaming": "ram", "method": "lora"}, {"optimizer": "came"}):
        with pytest.raises(InvalidRequest):
            replace(wanted, **changes)
