"""On 2, 3 and 4 ranks every part of a clip is what one rank makes, and what goes over the wire is what the formula says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from engine.guidance import guidance_weights
from engine.models.band_decode import decode_banded
from engine.models.band_encode import encode_banded
from engine.models.cogvideox import CogVideoX
from engine.parallel.degrees import Degrees, deal
from engine.parallel.mesh import Mesh
from engine.parallel.spread import SpreadModel
from engine.sample import SampleState, sample
from engine.spec import read_spec
from tests.engine.test_decode_ways import CONFIGS
from tests.engine.tiny import save_tiny
from tests.parallel.ranks import DEVICE, together

WAYS = {2: ["cfg=2", "ulysses=2", "ring=2"], 3: ["ulysses=3", "ring=3"],
        4: ["cfg=2,ulysses=2", "cfg=2,ring=2", "ulysses=2,ring=2", "ulysses=4", "ring=4"]}
KINDS = ["sincos", "rope", "i2v-1.5"]
SHAPE = (1, 5, 4, 6, 10)
"""75 video tokens (45 with patches in time): 4 ranks get 19, 19, 19, 18, and of 17 tokens of words 4, 4, 4, 5."""


def degrees_of(text: str) -> Degrees:
    from engine.parallel.degrees import parse_degrees

    return parse_degrees(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., CogVideoX]]:
    torch.set_num_threads(1)
    held: dict[tuple[str, int], CogVideoX] = {}

    def get(kind: str, heads: int = 5) -> CogVideoX:
        if (kind, heads) not in held:
            folder = save_tiny(tmp_path_factory.mktemp("uneven") / kind, kind, layers=(2, 1), heads=heads, words=17)
            held[kind, heads] = CogVideoX(read_spec(folder, kind), dtype="fp32", device="cpu")
        return held[kind, heads]

    yield get
    for one in held.values():
        one.close()


def inputs(model: CogVideoX) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    shape = (1, 6, *SHAPE[2:]) if model.spec.patch_size_t else SHAPE
    latents = torch.randn(shape, generator=generator)
    text = torch.randn(2, 17, model.spec.text_width, generator=generator)
    return latents, text, torch.randn(shape, generator=generator) if "i2v" in model.spec.modes else None


def forward(model: Any) -> torch.Tensor:
    latents, text, beside = inputs(model)
    made: torch.Tensor = model.predict(latents, torch.tensor(500), text, beside)
    return made


def twelve(model: Any) -> torch.Tensor:
    latents, text, beside = inputs(model)
    stepper = model.scheduler("dpm", 12)
    weights = guidance_weights("constant", 6.0, stepper.timesteps.tolist())
    *_, last = sample(model, stepper, text, SampleState(0, latents, None), weights, torch.Generator().manual_seed(5), beside)
    return last.latents


def on_rank(models: dict[str, CogVideoX], ways: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way in ways:
        mesh = Mesh(degrees_of(way), DEVICE)
        for kind, model in models.items():
            spread = SpreadModel(model, mesh)
            mesh.sent.clear()
            made = forward(spread)
            latents, text, _ = inputs(model)
            found[f"{way} {kind}"] = {"forward": made.numpy(), "twelve": twelve(spread).numpy() if kind != "30 heads" else None}
            share = spread.share(latents.shape, text.shape[1])
            mesh.sent.clear()
            forward(spread)
            rows = 1 if mesh.degrees.cfg == 2 else 2
            expected = [4 * model.spec.layers * one for one in share.sent(mesh.part, rows, model.spec.width // model.spec.heads)]
            found[f"{way} {kind}"] |= {"sent": [mesh.sent["ulysses"], mesh.sent["ring"]], "formula": expected,
                                       "cfg": mesh.sent["cfg"], "half": made[:1].numel() * 4}
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_step_and_twelve_are_those_of_one_rank(world: int, model: Callable[..., CogVideoX]) -> None:
    models = {kind: model(kind) for kind in KINDS} | ({"30 heads": model("sincos", 30)} if world == 4 else {})
    alone = {kind: (forward(one).numpy(), twelve(one).numpy()) for kind, one in models.items()}
    for rank in together(world, on_rank, models, WAYS[world]):
        for way in WAYS[world]:
            for kind in models:
                made = rank[f"{way} {kind}"]
                assert np.abs(made["forward"] - alone[kind][0]).max() <= 1e-5, (way, kind)
                if made["twelve"] is not None:
                    assert np.abs(made["twelve"] - alone[kind][1]).max() <= 1e-5 * max(1, np.abs(alone[kind][1]).max()), (way, kind)
                assert made["sent"] == made["formula"], (way, kind)
                assert made["cfg"] == (made["half"] if "cfg=2" in way else 0)


def rows_on_rank(name: str, latents: np.ndarray, video: np.ndarray, world: int) -> dict[str, Any]:
    from engine.parallel.bands import decode_rows, encode_rows

    vae, mesh = vae_of(name), Mesh(Degrees(1, world, 1), DEVICE)
    sizes = deal(latents.shape[3], world)
    with torch.inference_mode():
        for limit in (20_000, 10**9):
            parts = list(decode_rows(vae, torch.from_numpy(latents), mesh, sizes, limit=limit))
        moments = list(encode_rows(vae, video, mesh, deal(video.shape[1] // 8, world), limit=20_000))
    return {"frames": torch.cat(parts, 2).numpy(), "moments": torch.cat([one for _, one in moments], 2).numpy(),
            "done": [count for count, _ in moments]}


def vae_of(name: str) -> Any:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(**CONFIGS[name]).eval()


@pytest.mark.parametrize(("name", "world"), [("falling", 2), ("1.5", 3), ("rising", 2)])
@torch.inference_mode()
def test_rows_on_several_ranks_are_the_whole_picture(name: str, world: int) -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 5, 5, 4, generator=generator)
    video = np.random.default_rng(0).integers(0, 256, (9, 40, 32, 3), dtype=np.uint8)
    vae = vae_of(name)
    whole = vae.decode(latents).sample
    ranks = together(world, rows_on_rank, name, latents.numpy(), video, world)
    joined = np.concatenate([rank["frames"] for rank in ranks], axis=3)
    assert joined.shape == whole.shape
    assert np.abs(joined - whole.numpy()).max() <= 1e-5
    assert np.abs(joined - torch.cat(list(decode_banded(vae, latents)), 2).numpy()).max() <= 1e-5
    expected = list(encode_banded(vae, video))
    for rank in ranks:
        assert rank["done"] == [count for count, _ in expected]
        assert np.abs(rank["moments"] - torch.cat([one for _, one in expected], 2).numpy()).max() <= 1e-5


def frames_on_rank(model: CogVideoX, latents: np.ndarray) -> list[tuple[int, ...] | np.ndarray]:
    spread = SpreadModel(model, Mesh(Degrees(2), DEVICE), least_work=0)
    chunks = list(spread.decode(torch.from_numpy(latents), (64, 96)))
    return [chunk.numpy() if spread.mesh.leads else tuple(chunk.shape) for chunk in chunks]


def test_the_first_rank_has_the_frames_and_the_others_count_them(model: Callable[..., CogVideoX]) -> None:
    one = model("rope")
    latents = torch.randn(1, 5, 4, 6, 10, generator=torch.Generator().manual_seed(2))
    expected = [chunk.numpy() for chunk in one.decode(latents, (64, 96))]
    first, second = together(2, frames_on_rank, one, latents.numpy())
    assert [frames.shape for frames in first] == [frames.shape for frames in expected]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(first, expected, strict=True)) <= 1  # 1e-5 may be across a rounding
    assert second == [(len(frames), 0, 0, 3) for frames in expected]
    few = torch.randn(1, 3, 4, 1, 4)  # one row for two ranks: the first decodes alone
    alone = [chunk.numpy() for chunk in one.decode(few, (64, 96))]
    first, second = together(2, frames_on_rank, one, few.numpy())
    assert all(np.array_equal(a, b) for a, b in zip(first, alone, strict=True))
    assert second == [(len(frames), 0, 0, 3) for frames in alone]


def wishes() -> list[Any]:
    mesh = Mesh(Degrees(1, 1, 2), DEVICE)
    return [mesh.agree(False), mesh.agree(mesh.rank == 1), mesh.tell("first" if mesh.leads else None),
            mesh.beat.pulse().exchanges, mesh.beat.pulse().inside]


def test_ranks_agree() -> None:
    assert together(2, wishes) == [[False, True, "first", 3, False]] * 2


def test_degrees_that_are_not_the_fleets_are_refused() -> None:
    def body() -> str:
        try:
            Mesh(Degrees(2, 2, 1), DEVICE)
        except ValueError as error:
            return str(error)
        return ""

    assert set(together(2, body)) == {"cfg=2,ulysses=2,ring=1 wants 4 ranks, and there are 2"}


def test_nothing_stays_on_the_model(model: Callable[..., CogVideoX], tmp_path: Path) -> None:
    one = model("rope")
    before = forward(one)

    def body() -> list[float]:
        spread = SpreadModel(one, Mesh(Degrees(1, 2, 1), DEVICE))
        forward(spread)
        return [float((forward(one) - before).abs().max())]  # by this rank alone again

    assert together(2, body) == [[0.0], [0.0]]
