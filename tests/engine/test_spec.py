"""What a folder must be to be a model, and what is read off it; every fault gets its own clear refusal."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from engine import hardware
from engine.errors import ModelInvalid, ModelNotFound
from engine.hardware import detect
from engine.models.catalogue import find, installed
from engine.models.tokens import check_tokens
from engine.plan import plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.engine.tiny import CPU

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny(), tmp_path / "models" / "own"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_pure_half_stays_without_torch() -> None:
    code = ("import sys, engine, engine.request, engine.spec, engine.plan, engine.events, engine.errors, engine.hardware, "
            "engine.models.catalogue, engine.models.tokens, engine.video.publish, engine.video.recipe, engine.guidance, engine.inputs, "
            "app.inputs\n"
            "assert engine.__all__ == sorted(engine.__all__)\n"
            "print([m for m in ('torch', 'diffusers', 'transformers', 'av') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_facts_of_the_families(tiny: Callable[..., Path]) -> None:
    one = read_spec(tiny("rope"), "one")
    assert (one.name, one.family, one.position, one.scheduler) == ("one", "cogvideox", "rope", "dpm")
    assert (one.native_width, one.native_height, one.native_frames, one.fps, one.max_frames) == (96, 64, 9, 8.0, 49)
    assert (one.size_multiple, one.frame_step, one.latent_channels, one.max_text_tokens) == (16, 8, 4, 16)
    assert (one.recommended_steps, one.recommended_guidance, one.stored_dtype) == (50, 6.0, "fp32")
    assert one.component_bytes["transformer"] == 4 * one.component_parameters["transformer"]
    assert read_spec(tiny("sincos")).position == "sincos"
    newer = read_spec(tiny("1.5"))
    assert (newer.family, newer.patch_size_t, newer.fps, newer.max_frames) == ("cogvideox-1.5", 2, 16.0, 161)
    assert (newer.max_width, newer.max_height) == (96, 64)
    json.dumps(newer.to_json())


def test_sprocket_json_overrides(folder: Path) -> None:
    (folder / "sprocket.json").write_text(json.dumps({"max_frames": 25, "recommended": {
        "num_inference_steps": 20, "guidance_scale": 4.0, "fps": 12, "num_frames": 17, "height": 32, "width": 48}}))
    spec = read_spec(folder)
    assert (spec.recommended_steps, spec.recommended_guidance, spec.fps, spec.max_frames) == (20, 4.0, 12.0, 25)
    assert (spec.native_frames, spec.native_height, spec.native_width) == (17, 32, 48)


def test_the_fingerprint_is_of_the_weights_not_the_place(folder: Path, tiny: Callable[..., Path]) -> None:
    before = read_spec(folder).fingerprint
    assert before == read_spec(tiny()).fingerprint
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    assert read_spec(folder).fingerprint != before


def header(values: object, data: bytes = b"") -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cut off"),
    (b"abc", "cut off"),
    (struct.pack("<Q", 2**63) + b"{}", "cut off"),
    (struct.pack("<Q", 4) + b"[[[[", "damaged header"),
    (header([]), "damaged header"),
    (header({}), "damaged header"),
    (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), "its header promises"),
    (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "damaged header"),
    (header({"a": {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 0]}}), "damaged header"),
    (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"), "damaged header"),
    (header({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "damaged header"),
    (pickle.dumps({"weights": [1.0] * 50}), "cut off"),
])
def test_a_damaged_weight_file_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelInvalid, match=message):
        read_spec(folder)


def test_a_truncated_download_is_refused_with_both_lengths(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1000])
    with pytest.raises(ModelInvalid, match=f"{len(data) - 1000:,} bytes.*promises {len(data):,}"):
        read_spec(folder)


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelInvalid, match="only pickled weights"):
        read_spec(folder)


def test_shards_stay_beside_their_index(folder: Path) -> None:
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    (folder / WEIGHTS).rename(folder / "transformer" / "part-1.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    assert read_spec(folder).component_parameters["transformer"] > 10_000
    for name, message in [("../../etc/x.safetensors", "beside it"), ("part-2.safetensors", "lacks the shard"), (3, "beside it")]:
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelInvalid, match=message):
            read_spec(folder)


def test_foreign_and_incomplete_folders_are_refused(folder: Path) -> None:
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: edit(folder / "vae/config.json", latent_channels=2), "image-to-video model saved"),
        (lambda: edit(folder / "transformer/config.json", num_layers=0), "wrong one"),
        (lambda: edit(folder / "transformer/config.json", sample_width="wide"), "wrong one"),
        (lambda: (folder / "transformer/config.json").write_text("[1]"), "not an object"),
        (lambda: (folder / "transformer/config.json").write_text("{"), "cannot be read as JSON"),
        ((folder / "transformer/config.json").unlink, "lacks transformer/config.json"),
        (lambda: edit(folder / "model_index.json", vae=["custom", "MyVAE"]), "vae is MyVAE"),
        (lambda: edit(folder / "model_index.json", _class_name="WanPipeline"), "is a WanPipeline"),
        ((folder / "model_index.json").unlink, "lacks model_index.json"),
    ]
    for spoil, message in cases:
        spoil()
        with pytest.raises(ModelInvalid, match=message):
            read_spec(folder)
        if message == "image-to-video model saved":
            edit(folder / "vae/config.json", latent_channels=4)
    with pytest.raises(ModelNotFound, match="no model folder"):
        read_spec(folder / "nowhere")


def test_the_catalogue_finds_names_and_folders_and_nothing_outside(folder: Path, tiny: Callable[..., Path],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPROCKET_POCKET_DIR", str(tiny()))
    models = folder.parent
    assert find("pocket", models_dir=models) == tiny()
    assert find("own", models_dir=models) == folder
    assert find(str(folder)) == folder
    for name in ("nope", "../models/own", "own/../own", "", ".", "/etc", "x" * 500):
        with pytest.raises(ModelNotFound):
            find(name, models_dir=models)
    with pytest.raises(ModelNotFound, match="Installed: pocket, own"):
        find("nope", models_dir=models)
    assert [spec.name for spec in installed(models_dir=models)] == ["pocket", "own"]
    (folder / WEIGHTS).write_bytes(b"")
    assert [spec.name for spec in installed(models_dir=models)] == ["pocket"]
    monkeypatch.setenv("SPROCKET_POCKET_DIR", str(models / "none"))
    with pytest.raises(ModelNotFound, match="embedded model"):
        find("pocket")


def test_a_broken_tokenizer_is_told_as_such(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json cannot be read"):
        check_tokens(plan(GenerationRequest(prompt="a fox"), read_spec(folder), CPU))


def test_gpus_are_read_off_nvidias_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA A, 16000, 15000, 7.5, 3'\necho '1, NVIDIA B, 81000, 80000, 9.0, [N/A]'\n"
                    "echo '2, broken, [N/A], [N/A], 9.0, 0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(g.device, g.name, g.free_bytes, g.bf16) for g in hardware._gpus()] == [
        ("cuda:0", "NVIDIA A", 15000 * 2**20, False), ("cuda:1", "NVIDIA B", 80000 * 2**20, True)]
    best = hardware._gpus()[1]
    assert [(g.device, g.load) for g in best.gpus] == [("cuda:0", 3), ("cuda:1", None)]
    assert hardware.Hardware.from_json(json.loads(json.dumps(asdict(best)))) == best
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(g.device, g.name) for g in hardware._gpus()] == [("cuda:0", "NVIDIA B")]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert hardware._gpus() == []


def test_this_machine_is_described_without_torch() -> None:
    found = detect()
    assert found.device == "cpu" or found.device.startswith("cuda:")
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.cores >= 1
    assert replace(found, cores=2).name


HOSTILE = [
    ("transformer", {"num_layers": 10**9}), ("transformer", {"patch_size": 0}), ("transformer", {"attention_head_dim": -1}),
    ("transformer", {"sample_width": 0}), ("transformer", {"patch_size_t": 0}), ("text_encoder", {"num_layers": 10**9}),
    ("vae", {"layers_per_block": 10**9}), ("vae", {"block_out_channels": [1] * 400}), ("vae", {"block_out_channels": [-1] * 4}),
    ("vae", {"block_out_channels": []}), ("vae", {"temporal_compression_ratio": -4}), ("vae", {"scaling_factor": 0}),
    ("vae", {"scaling_factor": float("nan")}), ("scheduler", {"num_train_timesteps": 10**9}),
    ("scheduler", {"prediction_type": "evil"}), ("scheduler", {"beta_schedule": ["evil"]}),
]


@pytest.mark.parametrize(("part", "values"), HOSTILE)
def test_configs_that_would_hang_or_crash_the_loading_are_refused_unread(folder: Path, part: str, values: dict[str, Any]) -> None:
    edit(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    with pytest.raises(ModelInvalid, match="a config lacks a value or holds a wrong one"):
        read_spec(folder)


@pytest.mark.parametrize("wish", [{"guidance_scale": float("nan")}, {"guidance_scale": -5}, {"num_inference_steps": 10**8}])
def test_recommendations_that_no_request_may_hold_are_refused(folder: Path, wish: dict[str, Any]) -> None:
    (folder / "sprocket.json").write_text(json.dumps({"recommended": wish}))
    with pytest.raises(ModelInvalid, match="from"):
        read_spec(folder)
