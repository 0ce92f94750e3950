"""What to ask for to get a clip again, from the recipe in its file.

A recipe names its model as it was called where the clip was made. Here it may have another name: earlier versions wrote down only the last
part of a hub id ("CogVideoX-5b"), and a folder may be called anything. Then a model of this machine stands in for it, if exactly one can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.history.records import Clip
from app.paths import is_there
from app.queue.kinds import GENERATE
from engine.errors import InvalidRequest
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.video.recipe import read_recipe


def recipe_of(source: str, clip: Callable[[], Clip]) -> Mapping[str, Any]:
    """Of an mp4 or sidecar, else of a `clip`. Raises InvalidRequest, and what `clip` raises."""
    return read_recipe(Path(source)) if is_there(source) else clip().recipe


def request_of(recipe: Mapping[str, Any], here: Sequence[ModelSpec] = (), known: str = "") -> GenerationRequest:
    """`here`: the models of this machine. `known`: the model as the history knows it: of a folder the recipe says the name alone, for
    the file may be given away. Raises InvalidRequest: no model made it, or the file was tampered with."""
    if recipe.get("kind", GENERATE) != GENERATE:
        raise InvalidRequest("clip", "was not made from a request for a model: it is motion interpolation. Take the clip that it was made "
                                     "from.")
    request = GenerationRequest.from_mapping(recipe["request"])
    other = stand_in(recipe, here)
    if other is not None:
        return replace(request, model=other.name)
    return replace(request, model=named_here(request.model, here, known))


def named_here(name: str, here: Sequence[ModelSpec], known: str) -> str:
    """What to ask for where a recipe says `name`: the folder of that name which the history knows, else `name`."""
    folder = Path(known)
    own = folder.is_absolute() and folder.name == name and all(spec.name != name for spec in here)
    return known if own else name


def stand_in(recipe: Mapping[str, Any], here: Sequence[ModelSpec]) -> ModelSpec | None:
    """The model that the recipe means under another name: the one of the same fingerprint, else the one whose id ends as its does.
    None where its own name is here, and where none or several could be meant."""
    request, told = recipe.get("request"), recipe.get("model")
    name = request.get("model") if isinstance(request, Mapping) else None
    if not isinstance(name, str) or any(spec.name == name for spec in here):
        return None
    mark = told.get("fingerprint") if isinstance(told, Mapping) else None
    alike = [spec for spec in here if _last(spec.name) == _last(name)]
    same = [spec for spec in here if spec.fingerprint == mark]
    for found in (same, [spec for spec in same if spec in alike], [] if same else alike):
        if len(found) == 1:
            return found[0]
    return None


def stand_in_words(recipe: Mapping[str, Any], here: Sequence[ModelSpec]) -> str:
    """A sentence that says so; '' where nothing stands in."""
    other = stand_in(recipe, here)
    if other is None:
        return ""
    same = isinstance(recipe.get("model"), Mapping) and recipe["model"].get("fingerprint") == other.fingerprint
    weights = "the same weights" if same else "perhaps other weights"
    return f" Its model, {str(recipe['request']['model'])[:80]}, is {other.name} here ({weights})."


def _last(model: str) -> str:
    """'THUDM/CogVideoX-5b' -> 'cogvideox-5b'."""
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()
