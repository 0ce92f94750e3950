"""Plans are pure: legal requests resolve to plans without gaps, illegal ones name what would be legal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.choices import tile_size
from engine.errors import CannotFit, InvalidRequest
from engine.memory import Shape, everywhere, forecast, latent_frames, stage_work
from engine.plan import Plan, Timing, forecast_seconds, plan
from engine.request import GenerationRequest
from engine.spec import ModelSpec, read_spec
from tests.engine.tiny import CPU

SPEC = ModelSpec(
    name="big", path=Path("/models/big"), family="cogvideox", fingerprint="0" * 40, revision=None, native_width=720,
    native_height=480, native_frames=49, fps=8.0, max_frames=49, max_width=4096, max_height=4096, fixed_size=False,
    frame_step=8, size_multiple=16, spatial_scale=8, temporal_scale=4, patch_size=2, patch_size_t=None, latent_channels=16,
    max_text_tokens=226, position="rope", scaling_factor=0.7, invert_scale_latents=False, scheduler="dpm",
    train_timesteps=1000, recommended_steps=50, recommended_guidance=6.0, layers=42, width=3072, heads=48,
    vae_channels=(128, 256, 256, 512), vae_layers=3, text_width=4096, stored_dtype="bf16",
    component_bytes={"text_encoder": 9_524_621_312, "transformer": 11_142_000_000, "vae": 431_000_000},
    component_parameters={"text_encoder": 4_762_310_656, "transformer": 5_571_000_000, "vae": 215_583_907})
GPU = replace(CPU, device="cuda:0", name="a GPU", total_bytes=80 * 10**9, free_bytes=79 * 10**9, bf16=True)


def ask(spec: ModelSpec = SPEC, hardware: Any = GPU, **fields: Any) -> Plan:
    return plan(GenerationRequest(**({"prompt": "a fox", "model": "big"} | fields)), spec, hardware)


def test_nothing_is_left_open() -> None:
    made = ask()
    assert (made.width, made.height, made.frames, made.steps, made.guidance, made.scheduler) == (720, 480, 49, 50, 6.0, "dpm")
    assert (made.latent_shape, made.latent_padding, made.fps, made.seed) == ((1, 13, 16, 60, 90), 0, 8.0, 0)
    assert (made.dtype, made.device, made.residency) == ("bf16", "cuda:0", "resident")
    assert None not in made.to_json().values()
    assert json.loads(json.dumps(made.to_json())) == made.to_json()
    assert ask(guidance=1.0).guided is False
    assert ask(hardware=replace(GPU, bf16=False)).dtype == "fp32"


@given(frames=st.integers(1, 60), width=st.integers(16, 900), height=st.integers(16, 900), steps=st.integers(1, 200))
@settings(max_examples=150)
def test_a_refusal_names_a_value_that_works(frames: int, width: int, height: int, steps: int) -> None:
    fields: dict[str, Any] = {"frames": frames, "width": width, "height": height, "steps": steps}
    for _ in range(4):
        try:
            made = ask(**fields)
            break
        except InvalidRequest as error:
            assert str(fields[error.field]) in error.message
            assert str(error.suggestion) in error.message
            fields[error.field] = error.suggestion
    else:
        raise AssertionError("three suggestions must lead to a plan")
    assert (made.frames - 1) % 8 == 0
    assert made.width % 16 == made.height % 16 == 0
    assert plan(made.request(), SPEC, GPU) == made


@pytest.mark.parametrize(("field", "value", "best"), [("frames", 10, 9), ("frames", 14, 17), ("frames", 50, 49), ("frames", 48, 49),
                                                      ("width", 100, 96), ("height", 20, 16), ("height", 17, 16)])
def test_the_nearest_is_offered(field: str, value: int, best: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(**{field: value})
    assert (caught.value.field, caught.value.suggestion) == (field, best)


def test_newer_models_pad_and_are_bounded(tiny: Callable[..., Path]) -> None:
    spec = read_spec(tiny("1.5"))
    made = ask(spec, CPU, frames=9)
    assert (made.latent_shape[1], made.latent_padding) == (4, 1)
    assert latent_frames(spec, 17) == (6, 1)
    with pytest.raises(InvalidRequest, match="at most 96"):
        ask(spec, CPU, width=112)
    with pytest.raises(InvalidRequest, match="only at its own 96 x 64"):
        ask(replace(spec, fixed_size=True), CPU, height=48)
    with pytest.raises(InvalidRequest, match="trained with 20"):
        ask(replace(spec, train_timesteps=20), CPU, steps=21)


def ladder(hardware: Any, **fields: Any) -> list[Plan]:
    """The plans for less and less memory, each the first that does not need what the one before it needs."""
    found = [ask(hardware=hardware, **fields)]
    while True:
        try:
            found.append(ask(hardware=replace(hardware, free_bytes=found[-1].predicted_bytes), **fields))
        except CannotFit:
            return found


def test_less_memory_means_bands_and_stages_then_tiles_then_a_refusal_with_numbers() -> None:
    plans = ladder(GPU)
    first, last = plans[0], plans[-1]
    assert (first.residency, first.placement.text_encoder.residency, first.placement.decode) == ("resident", "resident", "whole")
    assert {(job.tile, job.quality) for job in plans} == {((480, 720), "lossless")}
    assert any(job.placement.text_encoder.residency == "staged" and job.residency == "resident" for job in plans)  # one trip saves 9 GB
    assert last.residency == "staged"
    on_cpu = ladder(replace(CPU, free_bytes=200 * 10**9, total_bytes=200 * 10**9), width=1440, height=960)
    assert [job.placement.decode for job in on_cpu[:2]] == ["whole", "banded"] and on_cpu[-1].placement.decode == "by-tile"
    for made in (plans, on_cpu):
        lossy = [job.quality == "near-lossless" for job in made]
        assert lossy == sorted(lossy)  # what changes the picture comes last
        needs = [job.predicted_bytes for job in made]
        assert all(more > less for more, less in pairwise(needs))
    assert {job.tile for job in on_cpu if job.quality == "near-lossless"} == {tile_size(SPEC)} == {(240, 360)}
    with pytest.raises(CannotFit, match=r"49 frames of 720 x 480 with big need about \d+\.\d GB.*4\.0 GB free of 80\.0 GB.*weights alone"):
        ask(hardware=replace(GPU, free_bytes=4 * 10**9))
    on_cpu = replace(CPU, free_bytes=64 * 10**9, total_bytes=64 * 10**9)
    with pytest.raises(CannotFit, match=r"frames at this size would fit|would fit"):
        ask(hardware=on_cpu, width=4096, height=4096)


@given(frames=st.sampled_from([1, 9, 25, 49]), side=st.sampled_from([128, 256, 512]), guided=st.booleans())
@settings(max_examples=30)
def test_more_never_needs_less(frames: int, side: int, guided: bool) -> None:
    small, large = Shape(frames, side, side, guided), Shape(frames + 8, side + 16, side, True)
    need = [forecast(SPEC, s, "bf16", everywhere("bf16", "resident", (s.height, s.width), tiled=False), "cpu").device_bytes
            for s in (small, large)]
    assert need[0] < need[1]
    assert all(stage_work(SPEC, small, 20)[k] <= stage_work(SPEC, large, 20)[k] for k in stage_work(SPEC, small, 20))


def test_tiles_join_to_the_clips_size() -> None:
    for high, wide in ((480, 720), (768, 1360), (128, 192), (64, 96), (16, 16)):
        tile = tile_size(replace(SPEC, native_height=high, native_width=wide))
        for pixels, share in zip(tile, (1 / 6, 1 / 5), strict=True):
            latents = pixels // 8
            assert int(latents * (1 - share)) * 8 == pixels - int(pixels * share)


def test_a_forecast_comes_from_this_machines_own_clips() -> None:
    made = ask(frames=9, steps=10)
    assert forecast_seconds(made, []) == (None, "nothing measured with this model on this machine yet")
    seconds = {"load": 4.0, "encode": 1.0, "sample": 100.0, "decode": 20.0, "verify": 1.0}
    same = Timing(model="big", device="cuda:0", work=made.work, seconds=seconds)
    assert forecast_seconds(made, [same]) == (pytest.approx(126.0), "from 1 clip made on this machine")
    assert forecast_seconds(ask(frames=9, steps=20), [same])[0] == pytest.approx(226.0)
    others = [replace(same, model="other"), replace(same, device="cpu")]
    assert forecast_seconds(made, others)[0] is None
    slow = replace(same, seconds=seconds | {"sample": 10_000.0})
    assert forecast_seconds(made, [same, slow, same])[0] == pytest.approx(126.0)  # the median ignores one bad day


def test_notes_say_what_a_person_should_know() -> None:
    made = ask(negative="blurry", guidance=1.0, width=512)
    assert any("no effect" in note for note in made.notes)
    assert any("trained at 720 x 480" in note for note in made.notes)
