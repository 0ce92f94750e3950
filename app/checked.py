"""Ids and keys as they come from outside, checked before anything is looked up."""

from __future__ import annotations

from app.errors import NotFound
from app.history.ids import is_id
from engine.errors import InvalidRequest

MAX_KEY_CHARS = 200


def checked_id(value: object, what: str) -> str:
    """Raises NotFound for anything that has not the form of an id: no path, no pattern, no other type gets further."""
    if not is_id(value):
        raise NotFound(f"There is no such {what}.")
    return str(value)


def checked_key(key: object) -> str | None:
    """An idempotency key. Raises InvalidRequest."""
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
        raise InvalidRequest("idempotency_key", f"must be 1 to {MAX_KEY_CHARS} printable characters.")
    return key
