"""Exported files: every form reads back as the same change, and alpha is applied exactly once, by us and by diffusers."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from app import cli_lora
from engine.errors import InvalidRequest
from engine.lora import model_layers, read_lora
from engine.models.lora import LoraStack
from engine.spec import read_spec
from tests.training.lora_tools import trainer
from training.lora.config import TrainConfig
from training.lora.export import Matrices, merged, of_adapter, read_matrices, resized, save_lora
from training.lora.merge import OF_THE_BASE, merge_into
from training.lora.opening import load_set, save_set


def trained(base: Path, folder: Path, **changes: object) -> tuple[dict[str, Matrices], TrainConfig, object]:
    one = trainer(base, folder, **{"alpha": 2.0, "targets": "attention+ff", **changes})
    for _ in range(3):
        one.update()
    config = one.config
    return of_adapter(one.adapter.final(), config.effective_alpha, rslora=config.rslora), config, one


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("form", ["diffusers", "kohya", "comfyui"])
def test_every_form_is_the_same_change(tiny_base: Path, tmp_path: Path, form: str, rslora: bool) -> None:
    layers, _config, _one = trained(tiny_base, tmp_path / "run", rslora=rslora)
    save_lora(tmp_path / "x.safetensors", layers, {"modelspec.trigger_phrase": "zork"}, form=form)
    again, lora, _notes = read_matrices(tmp_path / "x.safetensors")
    assert lora.trigger == "zork" and lora.notes == ()
    known = model_layers(read_spec(tiny_base))
    assert all(known[name] == (layer.gives, layer.takes) for name, layer in lora.layers.items())
    assert again.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(again[name].change(), layer.change(), rtol=1e-6, atol=0)
        expected = 2.0 / (math.sqrt(4) if rslora else 4)
        assert layer.scale == pytest.approx(expected) and again[name].scale == pytest.approx(expected)


def test_the_file_is_the_same_bytes_whenever_it_is_written(tiny_base: Path, tmp_path: Path) -> None:
    layers, _config, _one = trained(tiny_base, tmp_path / "run")
    notes = {f"note{number}": "x" for number in range(9)}
    for name in ("a", "b"):
        save_lora(tmp_path / f"{name}.safetensors", layers, notes)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_create_and_diffusers_apply_what_was_trained_exactly_once(tiny_base: Path, tmp_path: Path) -> None:
    layers, _config, one = trained(tiny_base, tmp_path / "run")
    folder = tmp_path / "loras"
    name = "0" * 64 + ".safetensors"
    save_lora(folder / name, layers, {})
    batch = one.batches.visit([one.samples.train[0]], 0)  # type: ignore[attr-defined]
    with torch.no_grad():
        wanted = one.velocity(batch.noisy, batch.times, batch.text)  # type: ignore[attr-defined]
    rotary = one.model.rotary_for(tuple(batch.noisy.shape))  # type: ignore[attr-defined]

    def said(transformer: CogVideoXTransformer3DModel) -> torch.Tensor:
        with torch.no_grad():
            return transformer(hidden_states=batch.noisy, encoder_hidden_states=batch.text, timestep=batch.times, image_rotary_emb=rotary,
                               return_dict=False)[0]

    ours = CogVideoXTransformer3DModel.from_pretrained(tiny_base / "transformer").eval()
    plain = said(ours)
    assert (plain - wanted).abs().max() > 1e-3
    stack = LoraStack(ours, read_spec(tiny_base), torch.float32, torch.device("cpu"))
    (folder / name).rename(folder / "lora.safetensors")
    import hashlib

    real = f"{hashlib.sha256((folder / 'lora.safetensors').read_bytes()).hexdigest()}.safetensors"
    (folder / "lora.safetensors").rename(folder / real)
    stack.use(((real, 1.0),), folder)
    torch.testing.assert_close(said(ours), wanted, rtol=1e-5, atol=1e-5)

    stock = CogVideoXTransformer3DModel.from_pretrained(tiny_base / "transformer").eval()
    stock.load_lora_adapter(str(folder), weight_name=real, prefix="transformer")
    torch.testing.assert_close(said(stock), wanted, rtol=1e-5, atol=1e-5)


def test_a_smaller_rank_keeps_what_it_can(tiny_base: Path, tmp_path: Path) -> None:
    layers, _config, _one = trained(tiny_base, tmp_path / "run")
    same, kept = resized(layers, 4)
    assert kept == pytest.approx(1.0)
    for name, layer in layers.items():
        torch.testing.assert_close(same[name].change(), layer.change(), rtol=1e-4, atol=1e-7)
    small, kept = resized(layers, 2)
    assert 0 < kept < 1
    for name, layer in layers.items():
        u, s, v = torch.linalg.svd(layer.change().double())
        best = u[:, :2] @ torch.diag(s[:2]) @ v[:2]
        torch.testing.assert_close(small[name].change().double(), best, rtol=1e-3, atol=1e-6)
    save_lora(tmp_path / "small.safetensors", small, {})
    assert read_lora(tmp_path / "small.safetensors").rank == 2
    with pytest.raises(InvalidRequest, match="at least 1"):
        resized(layers, 0)


def test_a_merged_model_is_the_base_with_the_lora(tiny_base: Path, tmp_path: Path) -> None:
    layers, _config, _one = trained(tiny_base, tmp_path / "run")
    save_lora(tmp_path / "x.safetensors", layers, {})
    merge_into(tiny_base, tmp_path / "x.safetensors", tmp_path / "merged")
    assert read_spec(tmp_path / "merged").fingerprint != read_spec(tiny_base).fingerprint
    folders = (tiny_base, tmp_path / "merged")
    base, new = (CogVideoXTransformer3DModel.from_pretrained(folder / "transformer").state_dict() for folder in folders)
    for name, layer in layers.items():
        torch.testing.assert_close(new[f"{name}.weight"], base[f"{name}.weight"] + layer.change())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "run", "x.safetensors"] or not (tmp_path / "run").exists()
    with pytest.raises(InvalidRequest, match="has not in that shape"):
        merged({"else.weight": torch.zeros(2, 2)}, layers)
    shutil.copytree(tiny_base, tmp_path / "downloaded")
    for name in OF_THE_BASE:
        (tmp_path / "downloaded" / name).write_text("{}")
    merge_into(tmp_path / "downloaded", tmp_path / "x.safetensors", tmp_path / "again")
    assert not [name for name in OF_THE_BASE if (tmp_path / "again" / name).exists()]


def test_nothing_is_written_over_and_strengths_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"a LoRA")
    with pytest.raises(InvalidRequest, match="is there already"):
        cli_lora.export(tmp_path / "x.safetensors", tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == b"a LoRA"
    for strength in (math.nan, math.inf):
        with pytest.raises(InvalidRequest, match="must be a finite number"):
            cli_lora.merge(tmp_path / "x.safetensors", "pocket", tmp_path / "out", strength)


def test_a_set_in_a_file_is_the_set(tmp_path: Path) -> None:
    from tests.training.lora_tools import random_set

    made = random_set()
    save_set(tmp_path / "set.safetensors", made)
    again = load_set(tmp_path / "set.safetensors")
    assert again.digest == made.digest and torch.equal(again.empty, made.empty)
    for one, other in zip(again.entries, made.entries, strict=True):
        assert torch.equal(one.latents()[1], other.latents()[1]) and one.bucket == other.bucket
