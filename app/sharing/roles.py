"""What a role is enough for, and which use-cases belong to an owner."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from app.errors import NotAllowed
from app.sharing.visitor import Role, Visitor


def allowed(visitor: Visitor | None, need: Role | None, what: str) -> Visitor:
    """The visitor, if the role suffices. Raises NotAllowed."""
    if visitor is None:
        raise NotAllowed("You are not signed in, or your session is over. Sign in again.")
    if need is None:
        raise NotAllowed(f"“{what}” is not done from a page; use the command line on the studio's own machine.")
    if visitor.role < need:
        raise NotAllowed(f"Your role here is {visitor.role.word}; “{what}” needs the role {need.word}. Ask whoever runs this studio.")
    return visitor


def has_owner(use_case: Callable[..., Any]) -> bool:
    """Does it belong to an owner?"""
    return _has_owner(getattr(use_case, "__func__", use_case))


@functools.lru_cache(maxsize=256)
def _has_owner(function: Callable[..., Any]) -> bool:
    return "owner" in inspect.signature(function).parameters
