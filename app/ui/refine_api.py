"""The named endpoint `/refine` for `gradio_client`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import InvalidRequest


def refine_endpoint(studio: Any) -> Callable[..., dict]:
    """The function behind `/refine`."""

    def refine(text: Any = None, backend: Any = None, model: Any = None, purpose: Any = None, version: Any = None,
               loras: Any = None) -> dict:
        """A short wish as the description that a video model understands: {text, original, notes, backend, tokens, ...}.

        `text` alone is enough. To make a clip of it, give `/submit` the text as prompt, the original as wish and the backend as
        refiner; then all three are in its recipe.
        """
        names = _names(loras)
        for name, value in (("backend", backend), ("model", model), ("purpose", purpose)):
            if value is not None and not isinstance(value, str):
                raise InvalidRequest(name, f"must be text, not {str(value)[:40]!r}.")
        if text is not None and not isinstance(text, str):
            raise InvalidRequest("text", f"must be text, not {str(text)[:40]!r}.")
        found = studio.refining.refine(text or "", model=model or "pocket", backend=backend or None, purpose=purpose or "text-to-video",
                                       version=0 if version is None else version, loras=names)
        return found.to_json()

    return refine


def _names(loras: Any) -> list[str]:
    """Of LoRAs, given as names or as [name, weight] pairs like in a request."""
    if loras is None:
        return []
    if not isinstance(loras, list):
        raise InvalidRequest("loras", f"must be a list of names, not {str(loras)[:40]!r}.")
    return [str(each[0] if isinstance(each, (list, tuple)) and each else each) for each in loras]
