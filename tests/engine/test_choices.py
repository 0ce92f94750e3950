"""The ladder: what is chosen within a budget, what never is, and how a refusal reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.choices import MEMORY_SHARE, Policy, tile_size, unsupported
from engine.errors import CannotFit, InvalidRequest, ModelNotFound
from engine.facts import NAMES, published
from engine.hardware import Hardware
from engine.memory import Home
from engine.plan import Plan, check_executable, plan
from engine.request import GenerationRequest

GIB = 2**30
CARD = Hardware(device="cuda:0", name="a card", total_bytes=0, free_bytes=0, cores=8, bf16=True)
LATER = Policy(executable=False)


def made(name: str, gib: float, policy: Policy = LATER, *, ram: float | None = None, device: str = "cuda:0", **fields: Any) -> Plan:
    hardware = replace(CARD, device=device, total_bytes=int(gib * GIB), free_bytes=int(gib * GIB),
                       ram_bytes=None if ram is None else int(ram * GIB))
    return plan(GenerationRequest(**({"prompt": "a fox"} | fields)), published(name), hardware, policy)


@pytest.mark.parametrize("quality", [None, "near-lossless", "fast"])
@pytest.mark.parametrize("gib", [4, 8, 16, 48])
@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b"])
def test_what_is_chosen_fits(name: str, gib: int, quality: str | None) -> None:
    job = made(name, gib, replace(LATER, quality=quality))
    assert job.predicted_bytes == job.forecast.device_bytes <= gib * GIB * MEMORY_SHARE
    assert max(job.forecast.stages.values()) < job.forecast.device_bytes
    assert json.loads(json.dumps(job.to_json())) == job.to_json()


def test_lossy_choices_are_made_only_where_they_are_allowed_and_said() -> None:
    for gib in (3, 4, 8, 12, 24, 80):
        job = made("cogvideox-5b", gib)
        assert {home.precision for home in job.placement.homes.values()} == {"bf16"}
        assert (job.quality == "lossless") == job.placement.exact == (gib >= 4)
        assert job.placement.exact != any("tiles" in note for note in job.notes)
        assert (job.placement.decode == "banded") == any("band by band" in note for note in job.notes)
    with pytest.raises(CannotFit, match="With quality near-lossless it would fit"):
        made("cogvideox-5b", 3, replace(LATER, quality="lossless"))
    assert made("cogvideox-5b", 4, replace(LATER, quality="lossless")).quality == "lossless"
    small = made("cogvideox-5b", 80, replace(LATER, quality="near-lossless", profile="tiny"))
    assert small.placement.transformer.precision == "int8"
    assert small.quality == "near-lossless"
    assert any("transformer's weights are kept in INT8" in note for note in small.notes)
    assert made("cogvideox-5b", 80, replace(LATER, quality="fast")).quality == "lossless"  # nothing to gain from less


def test_profiles_trade_memory_for_time() -> None:
    fast, balanced, tiny = (made("cogvideox-5b", 80, replace(LATER, profile=profile)) for profile in ("fast", "balanced", "tiny"))
    assert fast.placement.transformer.residency == "resident"
    assert fast.predicted_bytes > balanced.predicted_bytes >= tiny.predicted_bytes
    assert tiny.placement.transformer.residency == "streamed"
    assert {fast.quality, balanced.quality, tiny.quality} == {"lossless"}


def test_a_larger_budget_never_takes_a_slower_way() -> None:
    order = ("resident", "staged", "streamed")
    seen = [order.index(made("cogvideox-5b", gib).placement.transformer.residency) for gib in (4, 8, 12, 16, 24, 48, 80)]
    assert seen == sorted(seen, reverse=True)


def test_weights_wait_on_disk_where_memory_is_short() -> None:
    assert made("cogvideox-5b", 8, ram=32).placement.transformer.source == "ram"
    short = made("cogvideox-5b", 8, ram=6)
    assert short.forecast.ram_bytes <= 6 * GIB
    assert "disk" in {home.source for home in short.placement.homes.values()}
    laptop = made("cogvideox-5b", 12, device="cpu")
    assert {home.source for home in laptop.placement.homes.values() if home.residency != "resident"} == {"disk"}
    with pytest.raises(CannotFit, match=r"own memory, of which 0\.\d GB are free"):
        made("cogvideox-5b", 8, ram=0.25)


def test_only_what_runs_unless_asked_otherwise() -> None:
    seen = set()
    for gib in (12, 16, 24, 48, 80):
        for quality in (None, "fast"):
            job = made("cogvideox-5b", gib, Policy(quality=quality))
            assert unsupported(job.placement, job.dtype, job.device) == ()
            seen.add(job.residency)
    assert seen == {"resident", "staged", "streamed"}
    with pytest.raises(CannotFit):
        made("cogvideox-5b", 1, Policy())


def test_pab_is_planned_with_whole_blocks_alone() -> None:
    for gib, profile in ((80, "fast"), (80, "balanced"), (80, "tiny"), (24, "fast")):
        job = made("cogvideox-5b", gib, Policy(profile=profile), cache="pab")
        assert job.placement.feed_forward == "whole"
        check_executable(replace(job, spec=replace(job.spec, installed=True)))
    with pytest.raises(CannotFit, match=r"Without the cache pab it would fit\.$"):
        made("cogvideox-5b", 12, Policy(), cache="pab")
    assert made("cogvideox-5b", 12, Policy()).predicted_bytes <= 12 * GIB


def test_a_smaller_precision_is_taken_where_it_is_allowed_and_runs() -> None:
    laptop = made("cogvideox-2b", 8, Policy(quality="near-lossless"), device="cpu", frames=9)
    homes = laptop.placement.homes
    assert (homes["text_encoder"].precision, homes["transformer"].precision, homes["vae"].precision) == ("int8", "int8", "bf16")
    assert laptop.quality == "near-lossless"
    assert unsupported(laptop.placement, laptop.dtype, laptop.device) == ()
    from_disk = made("cogvideox-5b", 24, Policy(quality="near-lossless", profile="tiny"), ram=4)
    assert Home("int8", "streamed", "disk") not in from_disk.placement.homes.values()


UNRUNNABLE = {"the vae's weights in INT8": {"vae": Home("int8", "resident")},
              "text encoder in FP16": {"text_encoder": Home("fp16", "staged")},
              "keep the transformer in FP32 while": {"transformer": Home("fp32", "resident")},
              "stream the transformer in FP8 from disk": {"transformer": Home("fp8", "streamed", "disk")}}


@pytest.mark.parametrize("words", list(UNRUNNABLE))
def test_a_plan_that_cannot_be_run_is_refused_before_anything_is_loaded(words: str, tmp_path: Any) -> None:
    from engine.models.cache import ModelCache
    from engine.run import run

    job = made("cogvideox-5b", 80, Policy())
    with pytest.raises(ModelNotFound, match="CogVideoX-5b is not on this machine"):
        check_executable(job)
    here = replace(job, spec=replace(job.spec, installed=True))
    check_executable(here)
    cannot = replace(here, placement=replace(here.placement, **UNRUNNABLE[words]))
    with pytest.raises(CannotFit, match=rf"{words}.*can forecast that and not run it"):
        check_executable(cannot)
    events = run(cannot, part=tmp_path / "a.part", workspace=tmp_path / "job", recipe={}, models=ModelCache(), cancelled=lambda: False)
    with pytest.raises(CannotFit, match=words):
        next(events)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "match"), [(("int4", "resident"), r"'int4' is not offered: .*overflow.*Use one of bf16"),
                                              (("bf16", "lent"), "'lent' is not offered. Use one of resident"),
                                              (("bf16", "staged", "tape"), "'tape' is not offered. Use one of ram, disk")])
def test_homes_that_are_not_offered(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        Home(*words)


@pytest.mark.parametrize(("field", "value"), [("profile", "quick"), ("quality", "best"), ("profile", None)])
def test_unknown_words(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"is not known\. Use one of") as caught:
        Policy(**{field: value})
    assert caught.value.field == field


def test_tiles_of_every_model_join() -> None:
    for name in NAMES:
        spec = published(name)
        for part in (2, 4, 8):
            for pixels, share in zip(tile_size(spec, part), (1 / 6, 1 / 5), strict=True):
                assert int(pixels // 8 * (1 - share)) * 8 == pixels - int(pixels * share)
