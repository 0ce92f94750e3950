"""What a recipe says of the model, so that settings come back from a clip and no path goes out with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.plan import Plan
from engine.video.recipe import build_recipe


@pytest.mark.parametrize(("model", "told"), [("zai-org/CogVideoX-5b", "zai-org/CogVideoX-5b"), ("pocket", "pocket"), ("", "mine")])
def test_a_hub_model_keeps_its_owner_and_a_folder_its_name(model: str, told: str, tiny_plan: Callable[..., Plan], tmp_path: Path) -> None:
    named = model or str(tmp_path / "mine")
    job = tiny_plan("rope")
    recipe = build_recipe(replace(job, model=named, spec=replace(job.spec, name=named)))
    assert recipe["request"]["model"] == recipe["model"]["name"] == told
    assert str(tmp_path) not in str(recipe)
