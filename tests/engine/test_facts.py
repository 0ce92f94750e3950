"""The bundled facts are what diffusers and transformers build from the same configs, and resolve to specs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from engine.errors import ModelNotFound
from engine.facts import NAMES, configs, published, published_ids
from engine.models.layout import layout_of

KNOWN = {"cogvideox-2b": 1_693_783_872, "cogvideox-5b": 5_570_283_072, "cogvideox-5b-i2v": 5_625_087_552,
         "cogvideox1.5-5b": 5_570_676_352, "cogvideox1.5-5b-i2v": 5_571_594_880}


def built(name: str, part: str) -> dict[str, tuple[int, ...]]:
    """Tensors a checkpoint of these configs stores, by name, from the real class on the meta device."""
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    from transformers import T5Config, T5EncoderModel

    config = configs(name)[part]
    with torch.device("meta"):
        if part == "text_encoder":
            state: Any = dict(T5EncoderModel(T5Config(**config)).state_dict())
            state.pop("encoder.embed_tokens.weight", None)  # the same tensor as `shared`
        else:
            kind = CogVideoXTransformer3DModel if part == "transformer" else AutoencoderKLCogVideoX
            state = kind.from_config(config).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_real_classes(name: str) -> None:
    spec, shapes = published(name), built(name, "transformer")
    assert layout_of(shapes) == spec.layout["transformer"]
    assert spec.component_parameters["transformer"] == layout_of(shapes).numbers == KNOWN[name]
    assert spec.layers == spec.layout["transformer"].blocks


@pytest.mark.parametrize(("part", "numbers"), [("vae", 215_583_907), ("text_encoder", 4_762_310_656)])
def test_shared_components_too(part: str, numbers: int) -> None:
    shapes = built("cogvideox-5b", part)
    assert layout_of(shapes) == published("cogvideox-5b").layout[part]
    assert layout_of(shapes).numbers == numbers
    for name in NAMES:
        assert published(name).component_parameters[part] == numbers


def test_specs_say_what_each_checkpoint_is() -> None:
    two, five, newer = (published(name) for name in ("cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b"))
    assert (two.position, five.position, newer.family) == ("sincos", "rope", "cogvideox-1.5")
    assert (newer.native_width, newer.native_height, newer.native_frames, newer.fps) == (1360, 768, 81, 16)
    assert (five.native_width, five.native_height, five.native_frames, five.fps) == (720, 480, 49, 8)
    assert published("cogvideox-5b-i2v").fixed_size
    assert published("cogvideox1.5-5b-i2v").invert_scale_latents
    assert not any(published(name).installed for name in NAMES)
    assert len({published(name).fingerprint for name in NAMES}) == len(NAMES)


def test_names_in_any_case_with_or_without_owner() -> None:
    assert published("THUDM/CogVideoX-5b") == published("zai-org/cogvideox-5B") == published("CogVideoX-5b")
    assert [published(model).name for model in published_ids()] == [model.split("/")[1] for model in published_ids()]
    with pytest.raises(ModelNotFound, match=r"no bundled facts about 'CogVideoX-9b'.*THUDM/CogVideoX-2b"):
        published("CogVideoX-9b")


def test_every_fact_names_its_source() -> None:
    for name in NAMES:
        facts = json.loads(files("engine.facts").joinpath(f"{name}.json").read_text())
        assert {"transformer", "vae", "scheduler", "stored", "revision"} <= set(facts["source"])
