"""The form's table: every field both ways, and bad values named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from app.length import frames_of
from app.studio import Studio
from app.ui.actions import ACTIONS, act
from app.ui.create import LABELS, forecast_markup
from app.ui.form import (
    FIELDS,
    KEPT,
    MODELS_OWN,
    START,
    STAYS,
    WAYS,
    choice_field,
    kept_fields,
    kept_words,
    read_form,
    show_frames,
    show_model,
    show_request,
    start_of,
)
from app.ui.length import seconds_of
from engine.errors import InvalidRequest
from engine.request import MAX_SEED, GenerationRequest
from tests.fakes import SPEC

FULL = GenerationRequest(
    prompt="a red ball", negative="blur", seed=MAX_SEED, frames=17, width=64, height=48, steps=120, guidance=20.0, scheduler="ddim"
)


def values_of(updates: dict[str, Any]) -> dict[str, Any]:
    return {name: update["value"] for name, update in updates.items()}


def test_the_table_knows_every_field_of_a_request() -> None:
    assert {*FIELDS, *KEPT, "model", "schema_version"} == {field.name for field in dataclasses.fields(GenerationRequest)}


def test_what_is_shown_is_what_is_read() -> None:
    assert read_form(values_of(show_request(FULL, SPEC))) == FULL


def test_what_has_no_component_stays_with_the_form() -> None:
    video = dataclasses.replace(FULL, video=f"{'a' * 64}.mp4", strength=0.6, fit="pad", guidance_kind="cosine", eta=0.5)
    assert read_form(values_of(show_request(video, SPEC)), kept_fields(video)) == video
    assert kept_words(video) == " It changes the same video. Its guidance is cosine."
    assert kept_words(dataclasses.replace(FULL, image=f"{'a' * 64}.png")) == " It starts from the same image."
    assert (kept_fields(FULL), kept_words(FULL)) == ({}, "")


def test_only_what_is_started_from_is_asked_for() -> None:
    image, video = f"{'a' * 64}.png", f"{'b' * 64}.mp4"
    shown = values_of(show_request(FULL, SPEC)) | {"fit": "pad", "strength": 0.5}
    both = {"image": image, "video": video}
    words = read_form(shown, both | {START: "t2v"})
    assert (words.image, words.video, words.fit, words.strength) == (None, None, None, None)
    still = read_form(shown, both | {START: "i2v"})
    assert (still.image, still.video, still.fit, still.strength) == (image, None, "pad", None)
    moving = read_form(shown, both | {START: "v2v"})
    assert (moving.image, moving.video, moving.fit, moving.strength) == (None, video, "pad", 0.5)
    kept = ({}, {"image": image}, {"video": video}, {START: "x", "video": video})
    assert [start_of(each) for each in kept] == ["t2v", "i2v", "v2v", "v2v"]


def test_a_way_of_making_is_three_words_and_its_first_is_not_said() -> None:
    field = choice_field("Memory", ("fast", "balanced", "tiny"), "", "field-profile")
    assert field.build(None).choices == [("Fast", "fast"), ("Balanced", "balanced"), ("Tiny", "tiny")]  # type: ignore[attr-defined]
    assert [field.read("profile", word) for word in ("fast", "tiny", None)] == [None, "tiny", None]
    caches = choice_field("Reuse", ("off", "first-block", "magcache"), "", "field-cache")
    assert caches.build(None).choices == [("Off", "off"), ("First block", "first-block"), ("MagCache", "magcache")]  # type: ignore[attr-defined]
    assert field.show(None, None) == {"value": "fast"} and field.show("tiny", None) == {"value": "tiny"}


def test_a_slider_makes_room_for_a_small_strength() -> None:
    video = dataclasses.replace(FULL, video=f"{'a' * 64}.mp4", strength=0.01)
    assert show_request(video, SPEC)["strength"]["minimum"] == 0.01
    assert read_form(values_of(show_request(video, SPEC)), kept_fields(video)).strength == 0.01


def test_a_bare_request_shows_the_models_own_values() -> None:
    read = read_form(values_of(show_request(GenerationRequest(prompt="x"), SPEC)))
    assert (read.seed, read.frames, read.width, read.height, read.steps, read.guidance, read.scheduler) == (None, 9, 64, 48, 12, 4.0, None)
    assert (read.guidance_kind, read.eta, read.fit, read.strength) == (None, None, None, None)


def test_sliders_make_room_for_what_is_restored() -> None:
    updates = show_request(FULL, SPEC)
    assert updates["steps"]["maximum"] == 200 and updates["guidance"]["maximum"] == 30
    assert updates["seed"]["value"] == str(MAX_SEED)  # text: a number would lose digits in a browser


@pytest.mark.parametrize(("fps", "seconds", "keys"), [(8, 1, 4), (24, 1, 6), (9, 1, None), (25, 1, None), (50, 1, None), (4, 1, None)])
def test_no_slider_refuses_what_it_is_given(fps: float, seconds: float, keys: int | None) -> None:
    """A click sends the whole form, and a browser puts a value outside the bounds of a slider somewhere else."""
    short = GenerationRequest(prompt="x", fps=fps, key_frames=keys, frames=frames_of(seconds, fps, keys, SPEC))
    frames, length = show_frames(short.frames, SPEC), seconds_of(short)
    assert frames["minimum"] <= frames["value"] <= frames["maximum"]
    assert length["minimum"] <= length["value"] <= length["maximum"]


def test_another_model_leaves_the_words_alone() -> None:
    assert set(STAYS).isdisjoint(show_model(SPEC)) and set(STAYS) <= set(FIELDS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"seed": "abc"}, "seed"),
        ({"seed": str(2**63)}, "seed"),
        ({"seed": "-1"}, "seed"),
        ({"seed": "1" * 50}, "seed"),
        ({"frames": 8.5}, "frames"),
        ({"frames": True}, "frames"),
        ({"frames": [25]}, "frames"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"guidance": "high"}, "guidance"),
        ({"width": -16}, "width"),
        ({"height": float("nan")}, "height"),
        ({"scheduler": "euler"}, "scheduler"),
        ({"model": None}, "model"),
        ({"guidance_kind": "wave"}, "guidance_kind"),
        ({"eta": float("nan")}, "eta"),
        ({"budget": float("nan")}, "budget"),
        ({"budget": 1e300}, "budget"),
        ({"budget": -1}, "budget"),
        ({"budget": 0.1}, "budget"),
        ({"budget": "8 parsecs"}, "budget"),
        ({"budget": "0"}, "budget"),
        ({"budget": "nan"}, "budget"),
        ({"budget": [8]}, "budget"),
        ({"budget": "1e30"}, "budget"),
        ({"budget": True}, "budget"),
    ],
)
def test_bad_values_name_their_field(changes: dict[str, Any], field: str) -> None:
    good = {"prompt": "a ball", "model": "pocket", "scheduler": MODELS_OWN}
    with pytest.raises(InvalidRequest) as caught:
        read_form(good | changes)
    assert caught.value.field == field


def test_a_budget_is_gibibytes_or_all_there_is() -> None:
    good = {"prompt": "a ball", "model": "pocket"}
    said = {None: None, "": None, " All there is ": None, 8: 8 << 30, "8": 8 << 30, ".25": 1 << 28,
            "16384": 1 << 44, "512 MiB": 1 << 29, "8GB": 8 * 10**9}
    assert {each: read_form(good | {"budget": each}).budget for each in said} == said
    for asked in (None, 8 << 30, 8 * 10**9, (1 << 44) - 1):  # a remix of a clip that the command line made
        request = dataclasses.replace(FULL, budget=asked)
        assert read_form(values_of(show_request(request, SPEC))) == request and "budget" not in kept_fields(request)
    assert kept_words(dataclasses.replace(FULL, budget=8 << 30)) == " It may use at most 8 GiB of memory."
    with pytest.raises(InvalidRequest, match=r"is '0\.1'; it is 0\.25 to 16,384 GiB of memory, .* or empty") as caught:
        read_form(good | {"budget": "0.1"})
    assert caught.value.suggestion == 8


def test_the_forecast_follows_the_budget(studio: Studio) -> None:
    values = {"prompt": "a ball", "model": "pocket"}
    free = forecast_markup(studio, values)
    assert forecast_markup(studio, values | {"budget": "16"}) == free  # more than there is
    assert "budget of 0.3 GB is the limit" in forecast_markup(studio, values | {"budget": "0.25"})


@pytest.mark.parametrize(("text", "seed"), [("", None), ("  ", None), ("42", 42), (" 1,000 ", 1000), (str(2**60), 2**60)])
def test_seeds_are_typed_as_people_type(text: str, seed: int | None) -> None:
    assert read_form({"prompt": "a ball", "model": "pocket", "seed": text}).seed == seed


@pytest.mark.parametrize("data", [None, 5, "go", [], {}, {"act": "__class__"}, {"act": ["go"]}, {"act": None}])
def test_unknown_clicks_do_nothing(data: object) -> None:
    assert act(data, None, None, None, studio=None, parts=None) == {}  # type: ignore[arg-type]


def test_every_act_in_the_markup_is_known() -> None:
    import re
    from pathlib import Path

    root = Path(__file__).resolve().parents[2] / "app" / "ui"
    text = "".join(path.read_text() for path in (root / "html").glob("*.py")) + (root / "create.py").read_text()
    used = set(re.findall(r'data-act="(\w+)"', text)) | set(re.findall(r'button\(\s*(?:"[^"]*"|\w+|f"[^"]*"),\s*"(\w+)"', text))
    used |= set(re.findall(r'button\(\s*"[^"]*" if [^,]*, "(\w+)"', text))
    assert used - {"theme", "copy", "search", "choose", "choose_set"} <= set(ACTIONS)


def test_refusals_name_fields_as_the_form_does() -> None:
    form = {**FIELDS, **WAYS}
    shown = {name: form[name].build(None).label for name in LABELS if name in form}  # type: ignore[attr-defined]
    assert len(shown) > 5 and shown == {name: LABELS[name] for name in shown}
