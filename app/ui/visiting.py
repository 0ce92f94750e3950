"""Who is behind the event that is being handled. Gradio answers some events later than their request, in a task of its own: then
the request it kept counts, and never what an earlier request left in that task."""

from __future__ import annotations

from typing import Any

from gradio.context import LocalContext

from app.sharing.visitor import SCOPE_KEY, Visitor, asking


def visitor_here() -> Visitor | None:
    """The visitor of gradio's event if this is one, else of the HTTP request; None where the gate let nobody in."""
    event: Any = LocalContext.request.get(None)
    if event is not None:
        request = getattr(event, "request", None)
        found = request.scope.get(SCOPE_KEY) if request is not None else None
        return found if isinstance(found, Visitor) else None
    return asking.get()
