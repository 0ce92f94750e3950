"""Every way to decode gives diffusers' picture: in bands that of `vae.decode`, tile by tile that of `vae.tiled_decode`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from engine.errors import Cancelled
from engine.events import ClipWritten, Stage, StepDone
from engine.hardware import detect
from engine.models import bands as bands_module
from engine.models.band_decode import decode_banded, decode_part
from engine.models.band_encode import encode_banded
from engine.models.bands import Bands, giving_back, host_room
from engine.models.cache import ModelCache
from engine.models.tile_decode import decode_by_tile
from engine.models.vae_decode import decode_chunks, same_picture
from engine.models.vae_encode import encode_chunks
from engine.parallel import spread
from engine.plan import Plan
from engine.run import run
from engine.video.recipe import build_recipe
from tests.engine.test_hierarchy import picture

SMALL: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "1.0": SMALL,
    "1.5": SMALL | {"invert_scale_latents": True, "scaling_factor": 0.7, "sample_height": 96, "sample_width": 170},
    "falling": SMALL | {"block_out_channels": (8, 16, 16, 32), "layers_per_block": 3, "norm_num_groups": 4},  # as published
    "rising": SMALL | {"block_out_channels": (16, 8, 8, 8)},  # more channels after a block than before it
}
SIZES = [(1, 4, 6), (2, 5, 8), (3, 6, 7), (5, 3, 5), (7, 4, 4), (8, 2, 3)]
"""Latent frames, rows, columns: one frame; one chunk; one odd chunk; several, first odd or even."""
LENGTHS = [1, 8, 9, 25]
"""Frames to encode."""
LIMITS = [1, 20_000, 10**9]
"""Bytes: every row and group by itself, some, everything at once."""


def tiny_vae(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(**CONFIGS[name]).eval().to(dtype)


def cases(names: list[str], sizes: list[Any]) -> list[tuple[str, Any, torch.dtype]]:
    """Every name with every size in fp32 and in bf16; where bf16 is emulated, 60 times slower, in that each of them but not each pair."""
    pairs = list(itertools.product(names, sizes))
    most = max(len(names), len(sizes))
    half = pairs if detect("cpu").bf16 else [(names[index % len(names)], sizes[index % len(sizes)]) for index in range(most)]
    return [(*pair, torch.float32) for pair in pairs] + [(*pair, torch.bfloat16) for pair in half]


def joined(chunks: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(chunks), dim=2)


def check(given: Tensor, expected: Tensor) -> None:
    """Equal to the last bit in bf16. In fp32 a convolution's kernel is chosen by the size of its input and adds in another order."""
    if expected.dtype == torch.bfloat16:
        assert torch.equal(given, expected)
    else:
        assert given.shape == expected.shape
        assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "size", "dtype"), cases(list(CONFIGS), SIZES))
@torch.inference_mode()
def test_bands_are_the_whole_decode(name: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    vae = tiny_vae(name, dtype)
    latents = torch.randn(1, 4, *size, dtype=dtype)
    expected = vae.decode(latents).sample
    before = latents.clone()
    for limit in LIMITS:
        check(joined(decode_banded(vae, latents, limit=limit)), expected)
    assert torch.equal(latents, before)  # it works in place, but not on what it is given


@pytest.mark.parametrize(("name", "frames", "dtype"), cases(["falling", "1.0"], LENGTHS))
@torch.inference_mode()
def test_bands_are_the_whole_encoding(name: str, frames: int, dtype: torch.dtype) -> None:
    vae = tiny_vae(name, dtype)
    video = np.random.default_rng(0).integers(0, 256, (frames, 48, 32, 3), dtype=np.uint8)
    expected = list(encode_chunks(vae, video, (999, 999)))
    for limit in LIMITS:
        given = list(encode_banded(vae, video, limit=limit))
        assert [done for done, _ in given] == [done for done, _ in expected]
        check(joined(part for _, part in given), joined(part for _, part in expected))


@torch.inference_mode()
def test_bands_come_in_the_chunks_of_the_stream() -> None:
    vae, latents = tiny_vae("1.0"), torch.randn(1, 4, 5, 4, 6)
    shapes = [chunk.shape for chunk in decode_banded(vae, latents)]
    assert shapes == [chunk.shape for chunk in decode_chunks(vae, latents, (999, 999))] == [(1, 3, 9, 32, 48), (1, 3, 8, 32, 48)]


@torch.inference_mode()
def test_what_is_kept_between_chunks_lies_where_it_is_told_to_and_goes_in_the_end() -> None:
    made: list[Tensor] = []

    def room(like: Tensor) -> Tensor:
        made.append(host_room(like))
        return made[-1]

    vae, latents = tiny_vae("1.0"), torch.randn(1, 4, 7, 4, 6)
    bands = Bands(limit=20_000, room=room)
    decode_part(vae, latents[:, :, :3], bands)
    after_first = len(made)
    assert after_first > 22  # causal convolutions, some in several bands
    decode_part(vae, latents[:, :, 3:5], bands)
    bands.last = True
    decode_part(vae, latents[:, :, 5:], bands)
    assert len(made) == after_first  # overwritten in place
    assert not bands._kept
    made.clear()
    assert joined(decode_banded(vae, latents[:, :, :3], room=room)).shape[2] == 9
    assert not made  # nothing follows, so nothing is kept


@pytest.mark.parametrize(("latent_frames", "dtype"), [*((n, torch.float32) for n in range(1, 6)), (3, torch.bfloat16)])
@torch.inference_mode()
def test_by_tile_is_the_tiled_decode(latent_frames: int, dtype: torch.dtype) -> None:
    vae = tiny_vae("1.0", dtype)
    latents = torch.randn(1, 4, latent_frames, 12, 20, dtype=dtype)
    tile = (48, 80)
    vae.enable_tiling(*tile)
    expected = vae.decode(latents).sample
    chunks = list(decode_by_tile(vae, latents, tile, limit=20_000))
    check(torch.cat(chunks, dim=2), expected)
    shapes = [chunk.shape for chunk in decode_chunks(vae, latents, tile)]
    assert [chunk.shape for chunk in chunks if chunk.shape[2]] == shapes
    tiles = 3 * 3
    assert sum(chunk.shape[2] == 0 for chunk in chunks) == tiles * len(shapes)  # moments to stop


@pytest.mark.parametrize("how", ["banded", "by-tile"])
def test_a_plan_with_it_is_run(how: str, tmp_path: Path, tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    made = tiny_plan("rope", frames=17)
    job = replace(made, tile=(48, 80) if how == "by-tile" else made.tile, placement=replace(made.placement, decode=how))
    models = cache_of(job)
    latents = torch.randn(1, 5, 4, 8, 12)
    whole = "whole" if how == "banded" else "tiled"
    given, expected = (np.concatenate([c.numpy() for c in models.get(job).decode(latents, job.tile, way)]) for way in (how, whole))
    assert given.shape == expected.shape == (17, 64, 96, 3)
    assert np.abs(given.astype(int) - expected).max() <= 1  # fp32; see `check`
    events = list(run(job, part=tmp_path / "a.part", workspace=tmp_path / "job", recipe=build_recipe(job), models=models,
                      cancelled=lambda: False))
    assert events[-1].frames == 17  # type: ignore[union-attr]


@pytest.mark.parametrize(("how", "moments"), [("banded", 2), ("by-tile", 2 * 2 * 2 + 2)])
def test_it_can_be_cancelled_between_chunks(how: str, moments: int, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                            cache_of: Callable[[Plan], ModelCache]) -> None:
    made = tiny_plan("rope", frames=17)
    job = replace(made, tile=(48, 80) if how == "by-tile" else made.tile, placement=replace(made.placement, decode=how))
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked == limit

    def attempt(folder: Path) -> None:
        list(run(job, part=folder / "a.part", workspace=folder / "job", recipe=build_recipe(job), models=cache_of(job),
                 cancelled=cancelled))

    limit = -1
    attempt(tmp_path / "whole")
    limit, asked = asked - 1, 0  # the last time but one: before the last chunk, and then before the check of the file
    with pytest.raises(Cancelled):
        attempt(tmp_path / "last")
    limit, asked = limit - moments + 1, 0
    with pytest.raises(Cancelled):
        attempt(tmp_path / "first")
    assert not list(tmp_path.glob("*t/*.part"))


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened to memory of the computer, in order."""
    said: list[str] = []
    monkeypatch.setattr(bands_module, "give_host_memory_back", lambda device: said.append(f"back from {device}"))
    return said


def two(said: list[str], first: Any) -> Iterator[Any]:
    """Two chunks of something that keeps memory while it is there."""
    try:
        yield first
        yield first
    finally:
        said.append("let go")


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_host_memory_goes_back_however_many_chunks_are_asked_for(given_back: list[str], asked: int) -> None:
    chunks = giving_back(two(given_back, 7), torch.device("cpu"))
    assert [next(chunks, None) for _ in range(asked)] == [7, 7, None][:asked]
    del chunks
    assert given_back == ["let go", "back from cpu"]


def test_a_clip_gives_back_what_encoding_and_decoding_took(tmp_path: Path, tiny_plan: Callable[..., Plan], given_back: list[str],
                                                           cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan("i2v-sincos", frames=17, image=picture(tmp_path / "inputs", (96, 64), (10, 90, 200)))
    seen = [(event, len(given_back)) for event in run(
        job, part=tmp_path / "a.part", workspace=tmp_path / "job", recipe=build_recipe(job), models=cache_of(job),
        cancelled=lambda: False, inputs=tmp_path / "inputs")]
    assert isinstance(seen[-1][0], ClipWritten) and given_back == ["back from cpu"] * 2
    assert {back for event, back in seen if isinstance(event, StepDone) and event.stage is Stage.SAMPLE} == {1}


def test_so_does_a_rank(given_back: list[str], monkeypatch: pytest.MonkeyPatch, tiny_plan: Callable[..., Plan]) -> None:
    job, pixels = tiny_plan("rope"), torch.zeros(1, 3, 9, 8, 8)
    for name, first in (("decode_rows", pixels), ("decode_tiles", (9, pixels)), ("encode_rows", (9, pixels))):
        monkeypatch.setattr(spread, name, lambda *_, first=first: two(given_back, first))
    mesh: Any = SimpleNamespace(degrees=SimpleNamespace(ranks=1, sequence=1), agree=bool, to_first=lambda pixels, *_: pixels)
    model = SimpleNamespace(spec=job.spec, device="cpu", at_work=lambda part: None,
                            components={"vae": SimpleNamespace(dtype=torch.float32)}, transformer=SimpleNamespace(attn_processors={}))
    rank = spread.SpreadModel(model, mesh, least_work=0)
    latents, video = torch.zeros(1, 5, 4, 8, 12), np.zeros((17, 64, 96, 3), np.uint8)
    for chunks in (rank.decode(latents, (64, 96), "banded"), rank.decode(latents, (32, 48), "by-tile"),
                   rank.encode_frames(video, (64, 96))):
        next(iter(chunks))
        chunks.close()  # type: ignore[attr-defined]
        assert given_back == ["let go", "back from cpu"]
        given_back.clear()


def test_pictures_that_differ_by_more_than_rounding_are_not_the_same() -> None:
    picture = torch.randn(1, 3, 4, 8, 8)
    assert same_picture(picture, picture.clone())
    assert not same_picture(picture * 1.0001, picture)
