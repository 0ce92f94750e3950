"""The tokens of a clip over two, three and four processes: losses, gradients, looks and saved states are those of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from engine.errors import InvalidRequest
from engine.models.catalogue import find
from engine.parallel.backward import GradientMesh
from engine.parallel.degrees import Degrees
from engine.parallel.tokens import clip_share
from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny
from tests.parallel.ranks import DEVICE, together
from tests.training.lora_tools import config, random_set, trainer
from tests.training.test_stage_two import windows_set
from training.lora.checkpoint import newest_state
from training.lora.forecast import choose_memory
from training.lora.loop import Trainer, World
from training.lora.processes import check_devices, check_division
from training.lora.rundir import RunDir
from training.lora.samples import HeldSet
from training.lora.session import Session

STEPS = 2
TEAM: dict[str, tuple[str, dict[str, Any]]] = {
    "image to video, padded, streamed": ("i2v-1.5", {"memory": "offload", "streamed": "disk"}),
    "every layer": ("sincos", {"targets": "all", "dropout": 0.1, "dora": True}),
    "beside a base in 8 bits that is shared out": ("rope", {"sharding": "fsdp", "base": "int8", "targets": "attention+ff", "dropout": 0.2,
                                                            "ema": 0.5}),
    "all weights, shared out": ("rope", {"method": "full", "learning_rate": 1e-3, "sharding": "fsdp"}),
    "stage two": ("rope", {"method": "stage-two"}),
}
"""Bases and settings, of two processes that are one team. Nothing divides: 3 heads, and 15 tokens of words."""
TEAMS = {"two teams of two": ("rope", {"dropout": 0.1})}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_tiny(folder / kind, kind, layers=(2, 1), heads=3) for kind in ("rope", "sincos", "i2v-1.5")}


def some_set(kind: str, method: str = "lora") -> HeldSet:
    made = windows_set() if method == "stage-two" else random_set(4, 1)
    if kind == "sincos":
        return made  # its table of places wants as many words as the model takes
    return HeldSet(tuple(replace(entry, words=entry.words[..., :15, :]) for entry in made.entries), made.empty[..., :15, :])


def of(base: Path, run: Path, changes: dict[str, Any], world: World | None = None) -> Trainer:
    policy = {"offload": ("offload", "recompute")}.get(changes.get("memory", ""), ("recompute", "keep"))
    return trainer(base, run, samples=some_set(base.name, changes.get("method", "lora")), policy=policy, world=world,
                   stored=changes.get("base", "same"),
                   **{"batch": 1, "eval_clips": 1, "steps": STEPS} | {name: value for name, value in changes.items() if name != "base"})


def worked(one: Trainer) -> dict[str, Any]:
    """What two steps and a look come to."""
    steps = [one.update() for _ in range(STEPS)]
    looks = [one.look()] if one.looks else []
    return {"losses": [step.loss for step in steps], "norms": [step.norm for step in steps], "times": [step.times for step in steps],
            "looks": [(*look.held_out, *look.train) for look in looks],
            "weights": {name: tensor.numpy() for name, tensor in one.adapter.tensors().items()}}


def here(parts: int) -> World:
    size = dist.get_world_size()
    return World(dist.get_rank(), size, dist.all_reduce, GradientMesh(Degrees(ulysses=parts), DEVICE, teams=size // parts))


def on_rank(bases: dict[str, Path], folder: Path, ways: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    found, world = {}, here(2)
    for name, (kind, changes) in ways.items():
        one = of(bases[kind], folder / name, changes | {"sequence_parallel": 2}, world)
        found[name] = worked(one)
        one.save()
    return found


def compared(found: dict[str, Any], alone: dict[str, Any], teams: int, what: str) -> None:
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6), what
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-5), what
    for mine, whole in zip(found["times"], alone["times"], strict=True):
        assert len(mine) == len(whole) // teams and set(mine) <= set(whole), what
    for mine, whole in zip(found["looks"], alone["looks"], strict=bool(found["looks"])):
        assert mine == pytest.approx(whole, rel=1e-6), what
    for name, weight in alone["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weight, rtol=1e-4, atol=1e-5, err_msg=f"{what}: {name}")


def test_a_team_trains_as_one_process_and_one_goes_on(bases: dict[str, Path], tmp_path: Path) -> None:
    ranks = together(2, on_rank, bases, tmp_path, TEAM)
    for way, (kind, changes) in TEAM.items():
        alone = of(bases[kind], tmp_path / way, changes | {"sharding": "no"})
        wanted = worked(alone)
        for found in ranks:
            assert len(found[way]["looks"]) == 1
            compared(found[way], wanted, 1, way)
    alone, again = (of(bases[kind], tmp_path / way, changes) for _ in range(2))  # the last one goes on, by one process
    assert again.resume() == () and again.step == STEPS
    worked(alone)
    assert again.update().loss == pytest.approx(alone.update().loss, rel=1e-6)


def test_two_teams_share_the_passes_of_a_step(bases: dict[str, Path], tmp_path: Path) -> None:
    ranks = together(4, on_rank, bases, tmp_path, TEAMS)
    for way, (kind, changes) in TEAMS.items():
        alone = worked(of(bases[kind], tmp_path / "alone", changes))
        for rank, found in enumerate(ranks):
            assert len(found[way]["looks"]) == (rank < 2)  # the first team's business
            compared(found[way], alone, 2, way)
        assert ranks[0][way]["times"] == ranks[1][way]["times"] != ranks[2][way]["times"]


def session_on_rank(base: Path, run: Path) -> str:
    torch.set_num_threads(1)
    return Session(RunDir(run), read_spec(base), CPU, lambda _model: some_set("rope"), world=here(2)).work()


def test_a_run_begun_by_one_goes_on_with_two(bases: dict[str, Path], tmp_path: Path) -> None:
    wanted = config(bases["rope"], steps=2, save_steps=1, eval_steps=1, eval_clips=1, preview_steps=2, preview_sampling=1, preview_frames=9,
                    schedule="constant")
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    one.create(wanted)
    two.create(replace(wanted, steps=1, preview_steps=0))
    for run in (one, two):
        assert Session(run, read_spec(bases["rope"]), CPU, lambda _model: some_set("rope")).work() == "done"
    two.write(replace(wanted, sequence_parallel=2), two.read()[1])
    assert together(2, session_on_rank, bases["rope"], two.folder) == ["done", "done"]
    assert two.result(wanted).exists() and list(two.previews.glob("step-00000002/0.mp4"))
    for kind, key in (("step", "loss"), ("eval", "held_out"), ("step", "norm")):
        alone, shared = ([event[key] for event in run.events() if event["kind"] == kind] for run in (one, two))
        assert len(alone) == len(shared) == (3 if kind == "eval" else 2)
        for mine, whole in zip(shared, alone, strict=True):
            assert mine == pytest.approx(whole, rel=1e-6)
    first, second = (newest_state(run.checkpoints)[0] for run in (one, two))
    assert first is not None and second is not None and first.step == second.step == 2
    for name, tensor in first.adapter.items():
        torch.testing.assert_close(second.adapter[name], tensor, rtol=1e-4, atol=1e-5)


def exchanged(base: Path, run: Path) -> tuple[int, int]:
    torch.set_num_threads(1)
    one = of(base, run, {"sequence_parallel": 2}, here(2))
    sample, mesh = one.samples.train[0], one.world.mesh
    assert mesh is not None
    share = clip_share(mesh.degrees, one.spec, (1, sample.latents()[0].shape[1], 4, 8, 12), 15)
    mine, other, heads = share.tokens[mesh.part], share.tokens[1 - mesh.part], share.heads
    there, back = mine * heads[1 - mesh.part], other * heads[mesh.part]
    one.backward([sample], 0, 1)
    # Two blocks, one of them computed twice; gradients go the opposite ways, the queries', keys' and values' and the result's.
    return mesh.sent["ulysses"], 4 * 16 * (3 * (3 * there + back) + 2 * (3 * back + there))


def test_gradients_send_what_the_formula_says(bases: dict[str, Path], tmp_path: Path) -> None:
    for sent, formula in together(2, exchanged, bases["rope"], tmp_path):
        assert sent == formula


def test_what_cannot_be_divided_is_refused_with_what_can(bases: dict[str, Path]) -> None:
    spec = read_spec(bases["rope"])
    for parts, processes, accumulate, field, says in ((4, 4, 2, "sequence_parallel", "3 heads.* 4 processes it can be 1, 2"),
                                                      (2, 3, 2, "sequence_parallel", "does not divide 3 processes. It can be 1, 3"),
                                                      (2, 1, 2, "sequence_parallel", "multiple of 2 with --processes"),
                                                      (2, 6, 2, "accumulate", "3 teams of 2 processes cannot share"),
                                                      (1, 4, 2, "accumulate", "4 processes cannot share")):
        with pytest.raises(InvalidRequest, match=says) as refused:
            check_division(config(bases["rope"], sequence_parallel=parts, accumulate=accumulate), spec, processes)
        assert refused.value.field == field
    check_division(config(bases["rope"], sequence_parallel=3, accumulate=2), spec, 6)
    gpu = replace(CPU, device="cuda:0")
    with pytest.raises(InvalidRequest, match="has 1 GPU;"):
        check_devices(gpu, 2)
    check_devices(CPU, 2)


def test_a_part_of_the_tokens_is_planned_with() -> None:
    spec = read_spec(find("pocket"), "pocket")
    wanted = config(find("pocket"), accumulate=4, targets="attention")
    one, two, teams = (choose_memory(spec, replace(wanted, processes=processes, sequence_parallel=parts), CPU)
                       for processes, parts in ((0, 1), (0, 2), (4, 2)))
    assert two.parts["blocks"] == pytest.approx(one.parts["blocks"] / 2, rel=0.01) and two.parts["weights"] == one.parts["weights"]
    assert (two.flops, teams.flops) == (one.flops / 2, one.flops / 4) and teams.parts == two.parts
    with pytest.raises(InvalidRequest, match="can be 1, 3"):
        choose_memory(spec, replace(wanted, processes=3, sequence_parallel=2), CPU)
