"""Who is asking, and what such a person may do."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """Each may do what the ones before may."""

    VIEWER = 1
    """Looks at what is theirs."""
    MAKER = 2
    """Makes clips."""
    ADMIN = 3
    """Changes what belongs to all: models, LoRAs, the history's message."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Visitor:
    """One person behind one request."""

    owner: str
    """Whose jobs and clips these are, as the history keeps it."""
    name: str
    """As the page shows it."""
    role: Role


LOCAL = Visitor(owner="local", name="", role=Role.ADMIN)
"""Whoever reaches a studio that only listens on this machine."""

ANONYMOUS = "anon:"
"""What owners begin with who have not signed in."""
asking: ContextVar[Visitor | None] = ContextVar("asking", default=None)
"""The visitor of the HTTP request that is being answered; None: nobody, or no request at all."""
SCOPE_KEY = "sprocket.visitor"
"""The same in the ASGI scope, for what answers later than the request (gradio's queue)."""
