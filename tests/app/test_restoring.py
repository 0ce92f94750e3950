"""A clip whose model has another name here: restored with the one that is meant, and said so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.restoring import request_of, stand_in, stand_in_words
from app.studio import Studio
from engine.errors import InvalidRequest
from tests.fakes import SPEC


def recipe(model: str, mark: str = "0" * 40) -> dict[str, Any]:
    return {"sprocket": 1, "request": {"prompt": "a ball", "seed": 3, "model": model}, "model": {"name": model, "fingerprint": mark}}


def here(*names_and_marks: tuple[str, str]) -> list[Any]:
    return [dataclasses.replace(SPEC, name=name, fingerprint=mark * 40) for name, mark in names_and_marks]


HUB = ("THUDM/CogVideoX-5b", "a")


@pytest.mark.parametrize(("model", "mark", "models", "expected"), [
    ("CogVideoX-5b", "a", [HUB], "THUDM/CogVideoX-5b"),  # as earlier versions wrote it down
    ("CogVideoX-5b", "z", [HUB], "THUDM/CogVideoX-5b"),  # the same name, other weights
    ("my-folder", "a", [HUB, ("pocket", "p")], "THUDM/CogVideoX-5b"),  # the same weights, another name
    ("CogVideoX-5b", "a", [("me/cogvideox-5b", "b"), HUB], "THUDM/CogVideoX-5b"),  # of two with the name the one with the weights
    ("CogVideoX-5b", "a", [HUB, ("copy", "a")], "THUDM/CogVideoX-5b"),  # of two with the weights the one with the name
    ("CogVideoX-5b", "z", [HUB, ("me/CogVideoX-5b", "b")], None),  # either could be meant
    ("CogVideoX-5b", "a", [("one", "a"), ("two", "a")], None),
    ("THUDM/CogVideoX-5b", "z", [HUB, ("copy", "z")], None),  # its own name is here
    ("other", "z", [HUB], None),
    ("other", "a", [], None),
])
def test_which_model_stands_in(model: str, mark: str, models: list[tuple[str, str]], expected: str | None) -> None:
    found = stand_in(recipe(model, mark * 40), here(*models))
    assert (found.name if found else None) == expected
    assert request_of(recipe(model, mark * 40), here(*models)).model == (expected or model)


@pytest.mark.parametrize("broken", [{}, {"request": 5}, {"request": {"model": None}}, {"request": {"model": "x"}, "model": [1]}])
def test_a_recipe_that_was_tampered_with_names_nothing(broken: dict[str, Any]) -> None:
    assert stand_in(broken, here(("y", "a"))) is None and stand_in_words(broken, here(("y", "a"))) == ""


def test_a_model_in_a_folder_of_this_machine_is_asked_for_by_its_place(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    for model, told, asked in (("/models/mine", "mine", "/models/mine"), ("/models/pocket", "pocket", "pocket"), ("mine", "mine", "mine"),
                               ("/models/mine", "other", "other")):
        clip = SimpleNamespace(model=model, recipe=recipe(told))
        monkeypatch.setattr(studio, "clip", lambda clip_id, *, owner, clip=clip: clip)
        assert studio.clip_request("a" * 32).model == asked


def test_it_is_said(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "clip.json"
    file.write_text(json.dumps(recipe("Pocket-2b", SPEC.fingerprint)))
    assert studio.request_from_file(file).model == "pocket"
    assert studio.stand_in(str(file)) == " Its model, Pocket-2b, is pocket here (the same weights)."
    file.write_text(json.dumps(recipe("THUDM/pocket")))
    assert "perhaps other weights" in studio.stand_in(str(file))
    file.write_text(json.dumps(recipe("pocket")))
    assert studio.stand_in(str(file)) == ""
    file.write_text("{}")
    with pytest.raises(InvalidRequest, match="no Sprocket recipe"):
        studio.stand_in(str(file))
