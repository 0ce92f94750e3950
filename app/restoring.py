"""What to ask for to get a clip again, from the recipe in its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.queue.kinds import GENERATE
from engine.errors import InvalidRequest
from engine.request import GenerationRequest


def request_of(recipe: Mapping[str, Any]) -> GenerationRequest:
    """Raises InvalidRequest: no model made it, or the file was tampered with."""
    if recipe.get("kind", GENERATE) != GENERATE:
        raise InvalidRequest("clip", "was not made from a request for a model: it is motion interpolation. Take the clip that it was made "
                                     "from.")
    return GenerationRequest.from_mapping(recipe["request"])
