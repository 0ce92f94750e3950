"""LoRAs, weights in 8 bits and streaming on several ranks: what one rank makes; and tiles dealt out, and the link measured."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.facts import published
from engine.hardware import Hardware
from engine.memory import Home, Placement, everywhere
from engine.memory.shapes import Shape
from engine.models.cogvideox import CogVideoX
from engine.models.tile_decode import grid_of
from engine.parallel.degrees import parse_degrees
from engine.parallel.mesh import Mesh
from engine.parallel.planned import divide, machine_of, offers
from engine.parallel.spread import SpreadModel
from engine.spec import ModelSpec, read_spec
from tests.engine.test_lora_apply import added
from tests.engine.tiny import CPU, save_tiny
from tests.lora_files import lora_weights, save_lora
from tests.parallel.ranks import DEVICE, together

HERE = everywhere("fp32", "resident", (64, 96), tiled=False)


def kept(precision: str, residency: str, source: str = "ram") -> Placement:
    return replace(HERE, transformer=Home(precision, residency, source))


CASES = {"a LoRA": (HERE, True), "int8": (kept("int8", "resident"), False), "fp8 and a LoRA": (kept("fp8", "resident"), True),
         "int8-dynamic": (kept("int8-dynamic", "resident"), False), "streamed with a LoRA": (kept("fp32", "streamed"), True),
         "streamed in int8 from disk": (kept("int8", "streamed", "disk"), False)}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    torch.set_num_threads(1)
    return read_spec(save_tiny(tmp_path_factory.mktemp("ways") / "tiny", "rope", layers=(3, 1), heads=5, words=17))


@pytest.fixture(scope="module")
def lora(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("loras")
    return added(folder, save_lora(folder / "one.safetensors", lora_weights(spec.path, rank=4, seed=1))), folder


def velocities(spec: ModelSpec, lora: tuple[str, Path], way: str | None) -> dict[str, np.ndarray]:
    """Of every case, twice in a row; on this rank of `way`, or alone."""
    mesh, found = Mesh(parse_degrees(way), DEVICE) if way else None, {}
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(1, 5, 4, 6, 10, generator=generator), torch.randn(2, 17, spec.text_width, generator=generator)
    for name, (placement, with_lora) in CASES.items():
        model = CogVideoX(spec, dtype="fp32", device="cpu", placement=placement)  # in each rank: threads that stream do not fork
        if with_lora:
            model.loras.use(((lora[0], 0.8),), lora[1])
        at_work: Any = SpreadModel(model, mesh) if mesh else model
        first = at_work.predict(latents, torch.tensor(500), text)
        found[name] = at_work.predict(0.9 * latents + 0.1 * first[1:], torch.tensor(400), text).numpy()
        model.close()
    return found


@pytest.mark.parametrize("way", ["ulysses=2", "ring=2", "cfg=2,ulysses=2"])
def test_loras_8_bits_and_streaming_are_those_of_one_rank(way: str, spec: ModelSpec, lora: tuple[str, Path]) -> None:
    alone = velocities(spec, lora, None)
    assert len({made.tobytes() for made in alone.values()}) == 4  # each does something of its own, but for where weights wait
    for rank in together(parse_degrees(way).ranks, velocities, spec, lora, way):
        for name, expected in alone.items():
            off, size = np.abs(rank[name] - expected), max(1.0, np.abs(expected).max())
            if name == "int8-dynamic":  # a last bit decides which way an activation is rounded to 8: then some are off by part of a step
                assert np.median(off) <= 1e-6 * size and off.max() <= size / 127 / 4, (way, name)
            else:
                assert off.max() <= 1e-5 * size, (way, name)


def tiles_on_rank(model: CogVideoX, latents: np.ndarray, tile: tuple[int, int], how: str, way: str) -> tuple[list[Any], int]:
    spread = SpreadModel(model, Mesh(parse_degrees(way), DEVICE), least_work=0)
    chunks = list(spread.decode(torch.from_numpy(latents), tile, how))
    return [one.numpy() if spread.mesh.leads else tuple(one.shape) for one in chunks], spread.mesh.sent["tiles"]


@pytest.mark.parametrize(("way", "how"), [("cfg=2", "tiled"), ("ulysses=3", "by-tile")])
def test_tiles_that_are_dealt_out_are_the_same_picture(way: str, how: str, spec: ModelSpec) -> None:
    model = CogVideoX(spec, dtype="fp32", device="cpu")
    latents = torch.randn(1, 5, 4, 8, 12, generator=torch.Generator().manual_seed(4))
    tile, world = (32, 48), parse_degrees(way).ranks
    alone = [one.numpy() for one in model.decode(latents, tile, how)]
    ranks = together(world, tiles_on_rank, model, latents.numpy(), tile, how, way)
    (first, _), others = ranks[0], ranks[1:]
    whole = np.concatenate([one for one in alone if len(one)])
    assert np.array_equal(np.concatenate([one for one in first if len(one)]), whole)  # to the bit
    moments = [len(one) for one in first]
    tiles, chunks = 3 * 3, 2
    assert moments.count(0) == -(-tiles // world) * chunks
    assert all(shapes == [(count, 0, 0, 3) for count in moments] for shapes, _ in others)
    grid = grid_of(model.vae, latents.permute(0, 2, 1, 3, 4), tile)
    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    not_the_firsts = sum(3 * 17 * 4 * int(np.prod(grid.made(*place))) for index, place in enumerate(places) if index % world)
    assert sum(sent for _, sent in others) == not_the_firsts  # pixels of 17 frames in float32, once each
    model.close()


def link_of() -> tuple[tuple[float, float], dict[str, int]]:
    mesh = Mesh(parse_degrees("ulysses=2"), DEVICE)
    return mesh.link(), dict(mesh.sent)


def test_the_link_is_measured_and_all_ranks_say_the_same() -> None:
    (one, counted), (other, _) = together(2, link_of)
    assert one == other and one[0] > 1e6 and 0 < one[1] < 5 and counted == {}


def test_a_measured_link_changes_what_is_foretold() -> None:
    five, shape = published("THUDM/CogVideoX-5b"), Shape(49, 480, 720, True)
    unknown = Hardware(device="cuda:0", name="a card", total_bytes=80 * 2**30, free_bytes=79 * 2**30, cores=16, bf16=True)
    slow = replace(unknown, link=(2e9, 1e-3))
    assert machine_of(slow)[0].link == 2e9 and machine_of(unknown)[0].link == 1.5e11
    best = {one.degrees: one.speed_up for one in offers(five, shape, unknown, 2)}
    worse = {one.degrees: one.speed_up for one in offers(five, shape, slow, 2)}
    ulysses, cfg = parse_degrees("ulysses=2"), parse_degrees("cfg=2")
    assert worse[ulysses] < 0.5 * best[ulysses] and worse[cfg] == pytest.approx(best[cfg], rel=0.01)
    assert Hardware.from_json({**asdict(slow), "link": [2e9, 1e-3]}) == slow
    on_cpu = divide("ulysses=2", five, shape, replace(CPU, link=(1e6, 1e-3)))
    assert on_cpu.speed_up < divide("ulysses=2", five, shape, CPU).speed_up
