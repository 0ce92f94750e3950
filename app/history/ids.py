"""Ids: 32 lower-case hex digits, ordered by creation time (the layout of UUID version 7)."""

from __future__ import annotations

import re
import secrets

_ID = re.compile(r"[0-9a-f]{32}\Z")


def new_id(now: float) -> str:
    """A fresh id for something created at `now` (UTC seconds)."""
    stamp = int(now * 1000) & (1 << 48) - 1
    bits = secrets.randbits(74)
    value = stamp << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return f"{value:032x}"


def is_id(value: object) -> bool:
    """True when `value` has the form of an id; whatever else a caller sent names nothing."""
    return isinstance(value, str) and _ID.match(value) is not None
