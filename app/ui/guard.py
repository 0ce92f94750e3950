"""Who may call the server: a check of Host and Origin in front of everything, and headers on every answer.

A page on the internet can make a browser send requests to 127.0.0.1. Such a request names a foreign Origin, or (DNS
rebinding) a foreign Host; both are refused. Without a name to rebind, addresses written as numbers are safe.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READING = ("GET", "HEAD", "OPTIONS")
TAKEN = ("page", "deep_link")
"""Words of an address that gradio reads for itself, and answers with an error where it knows no such page."""
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; frame-ancestors {ancestors}"
)


class Guard:
    """ASGI middleware."""

    def __init__(self, app: Any, hosts: str = "") -> None:
        """`hosts`: `Settings.allowed_hosts`."""
        self.app = app
        self.names = allowed_names(hosts)
        ancestors = "'self' https://huggingface.co https://*.hf.space" if os.environ.get("SPACE_HOST") else "'self'"
        self.policy = POLICY.format(ancestors=ancestors).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = refusal(scope["method"], headers.get(b"host", ""), headers.get(b"origin"), self.names)
        if reason:
            await _refuse(send, reason)
            return

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = [*HEADERS, (b"content-security-policy", self.policy)]
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in extra if name not in present),
                ]
            await send(message)

        if scope["path"] == "/" and (there := without_page(scope["query_string"])) is not None:
            await _go(sending, there)
            return
        await self.app(scope, receive, sending)


def allowed_names(hosts: str = "") -> frozenset[str]:
    """Host names the server answers to besides plain IP addresses: localhost, this machine's own, a Space's, and those in `hosts`
    (commas)."""
    own = socket.gethostname().lower()
    listed = (name.strip() for name in hosts.lower().split(","))
    return frozenset({"localhost", own, f"{own}.local", os.environ.get("SPACE_HOST", "").lower(), *listed} - {""})


def refusal(method: str, host: str, origin: str | None, names: frozenset[str]) -> str | None:
    """Why a request is refused, or None. `host`, `origin`: the headers as sent."""
    name = _host_name(host)
    if name is None or not (name in names or _is_address(name)):
        return "Unknown host name. Open the studio by its IP address, or list the name in SPROCKET_ALLOWED_HOSTS."
    if origin is not None and method not in READING:
        try:
            site = urlsplit(origin).netloc.lower()  # empty for "null"
        except ValueError:  # "http://["
            site = ""
        if site != host.lower():
            return "Requests from other sites are refused."
    return None


def without_page(query: bytes) -> bytes | None:
    """Where `/?page=…` leads: gradio takes `page` for one of its own and knows none, so the number becomes our `sheet`.
    None where no `page` is asked for."""
    try:
        values = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=40)
    except ValueError:
        return b"/"
    if not any(name in TAKEN for name, _ in values):
        return None
    sheet = [("sheet", value) for name, value in values if name == "page" and value.isascii() and value.isdigit() and len(value) < 8]
    kept = [(name, value) for name, value in values if name not in (*TAKEN, "sheet")]
    return b"/?" + urlencode([*kept, *(sheet[:1] or [pair for pair in values if pair[0] == "sheet"])]).encode()


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _go(send: Send, there: bytes) -> None:
    await send({"type": "http.response.start", "status": 307, "headers": [(b"location", there), (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, reason: str) -> None:
    body = reason.encode()
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
