"""Which files of a repository are fetched, and which repositories are refused before the first byte."""

from __future__ import annotations

from typing import Any

import pytest

from app.hub.choose import RemoteFile, choose
from app.hub.downloads import checked_id, checked_revision
from app.hub.known import KNOWN, current_id
from engine.errors import InvalidRequest, ModelInvalid
from engine.models.catalogue import folder_name, is_hub_id, model_name

INDEX: dict[str, Any] = {
    "_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"]}
CONFIGS = ["model_index.json", "tokenizer/tokenizer_config.json", "text_encoder/config.json", "vae/config.json", "transformer/config.json",
           "scheduler/scheduler_config.json"]
WEIGHTS = ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors", "transformer/diffusion_pytorch_model.safetensors"]
WHOLE = [*CONFIGS, "tokenizer/spiece.model", *WEIGHTS]


def listed(paths: list[str], size: int = 10) -> list[RemoteFile]:
    return [RemoteFile(path, size, "a" * 64 if path.endswith(".safetensors") else None, "b" * 40) for path in paths]


def chosen(paths: list[str], **index: Any) -> list[str]:
    return [file.path for file in choose("me/model", listed(paths), INDEX | index)]


def test_only_what_the_layout_needs_configs_first() -> None:
    junk = ["README.md", "run.py", "transformer/model.py", "transformer/diffusion_pytorch_model.bin", "vae/flax_model.msgpack", "a.gguf",
            "transformer/diffusion_pytorch_model.fp16.safetensors", ".gitattributes", "assets/demo.mp4", "text_encoder/pytorch_model.bin"]
    assert chosen([*junk, *reversed(WHOLE)]) == [*CONFIGS, "tokenizer/spiece.model", *WEIGHTS]


def test_shards_come_with_their_index() -> None:
    shards = [f"transformer/diffusion_pytorch_model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    some = [path for path in WHOLE if path != WEIGHTS[2]]
    assert chosen([*some, shards[2], shards[0], index, shards[1]])[-6:] == [index, *WEIGHTS[:2], *shards]
    with pytest.raises(ModelInvalid, match=r"not all of them \(2 found\)"):
        chosen([*some, index, *shards[:2]])
    with pytest.raises(ModelInvalid, match=r"not all of them \(4 found\)"):
        chosen([*some, index, *shards, "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"])


@pytest.mark.parametrize(("paths", "index", "says"), [
    (WHOLE, {"_class_name": "WanPipeline"}, "is a WanPipeline"),
    (WHOLE, {"_class_name": None}, "is a None"),
    (WHOLE, {"vae": ["custom", "MyVAE"]}, "vae is MyVAE"),
    (WHOLE, {"transformer": None}, "transformer is None"),
    ([*WHOLE[:-1], "transformer/diffusion_pytorch_model.bin", "transformer/x.ckpt"], {}, r"only pickled weights .*\.bin, x\.ckpt"),
    ([p for p in WHOLE if p != WEIGHTS[0]], {}, "no weights for text_encoder"),
    ([p for p in WHOLE if p != CONFIGS[3]], {}, r"lacks vae/config\.json"),
    ([*WHOLE, "../../.bashrc"], {}, "outside the model's folder"),
    ([*WHOLE, "/etc/passwd"], {}, "outside"),
    ([*WHOLE, "transformer/..\\..\\x.safetensors"], {}, "outside"),
    ([*WHOLE, "c:/x.json"], {}, "outside"),
    ([*WHOLE, "vae//x.json"], {}, "outside"),
    ([*WHOLE, "vae/\x00.json"], {}, "outside"),
])
def test_refused(paths: list[str], index: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelInvalid, match=says):
        chosen(paths, **index)


def test_no_config_is_a_gigabyte_and_nothing_comes_unchecked() -> None:
    files = listed(WHOLE)
    with pytest.raises(ModelInvalid, match="at most"):
        choose("me/model", [RemoteFile(f.path, 2**30, f.sha256, f.git_sha1) if f.path == "vae/config.json" else f for f in files], INDEX)
    with pytest.raises(ModelInvalid, match="no checksum"):
        choose("me/model", [RemoteFile(f.path, f.size, None, None) if f.path == WEIGHTS[1] else f for f in files], INDEX)


@pytest.mark.parametrize("text", [
    "zai-org/CogVideoX-2b", "THUDM/CogVideoX-2b", " zai-org/cogvideox-2B ", "https://huggingface.co/zai-org/CogVideoX-2b",
    "https://huggingface.co/THUDM/CogVideoX-2b/tree/main?x=1", "hf.co/zai-org/CogVideoX-2b"])
def test_ids_as_people_write_them(text: str) -> None:
    assert checked_id(text) == "zai-org/CogVideoX-2b"


@pytest.mark.parametrize("text", ["", "pocket", "a/b/c", "../x", "a/..", "a/b--c", "-a/b", "a/<b>", "a/b\nc", "http://evil.example/a/b",
                                  None, 5, "x" * 300 + "/y"])
def test_what_is_no_id(text: Any) -> None:
    with pytest.raises(InvalidRequest, match="owner/name"):
        checked_id(text)


def test_revisions() -> None:
    assert checked_revision("") is None and checked_revision("v1.0") == "v1.0" and checked_revision("refs/pr/1") == "refs/pr/1"
    for bad in ("../x", "a b", "a?b", "x" * 101, 5):
        with pytest.raises(InvalidRequest, match="revision"):
            checked_revision(bad)


def test_ids_and_folders_are_the_same_thing_twice() -> None:
    for known in KNOWN:
        assert is_hub_id(known.repo) and model_name(folder_name(known.repo)) == known.repo
        assert current_id(known.repo.replace("zai-org", "THUDM")) == known.repo
    assert model_name("my-own") == folder_name("my-own") == "my-own"
    assert current_id("me/CogVideoX-2b") == "me/CogVideoX-2b"
