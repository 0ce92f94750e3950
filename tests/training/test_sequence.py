"""The tokens of a clip over two, three and four processes: losses, gradients, looks and saved states are those of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from engine.errors import InvalidRequest
from engine.parallel.backward import GradientMesh
from engine.parallel.degrees import Degrees
from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny
from tests.parallel.ranks import DEVICE, together
from tests.training.lora_tools import config, random_set, trainer
from training.lora.checkpoint import newest_state
from training.lora.loop import Trainer, World
from training.lora.processes import check_devices, check_division
from training.lora.rundir import RunDir
from training.lora.session import Session

STEPS = 2
WAYS: dict[str, tuple[int, int, str, dict[str, Any]]] = {
    # processes, of a team; base; settings: uneven heads (3 over 2, 3 over 3) and words (16 over 3)
    "recomputed, with dropout": (2, 2, "rope", {"targets": "attention+ff", "dropout": 0.2, "ema": 0.5}),
    "image to video, padded": (2, 2, "i2v-1.5", {}),
    "three, every layer": (3, 3, "sincos", {"targets": "all", "dropout": 0.1}),
    "two teams": (4, 2, "rope", {"dora": True, "memory": "offload"}),
    "all weights": (2, 2, "rope", {"method": "full", "learning_rate": 1e-3}),
    "stage two": (2, 2, "rope", {"method": "stage-two", "rank": 4}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_tiny(folder / kind, kind, layers=(2, 1), heads=3) for kind in ("rope", "sincos", "i2v-1.5")}


def samples_for(changes: dict[str, Any]) -> Any:
    from tests.training.test_stage_two import windows_set

    return windows_set() if changes.get("method") == "stage-two" else random_set(4, 1)


def made(base: Path, run: Path, changes: dict[str, Any], world: World | None = None) -> Trainer:
    policy = {"offload": ("offload", "recompute")}.get(changes.get("memory", ""), ("recompute", "keep"))
    return trainer(base, run, samples=samples_for(changes), policy=policy, world=world, steps=STEPS, **changes)


def worked(one: Trainer) -> dict[str, Any]:
    """What two steps, and looks before and after them, come to."""
    looks = [one.look()] if one.looks else []
    first = one.update()
    steps = [first, one.update()]
    looks += [one.look()] if one.looks else []
    return {"losses": [step.loss for step in steps], "norms": [step.norm for step in steps], "times": [step.times for step in steps],
            "looks": [(*look.held_out, *look.train) for look in looks],
            "weights": {name: tensor.numpy() for name, tensor in one.adapter.tensors().items()}}


def of_team(parts: int) -> World:
    size = dist.get_world_size()
    mesh = GradientMesh(Degrees(ulysses=parts), DEVICE, teams=size // parts)
    return World(dist.get_rank(), size, lambda tensor: dist.all_reduce(tensor), mesh)


def on_rank(base: Path, run: Path, parts: int, changes: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    one = made(base, run, changes | {"sequence_parallel": parts}, of_team(parts))
    found = worked(one)
    one.save()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_team_trains_as_one_process(bases: dict[str, Path], tmp_path: Path, way: str) -> None:
    processes, parts, kind, changes = WAYS[way]
    alone = made(bases[kind], tmp_path / "alone", changes)
    one = worked(alone)
    ranks = together(processes, on_rank, bases[kind], tmp_path / "team", parts, changes)
    for rank, found in enumerate(ranks):
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-5), way
        assert found["norms"] == pytest.approx(one["norms"], rel=1e-4), way
        for mine, whole in zip(found["times"], one["times"], strict=True):
            assert len(mine) == len(whole) * parts // processes and set(mine) <= set(whole)
        assert [len(look) for look in found["looks"]] == ([len(look) for look in one["looks"]] if rank < parts else [])
        for mine, whole in zip(found["looks"], one["looks"], strict=rank < parts):
            assert mine == pytest.approx(whole, rel=1e-5)
        for name, weight in one["weights"].items():
            np.testing.assert_allclose(found["weights"][name], weight, rtol=1e-3, atol=2e-5, err_msg=name)
    state, _ = newest_state(RunDir(tmp_path / "team").checkpoints)
    assert state is not None and state.step == STEPS
    alone.save()
    again = made(bases[kind], tmp_path / "team", changes)  # and on, by one process
    assert again.resume() == () and again.step == STEPS
