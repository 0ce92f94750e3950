"""Passwords and tokens as they are kept: never themselves.

A password becomes `scrypt$n$r$p$salt$hash` (RFC 7914) with n = 2^15, r = 8, p = 1: 32 MiB and about a tenth of a second for
each guess. A token is 256 random bits, so that its plain sha256 cannot be guessed back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading

from engine.errors import InvalidRequest

N, R, P = 1 << 15, 8, 1
SALT_BYTES, HASH_BYTES = 16, 32
LEAST_CHARS, MOST_CHARS = 10, 200
MOST_WORK = 1 << 20
"""n times r of a record at most: 128 MiB."""
_turn = threading.BoundedSemaphore(2)
"""Each hash takes 32 MiB: no more than two at once, however many sign in."""


def hashed(password: str) -> str:
    """The password's record. Raises InvalidRequest for one that is too short or too long."""
    if not LEAST_CHARS <= len(password) <= MOST_CHARS:
        raise InvalidRequest("password", f"has {len(password)} characters; it must have {LEAST_CHARS} to {MOST_CHARS}. Several words "
                                         "are easier to remember than few signs.")
    salt = secrets.token_bytes(SALT_BYTES)
    return _record(salt, _scrypt(password, salt, N, R, P))


def matches(password: str, record: str) -> bool:
    """Is it that record's password? A damaged record matches nothing. Takes as long for every answer."""
    try:
        kind, n, r, p, salt, expected = record.split("$")
        if kind != "scrypt" or len(password) > MOST_CHARS or int(n) * int(r) > MOST_WORK:
            return False
        found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(expected))
    except ValueError:
        return False


def new_token() -> str:
    return secrets.token_urlsafe(32)


def token_record(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    with _turn:
        return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, n=n, r=r, p=p, maxmem=132 * n * r * p + (1 << 20),
                              dklen=HASH_BYTES)


def _record(salt: bytes, digest: bytes) -> str:
    return "$".join(("scrypt", str(N), str(R), str(P), _text(salt), _text(digest)))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


NOBODY = _record(bytes(SALT_BYTES), bytes(HASH_BYTES))
"""Compared with where there is no such person, so that the time does not tell. Nothing is known to match it."""
