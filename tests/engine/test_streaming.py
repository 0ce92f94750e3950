"""Weights that are not on the device: what comes out is the same bits, and what moves is counted."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.choices import MEMORY_SHARE
from engine.errors import ModelInvalid
from engine.events import ClipWritten
from engine.memory import Home, Placement, everywhere
from engine.memory.weights import layout, moved_bytes, stored_bytes, working_bytes
from engine.models import streaming
from engine.models.cache import ModelCache
from engine.models.cogvideox import CogVideoX
from engine.models.fresh_blocks import FreshBlocks
from engine.models.streaming import ALIGNED
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import ModelSpec, read_spec
from engine.video.recipe import build_recipe
from tests.engine.tiny import CPU, save_tiny

TILE = (64, 96)
HERE = everywhere("fp32", "resident", TILE, tiled=False)
LAYERS = (5, 4)
FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """deep('rope' | 'sincos' | '1.5') -> a tiny model of 5 transformer and 4 text blocks."""
    saved: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in saved:
            saved[kind] = save_tiny(tmp_path_factory.mktemp("deep") / f"tiny-{kind}", kind, layers=LAYERS)
        return saved[kind]

    return get


@pytest.fixture
def load() -> Iterator[Callable[..., CogVideoX]]:
    opened = []

    def make(spec: ModelSpec | Path, placement: Placement = HERE, dtype: str = "fp32") -> CogVideoX:
        spec = spec if isinstance(spec, ModelSpec) else read_spec(spec)
        opened.append(CogVideoX(spec, dtype=dtype, device="cpu", placement=placement))
        return opened[-1]

    yield make
    for model in opened:
        model.close()


def away(residency: str, source: str, precision: str = "fp32", **choices: Any) -> Placement:
    """Text encoder and transformer so, the VAE staged from the same source."""
    home = Home(precision, residency, source)
    return replace(HERE, text_encoder=home, transformer=home, vae=Home("fp32", "staged", source), **choices)


def predicted(model: CogVideoX) -> tuple[Tensor, Tensor, Tensor]:
    """Text, the sum of two predictions, and what they were made for."""
    text = model.encode("a fox", "")
    generator = torch.Generator().manual_seed(1)
    latents = model.initial_latents((1, 4 if model.spec.patch_size_t else 3, 4, 8, 12), generator)
    velocity = sum(model.predict(latents, torch.tensor(time), text) for time in (900, 300))
    assert isinstance(velocity, Tensor)
    return text, velocity, latents


def clip(model: CogVideoX) -> tuple[Tensor, Tensor, Tensor]:
    """Text, predictions, and frames, decoded in the way that tries no other first."""
    text, velocity, latents = predicted(model)
    return text, velocity, torch.cat(list(model.decode(latents[..., :4, :6], TILE, "banded")))


def same(ours: CogVideoX, theirs: CogVideoX) -> bool:
    return all(torch.equal(a, b) for a, b in zip(clip(ours), clip(theirs), strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["rope", "sincos", "1.5"])
def test_every_residency_gives_the_same_bits(kind: str, dtype: str, deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep(kind))
    expected = clip(load(spec, everywhere(dtype, "resident", TILE, tiled=False), dtype))
    for residency in ("staged", "streamed"):
        for source in ("ram", "disk"):
            placement = away(residency, source, dtype)
            model = load(spec, replace(placement, vae=replace(placement.vae, precision=dtype)), dtype)
            for given, wanted in zip(clip(model), expected, strict=True):
                assert torch.equal(given, wanted), (residency, source)


def test_residencies_mix(deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep("rope"))
    mixed = replace(HERE, text_encoder=Home("fp32", "staged", "disk"), transformer=Home("fp32", "resident"),
                    vae=Home("fp32", "staged", "ram"))
    model = load(spec, mixed)
    here, latents = load(spec), torch.randn(1, 3, 4, 4, 6)
    assert same(model, here)
    assert torch.equal(*(torch.cat(list(one.decode(latents, TILE))) for one in (model, here)))  # in the way that is tried first
    model.encode("a fox", "a dog")
    assert live(model.text_encoder) == spec.component_parameters["text_encoder"] * 4
    model.decode(torch.zeros(1, 3, 4, 8, 12), TILE).__next__()
    assert live(model.text_encoder) == 0
    assert live(model.transformer) == live(load(spec).transformer)


def live(module: Any) -> int:
    """Bytes of the distinct storages that hold the module's weights. A slot counts once, however many blocks look at it."""
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
                for weight in module.parameters() if weight.device.type != "meta"}
    leads = 64 * len(storages)  # tensors stand in memory as they stand in their file
    size = sum(storages.values())
    exact = sum({weight.data_ptr(): weight.nbytes for weight in module.parameters() if weight.device.type != "meta"}.values())
    return exact if size - exact <= leads else size


@pytest.mark.parametrize("source", ["ram", "disk"])
def test_each_weight_moves_once_a_step_for_both_halves_and_two_blocks_are_there(source: str, deep: Callable[[str], Path],
                                                                                 load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep("rope"))
    found, home = layout(spec, "transformer"), Home("fp32", "streamed", source)
    model = load(spec, away("streamed", source))
    text = model.encode("a fox", "a dog")
    reader = model.components["text_encoder"].stream
    assert reader is not None
    # The first text block alone has the position bias, so the sum is a little below blocks times the largest.
    text_blocks = sum(weight.nbytes for name, weight in model.text_encoder.named_parameters() if ".block." in name)
    assert reader.moved == 2 * text_blocks <= 2 * moved_bytes(layout(spec, "text_encoder"), home, "fp32")
    latents, moved = torch.randn(1, 3, 4, 8, 12), 0
    for step in range(3):
        model.predict(latents, torch.tensor(500 - step), text)
        stream = model.components["transformer"].stream
        assert stream is not None
        assert stream.moved - moved == moved_bytes(found, home, "fp32") == found.blocks * found.block * 4
        moved = stream.moved
    assert stream.peak_blocks == 2
    slack = 2 * ALIGNED * sum(1 for name, _ in model.transformer.named_parameters() if ".0." in name)
    assert stream.slot_bytes <= 2 * found.block * 4 + slack
    assert live(model.transformer) <= working_bytes(found, home, "fp32") + slack < stored_bytes(found, home, "fp32")
    assert live(model.text_encoder) == (0 if source == "disk" else sum(
        weight.nbytes for name, weight in model.text_encoder.named_parameters() if ".block." not in name))


def test_two_passes_move_everything_twice_and_give_one_batchs_result(deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep("1.5"))
    once, twice = load(spec, away("streamed", "disk")), load(spec, away("streamed", "disk", passes=2))
    whole = predicted(once)[1]
    assert (predicted(twice)[1] - whole).abs().max() <= 1e-5
    model = load(spec, replace(HERE, passes=2, feed_forward="chunked"))
    assert (predicted(model)[1] - whole).abs().max() <= 1e-5
    latents, counts = torch.randn(1, 4, 4, 8, 12), []
    for one in (once, twice):
        text = one.encode("a fox", "")  # the transformer leaves, and its count begins anew
        one.predict(latents, torch.tensor(500), text)
        stream = one.components["transformer"].stream
        assert stream is not None
        counts.append(stream.moved)
    assert counts[1] == 2 * counts[0]


@pytest.mark.parametrize("source", ["ram", "disk"])
def test_streamed_blocks_in_chunks(source: str, deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep("rope"))
    model = load(spec, away("streamed", source, feed_forward="chunked"))
    plain = load(spec, replace(HERE, feed_forward="chunked"))
    assert same(model, plain)
    assert (predicted(model)[1] - predicted(load(spec))[1]).abs().max() <= 1e-5
    model.arrange(HERE)  # the next job of the same model may want them whole
    assert torch.equal(predicted(model)[1], predicted(load(spec))[1])


def test_a_step_that_is_broken_off_leaves_nothing_behind(deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    spec = read_spec(deep("rope"))
    expected = clip(load(spec))
    for source in ("ram", "disk"):
        model = load(spec, away("streamed", source))
        text = model.encode("a fox", "")
        for at in (0, 1, 3, 4):
            stop = model.transformer.transformer_blocks[at].attn1.register_forward_pre_hook(broken_off)
            with pytest.raises(KeyboardInterrupt):
                model.predict(torch.randn(1, 3, 4, 8, 12), torch.tensor(500), text)
            stop.remove()
            assert all(torch.equal(a, b) for a, b in zip(clip(model), expected, strict=True)), (source, at)
        for component in model.components.values():
            component.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("blocks")]
        assert all(weight.device.type == "meta" for part in model.components.values() for weight in part.module.parameters())


def broken_off(_module: Any, _inputs: Any) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_cut_off_is_an_error(deep: Callable[[str], Path], load: Callable[..., CogVideoX], tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(deep("rope"), folder)
    spec, size = read_spec(folder), (folder / FILE).stat().st_size
    model = load(spec, away("streamed", "disk"))
    text, latents = model.encode("a fox", ""), torch.randn(1, 3, 4, 8, 12)
    expected = model.predict(latents, torch.tensor(500), text)
    whole = (folder / FILE).read_bytes()
    os.truncate(folder / FILE, size // 2)
    with pytest.raises(ModelInvalid, match=r"ends in the middle of .*cut off or exchanged"):
        model.predict(latents, torch.tensor(500), text)
    with (folder / FILE).open("r+b") as file:  # the same file, whole again: so is the model
        file.write(whole)
    assert torch.equal(model.predict(latents, torch.tensor(500), text), expected)
    os.truncate(folder / FILE, size - 1)
    for residency in ("resident", "staged", "streamed"):
        with pytest.raises(ModelInvalid, match="cut off"):
            load(spec, away(residency, "disk"))


@pytest.mark.parametrize("residency", ["staged", "streamed"])
def test_numbers_that_are_none_are_found_when_they_arrive(residency: str, deep: Callable[[str], Path], load: Callable[..., CogVideoX],
                                                          tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []  # as on a GPU's computer, where what is freed page-locked stays so until the process ends
    monkeypatch.setattr(streaming, "_lock", lambda run, _device: locked.append(run.data_ptr()) is None)
    monkeypatch.setattr(streaming, "_unlock", lambda runs: [locked.remove(run.data_ptr()) for run in runs])
    folder = tmp_path / "nan"
    shutil.copytree(deep("rope"), folder)
    weights = load_file(folder / FILE)
    weights["transformer_blocks.3.ff.net.2.bias"][5] = float("nan")
    save_file(weights, folder / FILE)
    with pytest.raises(ModelInvalid, match=r"NaN or infinity in transformer_blocks\.3\.ff\.net\.2\.bias"):
        load(read_spec(folder), away(residency, "ram"))
    assert locked == []
    model = load(read_spec(folder), away(residency, "disk"))
    text = model.encode("a fox", "")
    with pytest.raises(ModelInvalid, match=r"NaN or infinity in transformer_blocks\.3"):
        model.predict(torch.randn(1, 3, 4, 8, 12), torch.tensor(500), text)


def test_previews_borrow_the_decoder(deep: Callable[[str], Path], load: Callable[..., CogVideoX]) -> None:
    model = load(deep("rope"), away("streamed", "disk"))
    model.predict(torch.randn(1, 3, 4, 8, 12), torch.tensor(500), model.encode("a fox", ""))
    vae = model.components["vae"]
    with vae.borrowed() as lent:
        assert all(weight.device.type == "cpu" for weight in lent.parameters())
    assert live(vae.module) == 0


def test_with_less_and_less_memory_there_are_other_ways_to_the_same_picture(deep: Callable[[str], Path], tmp_path: Path) -> None:
    spec, cache = read_spec(deep("rope"), "deep"), ModelCache()
    request = GenerationRequest(prompt="a fox", model="deep", steps=2, seed=3)

    def pictures(job: Plan, name: str) -> np.ndarray:
        *_, written = run(job, part=tmp_path / "clip.part", workspace=tmp_path / name, recipe=build_recipe(job), models=cache,
                          cancelled=lambda: False)
        assert isinstance(written, ClipWritten)
        with av.open(str(written.part)) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])

    job = plan(request, spec, CPU)
    wanted, ways = pictures(job, "resident"), [job.placement]
    while len(ways) < 6 and job.quality == "lossless":
        job = plan(request, spec, replace(CPU, free_bytes=int((job.predicted_bytes - 1) / MEMORY_SHARE)))
        if job.quality == "lossless":
            ways.append(job.placement)
            assert np.abs(pictures(job, str(len(ways))).astype(int) - wanted).max() <= 2
    assert len(ways) > 2
    assert {home.residency for home in ways[0].homes.values()} == {"resident"}
    assert [(home.residency, home.source) for home in ways[-1].homes.values()][:2] == [("staged", "disk")] * 2
    # Here the decoder takes most, so no plan gets to streaming by itself.
    assert np.array_equal(pictures(replace(plan(request, spec, CPU), placement=away("streamed", "disk")), "streamed"), wanted)
    cache.close()


def test_no_third_block_comes_before_the_gpu_is_done_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With events that are written down in place of a GPU's."""
    said: list[tuple[str, int]] = []
    marks = iter(range(100))

    class Mark:
        def __init__(self) -> None:
            self.number = next(marks)

        def synchronize(self) -> None:
            said.append(("waited for", self.number))

    class Noted:
        def copy(self, index: int, slot: Tensor) -> None:
            said.append(("brought", index))

        def rest(self) -> None:
            pass

    class Nothing:
        size = nbytes = 8
        weights: tuple[Any, ...] = ()

        def bind(self, run: Tensor) -> None:
            pass

        unbind = bind

    monkeypatch.setattr(FreshBlocks, "_so_far", lambda self: Mark())
    blocks = [torch.nn.Identity() for _ in range(4)]
    stream = FreshBlocks(blocks, [Nothing() for _ in blocks], Noted(), torch.device("cpu"))  # type: ignore[misc]
    for block in blocks:
        block(torch.zeros(1))
    stream._porter.shutdown()
    # Mark k is what was asked of the GPU before block k: all of block k - 1. Block k + 1 comes after it.
    assert said == [("waited for", 0), ("brought", 0), *(one for k in range(3) for one in (("waited for", k), ("brought", k + 1)))]
