"""Streaming, 8 bits, chunks, caches and LoRAs were each written by themselves: in one clip they are still the same clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cache.first_block import FirstBlock
from engine.cache.shortcut import Shortcut
from engine.cache.taylor import Taylor
from engine.guidance import guidance_weights
from engine.memory import Home, Placement, everywhere
from engine.models.cogvideox import CogVideoX
from engine.sample import SampleState, sample
from engine.spec import ModelSpec, read_spec
from tests.engine.test_lora_apply import added
from tests.engine.tiny import save_tiny
from tests.lora_files import lora_weights, save_lora

HERE = everywhere("fp32", "resident", (64, 96), tiled=False)
STEPS = 8
POLICIES = {"first-block": FirstBlock(threshold=10.0, most=2), "taylorseer": Taylor(every=0.25, order=2)}
"""That pass over something in a few steps of random weights."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(save_tiny(tmp_path_factory.mktemp("deep") / "tiny", "rope", layers=(5, 4)))


def away(precision: str = "fp32", source: str = "ram") -> Placement:
    return replace(HERE, transformer=Home(precision, "streamed", source), text_encoder=Home("fp32", "streamed", source))


def latents(spec: ModelSpec, placement: Placement, *, cache: str = "off", lora: tuple[str, Path] | None = None) -> torch.Tensor:
    """The last latents of a guided clip."""
    model = CogVideoX(spec, dtype="fp32", device="cpu", placement=placement)
    try:
        if lora:
            model.loras.use(((lora[0], 0.8),), lora[1])
        generator = torch.Generator().manual_seed(3)
        text, stepper = model.encode("a fox", ""), model.scheduler("dpm", STEPS)
        weights = guidance_weights("constant", 4.0, stepper.timesteps.tolist())
        start = SampleState(0, model.initial_latents((1, 3, 4, 8, 12), generator), None)
        shortcut = None if cache == "off" else Shortcut(model, stepper, text, weights, cache=cache, policy=POLICIES.get(cache))
        return list(sample(model, stepper, text, start, weights, generator, None, shortcut))[-1].latents
    finally:
        model.close()


@pytest.fixture
def lora(spec: ModelSpec, tmp_path: Path) -> tuple[str, Path]:
    return added(tmp_path, save_lora(tmp_path / "one.safetensors", lora_weights(spec.path, rank=4, seed=1))), tmp_path


@pytest.mark.parametrize("source", ["ram", "disk"])
@pytest.mark.parametrize("cache", ["first-block", "pab", "taylorseer"])
def test_streamed_blocks_may_be_passed_over(cache: str, source: str, spec: ModelSpec) -> None:
    resident = latents(spec, HERE, cache=cache)
    assert torch.equal(resident, latents(spec, away(source=source), cache=cache))
    assert not torch.equal(resident, latents(spec, HERE))  # the cache did something


def test_loras_work_on_streamed_blocks_with_a_cache(spec: ModelSpec, lora: tuple[str, Path]) -> None:
    for cache in ("off", "first-block"):
        with_lora = latents(spec, HERE, cache=cache, lora=lora)
        assert torch.equal(with_lora, latents(spec, away(), cache=cache, lora=lora))
        assert not torch.equal(with_lora, latents(spec, HERE, cache=cache))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_loras_work_beside_8_bits_streamed_or_not(precision: str, spec: ModelSpec, lora: tuple[str, Path]) -> None:
    resident = latents(spec, replace(HERE, transformer=Home(precision, "resident")), lora=lora)
    assert torch.equal(resident, latents(spec, away(precision), lora=lora))
    assert not torch.equal(resident, latents(spec, away(precision)))


@pytest.mark.parametrize("choices", [{"feed_forward": "chunked"}, {"passes": 2, "feed_forward": "chunked"}])
def test_chunks_and_passes_change_nothing_with_loras(choices: dict[str, object], spec: ModelSpec, lora: tuple[str, Path]) -> None:
    whole = latents(spec, HERE, lora=lora)
    assert torch.allclose(whole, latents(spec, replace(away(), **choices), lora=lora), atol=2e-4)  # type: ignore[arg-type]
