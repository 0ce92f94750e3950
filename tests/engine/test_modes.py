"""Requests and plans of every mode, and the weights of guidance: pure, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest, ModelInvalid
from engine.guidance import guidance_weights
from engine.inputs import input_file
from engine.memory import Shape, stage_work
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.engine.test_plan import SPEC, ask
from tests.engine.test_spec import edit
from tests.engine.tiny import CPU

IMAGE, VIDEO = f"{'a' * 64}.png", f"{'0' * 64}.mp4"


@pytest.mark.parametrize(("fields", "field", "says"), [
    ({"image": "cat.png"}, "image", "64 hex digits"),
    ({"image": "../" + IMAGE}, "image", "name of an input"),
    ({"image": "/etc/passwd"}, "image", "name of an input"),
    ({"image": IMAGE + "/x"}, "image", "name of an input"),
    ({"image": IMAGE + "\n"}, "image", "name of an input"),
    ({"image": "A" * 64 + ".png"}, "image", "name of an input"),
    ({"video": 5}, "video", "name of an input"),
    ({"image": IMAGE, "video": VIDEO}, "video", "one of them"),
    ({"strength": 0.5}, "strength", "there is none"),
    ({"image": IMAGE, "strength": 0.5}, "strength", "there is none"),
    ({"video": VIDEO, "strength": 0}, "strength", "more than 0"),
    ({"video": VIDEO, "strength": 1.01}, "strength", "0 to 1"),
    ({"video": VIDEO, "strength": float("nan")}, "strength", "nan"),
    ({"video": VIDEO, "strength": True}, "strength", "must be a number"),
    ({"fit": "crop"}, "fit", "there is none"),
    ({"image": IMAGE, "fit": "stretch"}, "fit", "crop, pad"),
    ({"guidance_kind": "dynamic"}, "guidance_kind", "as-published"),
    ({"guidance_kind": ["constant"]}, "guidance_kind", "not known"),
    ({"eta": 2}, "eta", "0 to 1"),
])
def test_what_no_model_could_do_is_refused(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        GenerationRequest.from_mapping({"prompt": "a fox", **fields})
    assert caught.value.field == field
    assert len(str(caught.value)) < 300


def test_old_recipes_still_parse_and_new_ones_come_back() -> None:
    old = GenerationRequest.from_mapping({"prompt": "a fox", "schema_version": 1, "seed": 3, "scheduler": "ddim"})
    assert (old.mode, old.image, old.video, old.fit, old.strength, old.guidance_kind, old.eta) == ("t2v", *[None] * 6)
    new = GenerationRequest(prompt="a fox", video=VIDEO, fit="pad", strength=1, guidance_kind="cosine", eta=0.5, scheduler="ddim")
    assert (new.mode, new.strength) == ("v2v", 1.0)
    assert GenerationRequest.from_mapping(new.to_json()) == new


def test_a_checkpoint_says_what_it_can_do(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    assert read_spec(tiny("1.5")).modes == ("t2v", "v2v")
    learned, plain, newer = (read_spec(tiny(f"i2v-{kind}")) for kind in ("rope", "sincos", "1.5"))
    assert learned.modes == plain.modes == newer.modes == ("i2v",)
    assert (learned.position, learned.fixed_size, plain.position) == ("learned", True, "sincos")
    assert (learned.takes_offset, learned.invert_scale_latents) == (False, False)
    assert (newer.takes_offset, newer.invert_scale_latents) == (True, True)
    assert learned.latent_channels == 4
    folder = Path(shutil.copytree(tiny("rope"), tmp_path / "own"))
    edit(folder / "model_index.json", _class_name="CogVideoXVideoToVideoPipeline")
    assert read_spec(folder).modes == ("t2v", "v2v")
    edit(folder / "model_index.json", _class_name="CogVideoXImageToVideoPipeline")
    with pytest.raises(ModelInvalid, match=r"takes 4 channels.*takes 8.*looks like a text-to-video model"):
        read_spec(folder)
    edit(folder / "model_index.json", _class_name="CogVideoXFunControlPipeline")
    with pytest.raises(ModelInvalid, match="is a CogVideoXFunControlPipeline"):
        read_spec(folder)
    edit(folder / "model_index.json", _class_name="CogVideoXPipeline")
    edit(folder / "transformer/config.json", out_channels=5)
    with pytest.raises(ModelInvalid, match="gives 5 channels"):
        read_spec(folder)
    edit(folder / "transformer/config.json", out_channels=4, use_learned_positional_embeddings=True,
         use_rotary_positional_embeddings=False)
    with pytest.raises(ModelInvalid, match="learned positions come with rotary"):
        read_spec(folder)


def image_plan(tiny: Callable[..., Path], **fields: Any) -> Plan:
    return plan(GenerationRequest(**({"prompt": "a fox"} | fields)), read_spec(tiny("i2v-rope"), "still"), CPU)


def test_plans_of_every_mode(tiny: Callable[..., Path]) -> None:
    still = image_plan(tiny, image=IMAGE, fit="pad")
    assert (still.mode, still.input, still.fit, still.latent_shape) == ("i2v", IMAGE, "pad", (1, 3, 4, 8, 12))
    moved = ask(video=VIDEO)
    assert (moved.mode, moved.input, moved.fit, moved.strength, moved.sampled_steps) == ("v2v", VIDEO, "crop", 0.8, 40)
    assert any("40 of 50 steps" in note for note in moved.notes)
    for made, spec, machine in ((still, read_spec(tiny("i2v-rope"), "still"), CPU),):
        assert plan(made.request(), spec, machine) == made
    assert ask(**{name: value for name, value in moved.request().to_json().items() if name != "schema_version"}) == moved
    plain = ask()
    assert None not in moved.to_json().values()
    assert moved.work["sample"] == pytest.approx(0.8 * plain.work["sample"])
    assert moved.work["encode"] > plain.work["encode"]
    assert stage_work(SPEC, Shape(9, 64, 96, True), 5) == stage_work(SPEC, Shape(9, 64, 96, True), 5, given_frames=0)
    assert any("learned positions for 9 frames" in note for note in image_plan(tiny, image=IMAGE, frames=17).notes)
    swinging = ask(guidance_kind="as-published")
    assert swinging.guidance_kind == "as-published" and any("swings" in note for note in swinging.notes)
    assert ask(scheduler="ddim", eta=0.3).eta == 0.3
    assert ask(scheduler="dpm", eta=0).eta == 0.0


def test_what_this_checkpoint_cannot_do_is_refused(tiny: Callable[..., Path]) -> None:
    cases: list[tuple[Callable[[], Plan], str, str]] = [
        (lambda: ask(image=IMAGE), "image", "big does not take one.*image-to-video model"),
        (lambda: image_plan(tiny), "image", "is missing; still makes videos from a first frame"),
        (lambda: image_plan(tiny, video=VIDEO), "video", "still does not take one"),
        (lambda: ask(eta=0.5), "eta", "is 0.5; only the ddim scheduler"),
        (lambda: image_plan(tiny, image=IMAGE, eta=0.5, scheduler="dpm"), "eta", "only the ddim"),
        (lambda: ask(video=VIDEO, strength=0.01), "strength", "is 0.01; of 50 steps not one.*at least 0.02"),
    ]
    for make, field, says in cases:
        with pytest.raises(InvalidRequest, match=says) as caught:
            make()
        assert caught.value.field == field


@given(steps=st.integers(1, 200), strength=st.floats(0, 1, exclude_min=True))
def test_at_least_one_step_is_run_or_the_suggestion_does(steps: int, strength: float) -> None:
    try:
        made = ask(video=VIDEO, steps=steps, strength=strength)
        assert made.sampled_steps == min(int(steps * strength), steps) >= 1
    except InvalidRequest as error:
        assert int(steps * strength) == 0
        assert ask(video=VIDEO, steps=steps, strength=error.suggestion).sampled_steps >= 1
    assert ask(video=VIDEO, steps=steps).sampled_steps >= 1


def test_guidance_weights() -> None:
    times = [999 - 20 * index for index in range(50)]
    assert guidance_weights("constant", 6.0, times) == (6.0,) * 50
    ramp = guidance_weights("cosine", 6.0, times)
    assert (ramp[0], ramp[-1]) == (1.0, 6.0)
    assert all(before < after for before, after in pairwise(ramp))
    assert ramp == guidance_weights("cosine", 6.0, range(50))  # of the step's number, whatever the timestep
    assert guidance_weights("cosine", 6.0, [999]) == (6.0,)
    swing = guidance_weights("as-published", 6.0, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99])
    assert [round(weight, 1) for weight in swing] == [3.4, 1.8, 1.0, 1.4, 2.9, 4.8, 6.4, 7.0, 6.4, 4.9]
    assert swing[3] == 1 + 6.0 * ((1 - math.cos(math.pi * ((10 - 699) / 10) ** 5.0)) / 2)
    with pytest.raises(ValueError, match="no kind of guidance"):
        guidance_weights("other", 6.0, times)


def test_an_input_that_is_not_there(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(InvalidRequest, match=r"aaaaaaaaaaaa\.\.\. is not among the inputs") as caught:
            input_file(folder, IMAGE, "image")
        assert caught.value.field == "image"
    (tmp_path / IMAGE).write_bytes(b"x")
    assert input_file(tmp_path, IMAGE, "image") == tmp_path / IMAGE
