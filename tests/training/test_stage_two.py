"""Stage two as a kind of training: its windows, what it begins as, an exact resume, and a model that makes frames between frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import InvalidRequest
from engine.interpolate.adapter import load_adapter, read_facts
from engine.interpolate.conditioning import filled
from engine.interpolate.levels import rate_words
from engine.interpolate.planning import stage_two_of
from engine.models.catalogue import find
from engine.models.cogvideox import CogVideoX
from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.training.lora_tools import base_of, config, trainer
from training.data.alone import FramesAlone
from training.data.encode import LoadedEncoders
from training.lora.config import TrainConfig
from training.lora.forecast import choose_memory
from training.lora.objective import squared_error
from training.lora.rundir import RunDir
from training.lora.samples import Clip, HeldSample, HeldSet, encode_set
from training.lora.session import Session
from training.lora.stage_two import KNOWN_WEIGHT
from training.lora.windows import SLOTS, STRIDES, rates_of, strides_of


def windows_set(frames: int = 15) -> HeldSet:
    draw = torch.Generator().manual_seed(3)
    entries = []
    for number in range(4):
        mean, std = (torch.randn(4, frames, 8, 12, generator=draw) for _ in range(2))
        entries.append(HeldSample(f"{number:064x}", "held-out" if number == 3 else "train", (frames, 64, 96), "", (mean, std.abs()),
                                  (mean[:, :1], std[:, :1].abs()), torch.randn(len(STRIDES), 16, 32, generator=draw),
                                  torch.zeros(64, 96, 3, dtype=torch.uint8)))
    return HeldSet(tuple(entries), torch.randn(len(STRIDES), 16, 32, generator=draw))


CHANGES = {"method": "stage-two", "rank": 8, "caption_dropout": 0.0, "learning_rate": 1e-3, "warmup": 0}


@pytest.mark.parametrize("kind", ["rope", "i2v-1.5"])
def test_windows_are_frames_at_a_rate_and_it_begins_as_its_base(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path, kind)
    one = trainer(base, tmp_path / "run", samples=windows_set(), **CHANGES)
    sample, fps, seen = one.samples.train[0], one.spec.fps, set()
    for visit in range(12):
        batch = one.batches.visit([sample, one.samples.train[1]], 2 * visit)
        again = one.batches.visit([sample, one.samples.train[1]], 2 * visit)
        assert batch.beside is not None and batch.weights is not None and batch.fps is not None and again.beside is not None
        assert torch.equal(batch.noisy, again.noisy) and torch.equal(batch.beside, again.beside)
        assert batch.padding == (1 if kind == "i2v-1.5" else 0) and batch.noisy.shape[1] == SLOTS + batch.padding
        bits = batch.beside[:, batch.padding:, 4:, 0, 0]
        assert torch.equal(bits.any(-1), (batch.weights[:, batch.padding:, 0, 0, 0] == KNOWN_WEIGHT))
        seen |= set(batch.fps.tolist())
        assert torch.equal(batch.text[0], sample.text()[rates_of(fps).index(float(batch.fps[0]))])
    assert seen == {fps, fps / 2}  # 15 frames have no window at a quarter
    with pytest.raises(InvalidRequest, match="of 6 frames"):
        strides_of(6)

    batch = one.batches.fixed(one.samples.held_out[0], 0, 400)
    one.adapter.about_to_see(batch)
    ours = one.velocity(batch.noisy, batch.times, batch.text, batch.beside)
    create = CogVideoX(read_spec(base), dtype="fp32", device="cpu")
    given = None
    if kind.startswith("i2v"):
        assert batch.beside is not None
        given = batch.beside[:, :, :4]
    torch.testing.assert_close(ours.detach(), create.predict(batch.noisy, batch.times[0], batch.text, given), rtol=1e-5, atol=1e-5)
    assert batch.weights is not None and batch.beside is not None
    error = (ours.detach() - batch.target)[:, batch.padding:].square().mean((0, 2, 3, 4))
    share = torch.where(torch.arange(SLOTS) % 2 == 0, KNOWN_WEIGHT, 1.0)
    torch.testing.assert_close(squared_error(ours.detach(), batch)[0], (share * error).sum() / share.sum(), rtol=1e-5, atol=1e-6)
    known = batch.beside[:, batch.padding:, :4]
    torch.testing.assert_close(known, filled(known, batch.weights[:, batch.padding:, 0, 0, 0] == KNOWN_WEIGHT))
    create.close()


@pytest.mark.parametrize("kind", ["rope", "i2v-1.5"])
def test_a_run_goes_on_exactly_and_its_model_makes_frames_between_frames(tmp_path: Path, kind: str) -> None:
    base, samples = base_of(tmp_path, kind), windows_set()
    whole = trainer(base, tmp_path / "whole", samples=samples, **CHANGES, steps=4)
    losses = [whole.update().loss for _ in range(4)]
    part = trainer(base, tmp_path / "run", samples=samples, **CHANGES, steps=4)
    torch.randn(5)
    assert part.update().loss == losses[0]
    part.save()
    wanted = config(base, **CHANGES, steps=4, eval_steps=2, eval_clips=1, preview_steps=2)
    run = RunDir(tmp_path / "run")
    run.create(wanted)
    assert Session(run, read_spec(base), CPU, lambda _model: samples).work() == "done"
    assert [event["loss"] for event in run.events() if event["kind"] == "step"] == losses[1:]
    assert all(event["held_out"] for event in run.events() if event["kind"] == "eval")

    spec = read_spec(run.result(wanted))
    found = stage_two_of(spec)
    assert found is not None and spec.fingerprint == read_spec(base).fingerprint
    facts = read_facts(found[1])
    assert (facts.base, facts.slots, facts.layout, facts.trained_steps) == (spec.fingerprint, SLOTS, "frames", 4)
    create = CogVideoX(spec, dtype="fp32", device="cpu")
    stage = load_adapter(found[1], create.transformer, facts)
    batch = whole.batches.visit([samples.train[0]], 7)
    whole.adapter.about_to_see(batch)
    ours = whole.velocity(batch.noisy, batch.times, batch.text, batch.beside)
    stage.fps = batch.fps
    assert batch.beside is not None
    with stage.installed(), torch.no_grad():
        said = create.predict(batch.noisy, batch.times[0], batch.text, batch.beside)
    torch.testing.assert_close(said, ours.detach(), rtol=1e-5, atol=1e-6)
    create.close()


def test_frames_are_encoded_alone_and_words_at_each_rate(tiny_base: Path) -> None:
    spec = read_spec(tiny_base)
    model = CogVideoX(spec, dtype="fp32", device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (7, 64, 96, 3), np.uint8)
    rates = rates_of(spec.fps)
    alone = FramesAlone(LoadedEncoders(model), rates)
    moments = alone.moments(frames)
    assert moments.shape[:2] == (8, 7)
    torch.testing.assert_close(moments[:, 4:5], LoadedEncoders(model).moments(frames[4:5]), rtol=0, atol=1e-6)
    assert torch.equal(alone.text("a fox")[2], model.encode(rate_words(rates[2]) + "a fox", None)[0])
    held = encode_set(model, [Clip(frames, "a fox")], rates=rates).entries[0]
    torch.testing.assert_close(held.latents()[0], moments[:4].clone(), rtol=0, atol=1e-6)
    assert torch.equal(held.text(), alone.text("a fox"))
    model.close()


def test_its_forecast_is_of_a_window() -> None:
    spec = read_spec(find("pocket"), "pocket")
    wanted = TrainConfig(model="pocket", dataset="d", name="n", method="stage-two", rank=16)
    window = (4 * (SLOTS - 1) + 1, spec.native_height, spec.native_width)
    assert choose_memory(spec, wanted, CPU) == choose_memory(spec, wanted, CPU, window)
    assert choose_memory(spec, replace(wanted, targets="attention"), CPU).bytes == choose_memory(spec, wanted, CPU).bytes


@pytest.mark.parametrize("changes", [{"dora": True}, {"dropout": 0.1}, {"sharding": "fsdp"}, {"alpha": 4}])
def test_what_it_has_not_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="which method stage-two has not"):
        TrainConfig(model="pocket", dataset="d", name="n", method="stage-two", **changes)  # type: ignore[arg-type]
