"""LoRA files: what is read off them without torch, and what is refused, in words."""

from __future__ import annotations

import json
import math
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.lora import check_fit, lora_file, model_layers, names, read_lora, read_stack
from engine.lora.planned import plan_with_loras
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.engine.test_lora_apply import added
from tests.engine.tiny import CPU
from tests.lora_files import ATTENTION, lora_weights, save_lora

Tiny = Callable[..., Path]
Q = "transformer_blocks.0.attn1.to_q"
NAME = f"{'a' * 64}.safetensors"


def test_what_a_file_says(tiny: Tiny, tmp_path: Path) -> None:
    file = save_lora(tmp_path / "x.safetensors", lora_weights(tiny()), alpha=2.0, style="kohya", dtype=torch.bfloat16,
                     metadata={"modelspec.trigger_phrase": "  zwx\u202e fox\n<b> "})
    lora = read_lora(file)
    assert (lora.rank, lora.alpha, lora.blocks, lora.width, lora.dtype) == (4, 2.0, 3, 32, "bf16")
    assert (lora.targets, lora.trigger, lora.notes) == (tuple(sorted(ATTENTION)), "zwx fox<b>", ())
    assert lora.numbers == 12 * 4 * 64 and lora.size == file.stat().st_size
    assert lora.layers[Q].down == f"lora_unet_{Q.replace('.', '_')}.lora_down.weight"
    plain = read_lora(save_lora(tmp_path / "y.safetensors", lora_weights(tiny())))
    assert plain.alpha == 4.0 and "does not say its alpha" in plain.notes[0] and plain.trigger == ""
    check_fit(lora, model_layers(read_spec(tiny())), "tiny", "x")


def test_no_torch_for_reading() -> None:
    code = ("import sys, engine.lora, engine.lora.planned\n"
            "print([m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2])
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model.", "base_model.model.", "base_model.model.transformer."])
def test_names(prefix: str) -> None:
    assert names.parse(f"{prefix}{Q}.lora_A.weight") == (Q, "A")
    assert names.parse(f"{prefix}{Q}.lora_B.default.weight") == (Q, "B")
    assert names.parse(f"{prefix}proj_out.lora.up.weight") == ("proj_out", "B")


@given(block=st.integers(0, 99), layer=st.sampled_from(names.IN_BLOCK),
       start=st.sampled_from(["lora_unet_", "lora_unet__", "lora_transformer_"]))
def test_flat_names_lead_back(block: int, layer: str, start: str) -> None:
    name = f"transformer_blocks.{block}.{layer}"
    assert names.layer_name(start + name.replace(".", "_")) == name
    assert names.is_layer(name) and names.block_of(name) == block and names.target(name) == layer


def tensors(down: tuple[int, ...] = (4, 32), up: tuple[int, ...] = (32, 4), stem: str = f"transformer.{Q}") -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_A.weight": torch.zeros(down), f"{stem}.lora_B.weight": torch.zeros(up)}


def config(**values: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in values.items()})}


A, B, ALPHA = (f"transformer.{Q}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha"))
K = f"transformer.{Q.replace('to_q', 'to_k')}"
BAD: list[tuple[str, dict[str, torch.Tensor], dict[str, str], str]] = [
    ("rank", tensors((100_000, 1), (1, 100_000)), {}, "rank 100,000.*at most 1,024"),
    ("only A", {A: torch.zeros(4, 32)}, {}, "lacks B of transformer_blocks.0.attn1.to_q"),
    ("only alpha", {ALPHA: torch.tensor(1.0)}, {}, "lacks A and B"),
    ("ranks differ", tensors((4, 32), (32, 5)), {}, r"shapes \(4, 32\) and \(32, 5\)"),
    ("one axis", tensors((4,), (32, 4)), {}, "must be .rank, inputs."),
    ("no numbers", tensors((0, 32), (32, 0)), {}, "must be .rank, inputs."),
    ("a whole model", {f"{Q}.weight": torch.zeros(2, 2)}, {}, "is no part of a LoRA"),
    ("another model", tensors(stem="unet.down_blocks.0.attn1.to_q"), {}, "made for another kind of model"),
    ("a text encoder", tensors(stem="text_encoder.layers.0.q"), {}, "changes a text encoder"),
    ("dora", tensors() | {f"transformer.{Q}.lora_magnitude_vector": torch.zeros(32)}, {}, "is a dora"),
    ("LoHa", {f"lora_unet_{Q.replace('.', '_')}.hada_w1_a": torch.zeros(2, 2)}, {}, "is a LoHa"),
    ("bias", tensors() | {f"transformer.{Q}.lora_B.bias": torch.zeros(32)}, {}, "LoRA with a bias"),
    ("twice", tensors() | tensors(stem=Q), {}, "names A of transformer_blocks.0.attn1.to_q twice"),
    ("integers", {A: torch.zeros(4, 32, dtype=torch.int32), B: torch.zeros(32, 4)}, {}, "as I32"),
    ("some alphas", tensors() | tensors(stem=K) | {ALPHA: torch.tensor(1.0)}, {}, "alpha for 1 of 2 layers"),
    ("alpha 0", tensors() | {ALPHA: torch.tensor(0.0)}, {}, "alpha 0.0 for"),
    ("alpha NaN", tensors() | {ALPHA: torch.tensor(math.nan)}, {}, "alpha nan"),
    ("alpha a list", tensors() | {ALPHA: torch.zeros(3)}, {}, "alpha nan"),
    ("two alphas", tensors() | {ALPHA: torch.tensor(8.0)}, config(r=4, lora_alpha=4), "alpha 4 in its config and 8 beside"),
    ("another rank", tensors(), config(r=8, lora_alpha=4), "says rank 8 .* and has 4"),
    ("alpha of words", tensors(), config(r=4, lora_alpha="four"), "alpha four"),
    ("rank of words", tensors(), config(r="x", lora_alpha=4), "rank x in its config"),
    ("expressions", tensors(), config(r=4, lora_alpha=4, alpha_pattern={"(a+)+$": 2}), "only plain names"),
    ("no table", tensors(), config(r=4, lora_alpha=4, rank_pattern=[1]), "rank_pattern is no table"),
    ("dora config", tensors(), config(r=4, lora_alpha=4, use_dora=True), "is a dora"),
    ("damaged notes", tensors(), {"lora_adapter_metadata": "[" * 10_000}, "damaged notes"),
    ("NaN", {A: torch.full((4, 32), math.nan), B: torch.zeros(32, 4)}, {}, "NaN or infinity in transformer"),
    ("infinity", {A: torch.zeros(4, 32).half(), B: torch.tensor([[0.0] * 4] * 31 + [[0, 0, 0, math.inf]]).half()}, {}, "NaN or infinity"),
    ("NaN bf16", {A: torch.zeros(4, 32), B: torch.full((32, 4), math.nan).bfloat16()}, {}, "NaN or infinity"),
]


@pytest.mark.parametrize(("content", "notes", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_refusals(content: dict[str, torch.Tensor], notes: dict[str, str], says: str, tmp_path: Path) -> None:
    save_file(content, tmp_path / "x.safetensors", notes)
    with pytest.raises(InvalidRequest, match=says) as caught:
        read_lora(tmp_path / "x.safetensors", "my lora.safetensors")
    assert caught.value.field == "loras" and "my lora" in str(caught.value) and len(str(caught.value)) < 500
    assert str(tmp_path) not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    good = save_file(tensors(), tmp_path / "good.safetensors") or (tmp_path / "good.safetensors").read_bytes()
    torch.save(tensors(), tmp_path / "saved")
    header = struct.pack("<Q", 17 * 2**20)
    cases: dict[str, tuple[bytes, str]] = {
        "empty.safetensors": (b"", "is empty"),
        "x.pt": (good, "is a pickle"),
        "zip.safetensors": ((tmp_path / "saved").read_bytes(), "is a pickle"),
        "p.safetensors": (pickle.dumps({"a": 1}), "is a pickle"),
        "cut.safetensors": (good[:-3], "promises"),
        "short.safetensors": (good[:5], "cut off"),
        "text.safetensors": (b"<!DOCTYPE html><html>not found</html>", "no safetensors file"),
        "flood.safetensors": (header + b" " * (18 * 2**20), "of them header"),
        "more.safetensors": (good + b"\0", "promises"),
    }
    for name, (data, says) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidRequest, match=says) as caught:
            read_lora(tmp_path / name)
        assert len(str(caught.value)) < 400 and str(tmp_path) not in str(caught.value)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_lora(tmp_path / "nowhere")


def test_another_model_names_both_shapes(tiny: Tiny, tmp_path: Path) -> None:
    layers, fits = model_layers(read_spec(tiny())), lora_weights(tiny())
    lora = read_lora(save_lora(tmp_path / "x.safetensors", fits))
    wide = {name: (torch.zeros(4, 1920), torch.zeros(1920, 4)) for name in fits}
    with pytest.raises(InvalidRequest, match="of 1920 x 1920; that of tiny is 32 x 32"):
        check_fit(read_lora(save_lora(tmp_path / "w.safetensors", wide)), layers, "tiny", "w")
    deep = fits | {"transformer_blocks.41.attn1.to_q": (torch.zeros(4, 32), torch.zeros(32, 4))}
    with pytest.raises(InvalidRequest, match=r"which tiny does not have \(it has 3 blocks, the LoRA wants 42"):
        check_fit(read_lora(save_lora(tmp_path / "d.safetensors", deep)), layers, "tiny", "d")
    patches = {"patch_embed.proj": (torch.zeros(4, 16), torch.zeros(32, 4))}
    with pytest.raises(InvalidRequest, match="is a convolution"):
        check_fit(read_lora(save_lora(tmp_path / "p.safetensors", patches)), layers, "tiny", "p")
    check_fit(lora, layers, "tiny", "x")


def test_a_stack_is_found_by_hash(tiny: Tiny, tmp_path: Path) -> None:
    spec = read_spec(tiny())
    name = added(tmp_path, save_lora(tmp_path / "x.safetensors", lora_weights(tiny())))
    assert [lora.rank for lora in read_stack(((name, 1.0),), tmp_path, spec, verify=True)] == [4]
    for folder in (None, tmp_path / "other"):
        with pytest.raises(InvalidRequest, match=rf"{name[:12]}\.\.\. is not among the LoRAs.*sprocket loras add"):
            lora_file(folder, name)
    (tmp_path / NAME).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(InvalidRequest, match="was changed"):
        read_stack(((NAME, 1.0),), tmp_path, spec, verify=True)


@pytest.mark.parametrize(("value", "says"), [
    ("x", "list of at most 8"), ({"a": 1}, "list of at most 8"), ([[NAME, 1.0]] * 9, "not 9 of them"),
    ([NAME], "pair"), ([[NAME]], "pair"), ([[NAME, 1, 2]], "pair"), ([{"name": NAME, "weight": 1}], "pair"),
    ([["x.safetensors", 1]], "name LoRAs of this studio"), ([["../" + NAME, 1]], "name LoRAs"), ([["/etc/passwd", 1]], "name LoRAs"),
    ([[NAME + "\n", 1]], "name LoRAs"), ([[7, 1]], "name LoRAs"), ([[f"{'a' * 64}.pt", 1]], "name LoRAs"),
    ([[NAME, 1], [NAME, 2]], "twice"), ([[NAME, None]], "must be a number"), ([[NAME, "1"]], "must be a number"),
    ([[NAME, True]], "must be a number"), ([[NAME, math.nan]], "is nan; allowed is -4 to 4"), ([[NAME, math.inf]], "-4 to 4"),
    ([[NAME, 4.01]], "-4 to 4"), ([[NAME, -1e308]], "-4 to 4"), ([[NAME, 10**400]], "-4 to 4")])
def test_what_a_request_may_say(value: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        GenerationRequest.from_mapping({"prompt": "a fox", "loras": value})
    assert caught.value.field == "loras" and len(str(caught.value)) < 300


def test_requests_come_back() -> None:
    wish = GenerationRequest.from_mapping({"prompt": "a fox", "loras": [[NAME, 1], [f"{'b' * 64}.safetensors", -0.5]]})
    assert wish.loras == ((NAME, 1.0), (f"{'b' * 64}.safetensors", -0.5))
    assert GenerationRequest.from_mapping(json.loads(json.dumps(wish.to_json()))) == wish
    assert wish.to_json()["loras"] == [[NAME, 1.0], [f"{'b' * 64}.safetensors", -0.5]]
    plain = GenerationRequest.from_mapping({"prompt": "a fox", "loras": None})
    assert plain.loras == () and plain.to_json()["loras"] == []


def test_plans_with_loras(tiny: Tiny, tiny_plan: Callable[..., Plan], tmp_path: Path) -> None:
    file = save_lora(tmp_path / "x.safetensors", lora_weights(tiny()), metadata={"trigger_word": "zwx"})
    name, spec = added(tmp_path, file), read_spec(tiny(), "tiny")
    wish = GenerationRequest(prompt="a fox", loras=((name, 0.5),))
    machines: list[Hardware] = []

    def planned(machine: Hardware) -> Plan:
        machines.append(machine)
        return plan(wish, spec, machine)

    made, bare = plan_with_loras(wish, spec, CPU, tmp_path, planned), plan(replace(wish, loras=()), spec, CPU)
    assert CPU.free_bytes - machines[0].free_bytes == 12 * 4 * 64 * 4
    assert made.predicted_bytes - bare.predicted_bytes == 12 * 4 * 64 * 4 == made.forecast.device_bytes - bare.forecast.device_bytes
    assert made.forecast.ram_bytes - bare.forecast.ram_bytes == 12 * 4 * 64 * 4
    assert made.notes[-1] == f"LoRA {name[:12]}... of rank 4 is applied with weight 0.5, called up by 'zwx'."
    assert plan_with_loras(made.request(), spec, CPU, tmp_path, lambda machine: plan(made.request(), spec, machine)) == made
    assert json.loads(json.dumps(made.to_json()))["loras"] == [[name, 0.5]]
    with pytest.raises(InvalidRequest, match="32 x 32"):
        other = {layer: (torch.zeros(4, 48), torch.zeros(48, 4)) for layer in lora_weights(tiny())}
        wrong = added(tmp_path, save_lora(tmp_path / "w.safetensors", other))
        plan_with_loras(replace(wish, loras=((wrong, 1.0),)), spec, CPU, tmp_path, planned)
