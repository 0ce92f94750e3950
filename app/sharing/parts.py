"""The studio's rooms (datasets, training, interpolation, refining) as one visitor may use them: the same rule as for its use-cases.

Importing a dataset names folders of this machine and training takes its GPU for hours: in a shared studio both are for admins. What
others need for their pages to open, they may read, their own alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from app.history.ids import is_id
from app.sharing.visitor import Role, Visitor
from engine.errors import InvalidRequest

PARTS: Mapping[str, tuple[frozenset[str], Role]] = {
    "datasets": (frozenset({"list", "get", "find", "poster", "video", "token", "describer", "check"}), Role.ADMIN),
    "training": (frozenset({"cards", "card", "run", "preview_path", "forecast"}), Role.ADMIN),
    "interpolations": (frozenset(), Role.MAKER),
    "refining": (frozenset({"backends", "backend_for", "look"}), Role.MAKER),
}
"""Room -> what everybody may read, and the role for the rest."""
REFINES = frozenset({"refine", "start"})
"""Of refining: what may ask the operator's chat server."""
OF_A_RUN = frozenset({"preview_path", "run"})
"""Of training: named by a run, without a word of whose it is. The run has to be the visitor's."""


class OwnedPart:
    """Stands before one room. `check(words)`: raises for inputs of others; `adding(act)`: does it within the quotas; `refining(text)`:
    raises for one text too many, or too long."""

    def __init__(self, part: Any, name: str, allowed: Callable[[Role, str], Visitor], check: Callable[..., None],
                 adding: Callable[..., Any], refining: Callable[[Visitor, object], None], who: Callable[[], Visitor | None]) -> None:
        self._part, self._name, self._allowed, self._check, self._adding, self._who = part, name, allowed, check, adding, who
        self._refining = refining

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "close":
            raise AttributeError(name)
        reads, need = PARTS[self._name]
        role, what = (Role.VIEWER if name in reads else need), f"{self._name}: {name.replace('_', ' ')}"
        found = getattr(self._part, name)
        if not callable(found):
            return Own(found, self._allowed(need, what).owner)
        takes_owner = "owner" in inspect.signature(found).parameters

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in reads and not takes_owner and name not in OF_A_RUN and self._who() is None:
                return found(*args, **kwargs)  # what a page needs before anybody has opened it; belongs to nobody
            visitor = self._allowed(role, what)
            if takes_owner:
                kwargs["owner"] = visitor.owner
            elif self._name == "training" and name in OF_A_RUN:
                self._part.card(args[0] if args else kwargs["run_id"], owner=visitor.owner)
            self._check(visitor, args, kwargs)
            if self._name == "refining" and name in REFINES:
                self._refining(visitor, args[0] if args else kwargs.get("text"))
            if self._name == "interpolations" and name in ("submit", "submit_input"):
                if name == "submit":
                    _only_clips(args[0] if args else kwargs.get("source"), kwargs.get("then"))
                return self._adding(visitor, name, args, kwargs.get("idempotency_key"), lambda: found(*args, **kwargs))
            return found(*args, **kwargs)

        return call


class Own:
    """Something inside a room whose every call names an owner: the visitor."""

    def __init__(self, thing: Any, owner: str) -> None:
        self._thing, self._owner = thing, owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "close":
            raise AttributeError(name)
        return lambda *args, **kwargs: getattr(self._thing, name)(*args, **(kwargs | {"owner": self._owner}))


def _only_clips(source: object, then: object) -> None:
    """Files of this machine are none of a visitor's business."""
    for field, value in (("source", source), ("then", then)):
        if not is_id(value) and not (field == "then" and value is None):
            raise InvalidRequest(field, "must be one of your clips here; files of this machine are for its command line.")
