"""Which devices make a clip: what is legal here, what is busy, what is said of it; and weights that differ."""

from __future__ import annotations

import json
import shutil
import socket
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from typer.testing import CliRunner

from app import cli_torchrun
from app.cli import app
from app.cli_torchrun import least
from app.parallel_view import devices_words, page_choices
from app.ui import devices
from engine.checkpoint import fingerprint
from engine.errors import CannotFit, InvalidRequest, ModelInvalid
from engine.facts import published
from engine.hardware import Gpu, Hardware
from engine.memory import Shape
from engine.parallel.cost import LEAST_WORK
from engine.parallel.degrees import Degrees
from engine.parallel.mesh import Mesh
from engine.parallel.planned import offers, usable
from engine.parallel.weights import compare_weights, digest
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.speed import Speed
from tests.engine.tiny import CPU
from tests.parallel.ranks import DEVICE, together

FIVE = published("THUDM/CogVideoX-5b")
GIB = 2**30


def gpus(*free: int, names: tuple[str, ...] = (), loads: tuple[int, ...] = ()) -> Hardware:
    """A computer whose GPUs of 80 GiB have so much free."""
    found = tuple(Gpu(device=f"cuda:{i}", name=(names or ("A card",) * len(free))[i], total_bytes=80 * GIB, free_bytes=size * GIB,
                      load=(loads or (0,) * len(free))[i]) for i, size in enumerate(free))
    best = max(found, key=lambda one: one.free_bytes)
    return Hardware(device=best.device, name=best.name, total_bytes=80 * GIB, free_bytes=best.free_bytes, cores=16, bf16=True,
                    ram_bytes=400 * GIB, gpus=found)


def made(parallel: str | None, machine: Hardware, **fields: Any) -> Plan:
    return plan(GenerationRequest(prompt="a fox", parallel=parallel, **fields), FIVE, machine)


def test_free_gpus_are_taken_the_emptiest_first() -> None:
    four = made("ulysses=2,cfg=2", gpus(70, 79, 78, 60))
    assert four.parallel == "cfg=2,ulysses=2,ring=1" and four.devices == ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    assert four.request().parallel == four.parallel and four.device == "cuda:0"
    assert made("cfg=2", gpus(70, 79, 78, 60)).devices == ("cuda:1", "cuda:2")
    alone = made(None, gpus(70, 79, 78, 60))
    assert (alone.parallel, alone.devices) == ("", ())
    assert "faster, not smaller" in four.notes[-1] and "must fit on one" in four.notes[-1]
    assert 3 < alone.work["sample"] / four.work["sample"] <= 4 and alone.work["decode"] / four.work["decode"] == 4
    assert json.loads(json.dumps(four.to_json()))["devices"] == list(four.devices)


def test_ranks_that_are_there_keep_their_gpus() -> None:
    machine = gpus(77, 76, 79, 79)
    held = tuple(replace(gpu, held_bytes=20 * GIB) if gpu.device in ("cuda:0", "cuda:1") else gpu for gpu in machine.gpus)
    assert made("cfg=2", machine).devices == ("cuda:2", "cuda:3")
    assert made("cfg=2", replace(machine, gpus=held)).devices == ("cuda:0", "cuda:1")


def test_busy_gpus_are_left_to_others() -> None:
    three = made("cfg=2,ulysses=2", gpus(79, 79, 79, 10))
    assert len(three.devices) == 3 and "cuda:3" not in three.devices
    assert "1 of 4 GPUs are busy, so this clip is made on 3, not 4." in three.notes
    one = made("cfg=2", gpus(79, 79, loads=(0, 97)))
    assert one.devices == () and "1 of 2 GPUs are busy, so this clip is made on 1, not 2." in one.notes


def test_what_is_taken_instead_of_busy_gpus_is_not_what_would_be_refused() -> None:
    gated = {"cache": "pab", "cfg_gate": 0.5}
    assert made("ulysses=4", gpus(79, 79, 10, 10)).parallel == "cfg=2,ulysses=1,ring=1"
    assert made("ulysses=4", gpus(79, 79, 10, 10), **gated).parallel == "cfg=1,ulysses=1,ring=2"
    with pytest.raises(InvalidRequest, match="Use cfg=1,ulysses=1,ring=2, or") as found:
        made("ulysses=4", gpus(79, 79), **gated)
    assert found.value.suggestion == "cfg=1,ulysses=1,ring=2"


def plans_of(machine: Hardware) -> tuple[int, str]:
    given = replace(machine, free_bytes=machine.free_bytes // (1 + 3 * dist.get_rank()), bf16=dist.get_rank() == 0)
    found = least(given, 2)
    return found.free_bytes, json.dumps(plan(GenerationRequest(prompt="a fox", seed=1), FIVE, found).to_json(), sort_keys=True)


def test_ranks_with_other_memory_come_to_one_plan() -> None:
    machine = gpus(79)
    one, other = together(2, plans_of, machine)
    assert one == other and one[0] == machine.free_bytes // 4
    processor = replace(CPU, free_bytes=800)
    assert [each for each in together(2, least_free, processor)] == [100, 100]  # shared by the two of one computer


def least_free(machine: Hardware) -> int:
    return least(replace(machine, free_bytes=machine.free_bytes // (1 + 3 * dist.get_rank())), 2).free_bytes


@pytest.mark.parametrize(("parallel", "machine", "fields", "words"), [
    ("cfg=2,ulysses=2", gpus(79, 79), {}, "asks for 4 GPUs, and there are 2. Use cfg=2,ulysses=1,ring=1"),
    ("cfg=2", gpus(79, 70, names=("A card", "B card")), {}, r"2 GPUs of one model \(A card, B card are mixed\), and there is 1"),
    ("cfg=2", gpus(79), {}, "there is 1. Leave parallel out"),
    ("cfg=2", gpus(79, 79), {"guidance": 1.0}, "no second half"),
    ("ulysses=49", gpus(79, 79), {}, "48 heads"),
    ("cfg=2", gpus(79, 79), {"cache": "pab", "cfg_gate": 0.5}, "cfg=2 beside the cache pab"),
    ("ulysses=8", CPU, {"frames": 1, "width": 64, "height": 64}, "8 ranks on a processor with 1 cores; 4 is the most"),
])
def test_what_cannot_be_is_refused_with_what_can(parallel: str, machine: Hardware, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as found:
        made(parallel, machine, **fields)
    assert found.value.field == "parallel"


def test_ranks_of_a_processor_share_its_memory(tiny_plan: Callable[..., Plan]) -> None:
    two, alone = tiny_plan("rope", parallel="ring=2"), tiny_plan("rope")
    assert two.devices == ("cpu", "cpu") and "in one memory" in two.notes[-1]
    assert "2 ranks on 1 cores: no faster than one for each core." in two.notes
    assert fingerprint(two) == fingerprint(alone)  # so one goes on where the other stopped
    small = replace(CPU, free_bytes=int(1.5 * alone.predicted_bytes))
    request = GenerationRequest(prompt="a fox", model=alone.model, steps=3)
    assert plan(request, alone.spec, small).devices == ()
    with pytest.raises(CannotFit, match="one of 2 ranks"):
        plan(replace(request, parallel="ring=2"), alone.spec, small)


def test_a_ring_refuses_kernels_without_sums() -> None:
    machine = replace(gpus(79, 79), capability=(9, 0), packages=("sageattention",))
    with pytest.raises(InvalidRequest, match="does not give the sums"):
        plan(GenerationRequest(prompt="a fox", parallel="ring=2"), FIVE, machine, speed=Speed(attention="sage"))


def test_fewer_gpus_with_a_kernel_without_sums_make_no_ring() -> None:
    machine = replace(gpus(79, 79, 10, 10), capability=(9, 0), packages=("sageattention",))
    wish = GenerationRequest(prompt="a fox", guidance=1.0, parallel="ulysses=4")
    found = plan(wish, FIVE, machine, speed=Speed(attention="sage"))
    assert (found.attention, found.parallel) == ("sage", "cfg=1,ulysses=2,ring=1")
    assert plan(wish, FIVE, machine).parallel == "cfg=1,ulysses=1,ring=2"


def test_gpus_that_our_own_ranks_keep_busy_are_not_anothers() -> None:
    working = gpus(79, 79, loads=(98, 99))
    held = replace(working, gpus=tuple(replace(gpu, held_bytes=20 * GIB) for gpu in working.gpus))
    assert [gpu.device for gpu in usable(held)] == ["cuda:0", "cuda:1"] and usable(working) == []


def test_ranks_on_a_processor_share_the_cores_that_one_process_has(tiny_plan: Callable[..., Plan]) -> None:
    two, alone = tiny_plan("rope", parallel="cfg=2"), tiny_plan("rope")
    assert two.work["sample"] >= alone.work["sample"] and two.work["decode"] == alone.work["decode"]
    shape = Shape(49, 480, 720, True)
    assert {one.degrees.ranks for one in offers(FIVE, shape, replace(CPU, cores=2), 8)} == {2, 3, 4}  # no more are taken
    assert all(one.speed_up <= 1 for one in offers(FIVE, shape, CPU))
    small = gpus(79, 79)
    short = [plan(GenerationRequest(prompt="a fox", frames=1, parallel=way), FIVE, small) for way in ("cfg=2", None)]
    assert (short[0].work["decode"] < short[1].work["decode"]) == (short[1].work["decode"] >= LEAST_WORK)


def test_torchrun_refuses_what_a_plan_refuses(tiny_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    alone = tiny_plan("rope")
    wish = GenerationRequest(prompt="a fox", model=alone.model, steps=3, cache="pab", cfg_gate=0.5)
    with pytest.raises(InvalidRequest, match="cfg=2 beside the cache pab"):
        cli_torchrun.planned(Namespace(models_dir=None), wish, "cfg=2", CPU, 2, 0)

    def refused(*_: object) -> Plan:
        raise InvalidRequest("model", "is not here.")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, body in (("join", lambda _device: None), ("least", lambda hardware, _here: hardware), ("planned", refused)):
        monkeypatch.setattr(cli_torchrun, name, body)
    assert cli_torchrun.main(["--out", "clip.mp4", "--prompt", "a fox"]) == 2
    assert f"rank 1 on {socket.gethostname()}: model: is not here." in capsys.readouterr().err


def test_rounds_are_made_on_one_device(tiny_plan: Callable[..., Plan]) -> None:
    with pytest.raises(InvalidRequest, match="rounds between them run on one"):
        tiny_plan("rope", frames=33, key_frames=9, fps=16.0, parallel="cfg=2")


def test_the_page_offers_what_there_is() -> None:
    machine = gpus(79, 70, loads=(3, 40))
    words, values = zip(*page_choices(FIVE, machine), strict=True)
    assert values[:2] == ("", "cfg=2,ulysses=1,ring=1") and len(values) == 3
    assert words[1].startswith("2 GPUs, cfg 2: about 2.0 times as fast")
    assert "GPU 1 A card: 75 of 86 GB free, 40 % busy" in devices_words(machine)
    assert page_choices(FIVE, gpus(79)) == [("One device", "")] == page_choices(None, machine)
    shown = devices.show("cfg=2,ulysses=16,ring=1", None)
    assert shown["value"] in {value for _, value in shown["choices"]}
    assert (devices.read("parallel", ""), devices.read("parallel", "ring=2")) == (None, "ring=2")


def test_a_plan_for_gpus_that_are_not_here_lists_the_ways() -> None:
    asked = ["plan", "--model", "THUDM/CogVideoX-2b", "--budget", "80GiB", "--gpus", "4"]
    said = CliRunner().invoke(app, [*asked, "--json"])
    found = json.loads(said.stdout)["parallel"]
    assert {one["gpus"] for one in found} == {2, 3, 4} and found[0]["parallel"] == "cfg=2,ulysses=1,ring=1"
    assert all(1 < one["predicted_speed_up"] <= one["gpus"] for one in found)
    said = CliRunner().invoke(app, asked)
    assert "faster, not smaller" in said.stdout and "cfg=2,ulysses=2,ring=1" in said.stdout
    wrong = CliRunner().invoke(app, [*asked[:-1], "1"])
    assert isinstance(wrong.exception, InvalidRequest) and wrong.exception.field == "gpus"


def test_ranks_with_other_weights_are_found_out(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folders = [tmp_path / "model", tmp_path / "other" / "model"]
    for folder in folders:
        shutil.copytree(tiny("rope"), folder)
    assert digest(folders[0]) == digest(folders[1])
    weights = sorted(folders[1].rglob("*.safetensors"))[0]
    changed = bytearray(weights.read_bytes())
    changed[-5] ^= 1  # one bit
    weights.write_bytes(changed)

    def body() -> str:
        mesh = Mesh(Degrees(1, 2, 1), DEVICE)
        compare_weights(mesh, folders[0])
        try:
            compare_weights(mesh, folders[mesh.rank])
        except ModelInvalid as error:
            return str(error)
        return "nothing"

    first, second = together(2, body)
    assert first == second and first.startswith("rank 1 has other weights in model than rank 0.")
