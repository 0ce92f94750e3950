"""Every weight trained: gradients are the plain loop's, a stop changes nothing, and what comes out is a model that Create loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from engine.digest import file_sha256
from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.models.catalogue import find
from engine.models.cogvideox import CogVideoX
from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.training.lora_tools import base_of, config, kept_for_the_gradient, random_set, trainer
from training.lora.base import Velocity, load_base
from training.lora.config import TrainConfig
from training.lora.forecast import KEPT_MAPS, cost, lora_numbers
from training.lora.full import FullWeights
from training.lora.objective import squared_error
from training.lora.order import first_visit
from training.lora.rundir import RunDir
from training.lora.session import Session


@pytest.mark.parametrize("kind", ["rope", "i2v-1.5"])
def test_gradients_are_those_of_diffusers_own_model(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path, kind)
    ours = trainer(base, tmp_path / "run", method="full", batch=2, accumulate=1, caption_dropout=0.0, image_dropout=0.0)
    chosen = [ours.samples.train[index] for index in ours.order.at(0)]
    batch = ours.batches.visit(chosen, first_visit(0, 2))
    ours.backward(chosen, 0, len(chosen))
    stock = CogVideoXTransformer3DModel.from_pretrained(base / "transformer")
    given = batch.noisy if batch.beside is None else torch.cat([batch.noisy, batch.beside], dim=2)
    offset = torch.full((1,), 2.0) if kind == "i2v-1.5" else None
    out = stock(hidden_states=given, encoder_hidden_states=batch.text, timestep=batch.times, return_dict=False, ofs=offset,
                image_rotary_emb=ours.model.rotary_for(tuple(batch.noisy.shape)))[0]
    squared_error(out, batch).mean().backward()
    found = dict(stock.named_parameters())
    assert set(found) == set(ours.adapter.parameters) and len(found) > 40
    for name, parameter in found.items():
        mine = ours.adapter.parameters[name].grad
        assert mine is not None and parameter.grad is not None, name
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["sincos", "i2v-rope"])
def test_a_run_stops_goes_on_exactly_and_becomes_a_model(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path, kind)
    before = {path: file_sha256(path) for path in base.rglob("*") if path.is_file()}
    wanted = config(base, method="full", learning_rate=1e-3, ema=0.5, eval_steps=3, eval_clips=1, steps=4, warmup=0, schedule="constant")
    whole = trainer(base, tmp_path / "whole", **_changes(wanted))
    for _ in range(4):
        whole.update()
    part = trainer(base, tmp_path / "run", **_changes(wanted))
    part.update()
    part.save()
    run = RunDir(tmp_path / "run")
    run.create(wanted)
    assert Session(run, read_spec(base), CPU, lambda model: random_set()).work() == "done"
    made = run.result(wanted)
    assert made == tmp_path / "run/model/made" and read_spec(made).fingerprint != read_spec(base).fingerprint
    create = CogVideoX(read_spec(made), dtype="fp32", device="cpu")
    for name, value in whole.adapter.final().items():
        assert torch.equal(create.transformer.get_parameter(name), value), name
    batch = whole.batches.fixed(whole.samples.held_out[0], 0, 499)
    with whole.adapter.showing():
        shown = whole.velocity(batch.noisy, batch.times, batch.text, batch.beside)
    torch.testing.assert_close(create.predict(batch.noisy, batch.times[0], batch.text, batch.beside), shown.detach(), rtol=1e-5, atol=1e-6)
    assert {path: file_sha256(path) for path in base.rglob("*") if path.is_file()} == before
    linked = [folder / "vae/diffusion_pytorch_model.safetensors" for folder in (made, base)]
    assert linked[0].stat().st_ino == linked[1].stat().st_ino
    create.close()


def _changes(wanted: TrainConfig) -> dict[str, object]:
    return {name: value for name, value in wanted.to_json().items() if name not in ("model", "base")}


def test_weights_are_float32_and_are_shown_as_they_are_exported(tiny_base: Path, tmp_path: Path) -> None:
    one = trainer(tiny_base, tmp_path, method="full", precision="bf16", learning_rate=1e-6, warmup=0)
    assert {parameter.dtype for parameter in one.adapter.parameters.values()} == {torch.float32}
    before = one.adapter.digest()
    one.update()  # of a size that bf16 would lose
    assert one.adapter.digest() != before
    trained = one.adapter.digest()
    with one.adapter.showing():
        assert one.model.transformer.patch_embed.proj.weight.dtype == torch.bfloat16
    assert one.adapter.digest() == trained and one.look().held_out


@pytest.mark.parametrize("changes", [{"base": "int8"}, {"dora": True}, {"dropout": 0.1}, {"streaming": "ram"}, {"precision": "fp16"}])
def test_what_is_a_matter_of_loras_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TrainConfig(model="pocket", dataset="d", name="n", method="full", **changes)  # type: ignore[arg-type]
    assert refused.value.field in changes


def test_what_is_kept_for_the_gradient_is_counted() -> None:
    spec, machine = read_spec(find("pocket"), "pocket"), Hardware(device="cpu", name="test", total_bytes=16 * 10**9, free_bytes=12 * 10**9,
                                                                   cores=1, bf16=True)
    for column, precision in enumerate(("bf16", "fp32")):
        wanted = TrainConfig(model="pocket", dataset="d", name="n", method="full", precision=precision)
        model = load_base(spec, wanted, machine)
        held = FullWeights(model.transformer, wanted, spec.path)
        numbers = sum(parameter.numel() for parameter in held.parameters.values())
        assert lora_numbers(spec, wanted) == pytest.approx(numbers, rel=1e-3)
        own = {parameter.untyped_storage().data_ptr() for parameter in held.parameters.values()}
        shapes = {size for parameter in held.parameters.values() for size in (tuple(parameter.shape), tuple(parameter.shape[::-1]))}
        with kept_for_the_gradient(own) as kept:
            Velocity(model)(torch.randn(1, 3, 8, 16, 24), torch.tensor([500]), torch.randn(1, 48, 128))
        rounded = sum(one.untyped_storage().nbytes() for one in kept.values() if tuple(one.shape) in shapes)
        maps = sum(one.untyped_storage().nbytes() for one in kept.values() if tuple(one.shape) not in shapes)
        one_map = (3 * 96 + 48) * spec.width * (4 if precision == "fp32" else 2)
        assert maps / spec.layers / one_map == pytest.approx(KEPT_MAPS["full"][column], rel=0.06)
        assert rounded / numbers == pytest.approx(2 if precision == "bf16" else 0, abs=0.1)
        said = cost(spec, wanted, machine, ("keep",) * spec.layers).parts
        assert said["weights"] + said["trained"] == pytest.approx(numbers * (16 + (2 if precision == "bf16" else 0)), rel=0.01)
        model.close()
