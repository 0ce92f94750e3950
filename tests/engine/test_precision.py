"""A precision the user asks for: kept by every plan, run as asked, LoRAs and all, and refused in words where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.alternatives import alternatives
from engine.errors import InvalidRequest
from engine.facts import published
from engine.hardware import Hardware
from engine.ladder import Lapse
from engine.models.cache import ModelCache
from engine.plan import Plan, check_executable, plan
from engine.request import PRECISIONS, GenerationRequest
from engine.spec import ModelSpec, read_spec
from engine.video.recipe import build_recipe
from tests.engine.test_lora_apply import added
from tests.engine.test_plan import GPU, SPEC
from tests.engine.tiny import CPU, save_tiny
from tests.lora_files import lora_weights, save_lora

ASKED = PRECISIONS[1:]
OFF = {"bf16": 0.03, "fp16": 0.005, "fp32": 0.0, "int8": 0.01, "int8-dynamic": 0.04, "fp8": 0.06, "fp8-dynamic": 0.08}
"""Most that a prediction of a random transformer is off, as a share of its size."""


def ask(hardware: Hardware = GPU, spec: ModelSpec = SPEC, **fields: Any) -> Plan:
    return plan(GenerationRequest(**({"prompt": "a fox", "model": "big"} | fields)), spec, hardware)


@pytest.mark.parametrize("precision", ASKED)
@pytest.mark.parametrize("profile", ["fast", "tiny"])
def test_every_plan_keeps_it(precision: str, profile: str) -> None:
    made = ask(precision=precision, profile=profile)
    assert made.placement.transformer.precision == precision
    assert made.dtype == ("fp32" if precision == "fp32" else "bf16")
    assert made.placement.text_encoder.precision == made.placement.vae.precision == made.dtype
    assert made.placement.exact  # the precision was allowed, tiles were not
    assert made.quality == ("lossless" if precision in ("bf16", "fp32") else
                            "near-lossless" if precision in ("fp16", "int8") else "fast")
    assert any(precision.upper() in note for note in made.notes) == (precision not in ("bf16", "fp32"))
    again = GenerationRequest.from_mapping(json.loads(json.dumps(build_recipe(made)))["request"])
    assert again.precision == precision
    assert plan(replace(again, model="big"), SPEC, GPU) == made
    found = alternatives(made, GPU, [])
    assert {one.kind.split(", ")[1].split()[0] for one in (*found.words, *found.every)} == {precision}
    assert [one.kind for one in found.every if one.chosen]
    lower = plan(made.request(), SPEC, GPU, lapses=[Lapse("sample", "device", made.placement)])
    assert lower.placement.transformer.precision == precision
    assert lower.predicted_bytes < made.predicted_bytes or profile == "tiny"


def test_auto_is_no_wish() -> None:
    assert ask(precision="auto") == ask() and ask().precision == "auto"


@pytest.mark.parametrize(("fields", "says"), [
    ({"precision": "int4"}, "INT4|int4 is not offered: numbers of CogVideoX overflow"),
    ({"precision": "bf32"}, "not known.*auto, bf16, fp16"), ({"precision": 8}, "not known"),
    ({"precision": "int8", "quality": "lossless"}, "quality lossless allows. Ask for quality near-lossless"),
    ({"precision": "fp8", "quality": "near-lossless"}, "Ask for quality fast"),
    ({"precision": "int8-dynamic", "quality": "near-lossless"}, "Ask for quality fast")])
def test_what_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        ask(**fields)
    assert caught.value.field == "precision"


def test_products_in_fp8_need_a_gpu_that_has_them() -> None:
    old = replace(GPU, capability=(8, 6))
    with pytest.raises(InvalidRequest, match=r"capability 8\.6.*Use fp8"):
        ask(old, precision="fp8-dynamic")
    assert ask(old, precision="fp8").placement.transformer.precision == "fp8"
    assert ask(replace(GPU, capability=(9, 0)), precision="fp8-dynamic").quality == "fast"


def test_less_memory_is_forecast() -> None:
    big = published("THUDM/CogVideoX-5b")
    need = {one: ask(spec=big, precision=one).forecast.stages["sample"] for one in ("fp32", "bf16", "int8")}
    assert need["fp32"] > need["bf16"] > need["int8"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(save_tiny(tmp_path_factory.mktemp("tiny") / "tiny", "rope"))


def predicted(made: Plan, models: ModelCache, folder: Path) -> torch.Tensor:
    """One prediction of the model that the plan opens, with its LoRAs."""
    model = models.get(made)
    model.loras.use(made.loras, folder)
    latents = torch.randn(1, 3, 4, 8, 12, generator=torch.Generator().manual_seed(1)).to(model.dtype)
    return model.predict(latents, torch.tensor(500), model.encode("a fox", "")).float()


@pytest.mark.parametrize("precision", ASKED)
def test_it_runs_as_asked_with_a_lora(precision: str, spec: ModelSpec, tmp_path: Path) -> None:
    name = added(tmp_path, save_lora(tmp_path / "x.safetensors", lora_weights(spec.path, rank=2)))
    made, models = ask(CPU, spec, model="tiny", frames=9, precision=precision), ModelCache()
    check_executable(made)
    exact = ask(CPU, spec, model="tiny", frames=9, precision="fp32")
    given, wanted = ([predicted(replace(each, loras=loras), models, tmp_path) for loras in ((), ((name, 0.8),))]
                     for each in (made, exact))
    models.close()
    size = torch.linalg.vector_norm(wanted[0])
    for ours, theirs in zip(given, wanted, strict=True):
        assert torch.linalg.vector_norm(ours - theirs) <= OFF[precision] * size
    effect, wished = given[1] - given[0], wanted[1] - wanted[0]
    assert torch.linalg.vector_norm(wished) > 0.1 * size  # the LoRA does something
    assert torch.linalg.vector_norm(effect - wished) <= 2 * OFF[precision] * size
