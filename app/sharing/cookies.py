"""Cookies of a request, read as browsers send them and as anybody else may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http.cookies import CookieError, SimpleCookie

Headers = Iterable[tuple[bytes, bytes]]


def cookies(headers: Headers, name: str) -> Iterator[str]:
    """Every value said for the cookie `name`, in order; headers that cannot be read are passed over."""
    for header, value in headers:
        if header.lower() != b"cookie":
            continue
        try:
            found = SimpleCookie(value.decode("latin-1")).get(name)
        except CookieError:
            continue
        if found is not None:
            yield found.value
