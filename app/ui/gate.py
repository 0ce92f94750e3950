"""The gate of a shared studio: nobody gets past it without having signed in, and gradio's own ways to files are shut.

What it lets through carries the visitor (`app.sharing.visitor`); everything behind takes the owner from there and from nowhere else.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote

from app.sharing.access import Access
from app.sharing.gallery import PATHS
from app.sharing.visitor import SCOPE_KEY, Role, Visitor, asking
from app.ui.guard import READING, Receive, Scope, Send
from engine.errors import SprocketError

OPEN = ("/signin", "/signout", "/healthz", "/readyz", "/metrics", "/studio/style.css", "/studio/logo.svg", "/favicon.ico", "/robots.txt")
"""Paths that need nobody; `/metrics` looks for itself."""
API = "/gradio_api"
GRADIO = ("upload", "file", "proxy", "stream", "runs", "run-history", "deep_link", "component_server", "process_recording", "vibe-",
          "undo-vibe", "dev", "token", "login_check", "profiling", "custom_component")
SHUT = (*(f"{API}/{name}" for name in GRADIO), "/monitoring", "/login", "/logout", "/token", "/proxy=", "/file")
"""Gradio's own routes that Sprocket has no use for: files by path, uploads, recordings, other people's states. Not `app_id`, a number
drawn at each start: a page that has lost its connection waits for it, then goes on or opens anew."""
MOST_BODY = 4 << 20
"""Bytes of an event. What is larger goes through `/media/uploads`."""
MOST_FIELDS = 40
MOST_SESSIONS = 20_000
ANSWER_BYTES = 4096


class Gate:
    """ASGI middleware, behind `Guard`."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access
        self._sessions: OrderedDict[str, str] = OrderedDict()
        """gradio's session or event -> the owner who began it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        try:
            visitor = self.access.visitor_of(scope)  # from memory; the file is read when it has changed
        except SprocketError:  # which file that is, strangers need not know
            await refuse(send, 503, "Nobody can sign in just now: the users file is damaged.")
            return
        if visitor is None and not self._open(scope["method"], path):
            known = self.access.welcome() if wants_page(scope) else None
            if known is None:
                await _ask_in(scope, send)
                return
            visitor, send = known[0], with_cookie(send, known[1])
        scope[SCOPE_KEY] = visitor
        mark = asking.set(visitor)
        try:
            await self._inside(scope, receive, send, visitor)
        finally:
            asking.reset(mark)

    def _open(self, method: str, path: str) -> bool:
        """May people read this who have not signed in? Behind it only what is published is there for them."""
        if path in OPEN or (self.access.own_paths and path.startswith(self.access.own_paths)):
            return True
        return self.access.sharing.open_gallery and method in READING and PATHS.fullmatch(path) is not None

    async def _inside(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor | None) -> None:
        path, method = scope["path"], scope["method"]
        if visitor is None:
            await self.app(scope, receive, send)
        elif path.startswith(SHUT) and not (self.access.own_paths and path.startswith(self.access.own_paths)):
            await refuse(send, 404, "Not here.")
        elif path.startswith("/media/") and method not in READING and visitor.role < Role.MAKER:
            await refuse(send, 403, f"Your role here is {visitor.role.word}; sending files needs the role maker.")
        elif path.startswith(API):
            await self._event(scope, receive, send, visitor)
        else:
            await self.app(scope, receive, send)

    async def _event(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        """One of gradio's events: bounded, and only in sessions that are the visitor's own."""
        named = sessions_in_address(scope["method"], scope["path"], scope["query_string"])
        if named is None:
            await refuse(send, 400, f"The address has more than {MOST_FIELDS} fields.")
            return
        if scope["method"] not in READING:
            body = await _whole(receive)
            if body is None:
                await refuse(send, 413, f"The request has more than {MOST_BODY >> 20} MiB.")
                return
            try:
                said = json.loads(body or b"{}")
            except (ValueError, RecursionError):
                await refuse(send, 400, "The request is no JSON, or nested too deep.")
                return
            named += [said[key] for key in ("session_hash", "event_id") if isinstance(said, dict) and isinstance(said.get(key), str)]
            receive = _again(body, receive)
        if not all(self._belongs(each, visitor.owner) for each in named):
            await refuse(send, 403, "That session is somebody else's.")
            return
        answer = bytearray()

        async def noting(message: MutableMapping[str, Any]) -> None:
            """Notes the event gradio has just begun: who asks for its result must be the same."""
            if message["type"] == "http.response.body" and scope["method"] == "POST" and len(answer) < ANSWER_BYTES:
                answer.extend(message.get("body", b"")[:ANSWER_BYTES])
                if b'"event_id"' in answer:
                    self._note_event(bytes(answer), visitor.owner)
            await send(message)

        await self.app(scope, receive, noting)

    def _belongs(self, session: str, owner: str) -> bool:
        """The first who names a session owns it."""
        if len(session) > 200:
            return False
        known = self._sessions.setdefault(session, owner)
        self._sessions.move_to_end(session)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return known == owner

    def _note_event(self, answer: bytes, owner: str) -> None:
        try:
            event = json.loads(answer).get("event_id")
        except (ValueError, AttributeError):
            return
        if isinstance(event, str):
            self._belongs(event, owner)


def sessions_in_address(method: str, path: str, query: bytes) -> list[str] | None:
    """gradio's sessions and events that an address names: `?session_hash=`, `/heartbeat/{session}`, `/call/{name}/{event}`,
    `/call/v2/{name}/{event}`. None: it has too many fields to be read."""
    try:
        named = parse_qs(query.decode("latin-1"), max_num_fields=MOST_FIELDS).get("session_hash", [])
    except ValueError:
        return None
    parts = path.removeprefix(API).strip("/").split("/")
    if (parts[0] == "heartbeat" and len(parts) == 2) or (parts[0] == "call" and len(parts) >= 3 and method in READING):
        named = [*named, parts[-1]]
    return named


async def _whole(receive: Receive) -> bytes | None:
    """The body; None once it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body.extend(message.get("body", b""))
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` with the body that was already read, then whatever comes after."""
    left = [body]

    async def replayed() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replayed


def wants_page(scope: Scope) -> bool:
    """Is this a person opening an address?"""
    accepts = b"".join(value for name, value in scope["headers"] if name.lower() == b"accept")
    return scope["method"] in READING and b"text/html" in accepts and not scope["path"].startswith(API)


def with_cookie(send: Send, cookie: bytes) -> Send:
    """`send` that adds a cookie to the answer."""

    async def adding(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
        await send(message)

    return adding


async def _ask_in(scope: Scope, send: Send) -> None:
    """A person is sent to the sign-in page and comes back to where they wanted; a program gets a 401."""
    if not wants_page(scope):
        await refuse(send, 401, "Sign in first, or send a token: `Authorization: Bearer …` (`sprocket users token NAME` makes one).",
                     (b"www-authenticate", b'Bearer realm="Sprocket"'))
        return
    there = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    await send({"type": "http.response.start", "status": 303, "headers": [
        (b"location", b"/signin?next=" + quote(there, safe="").encode()), (b"content-length", b"0"), (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b""})


async def refuse(send: Send, status: int, reason: str, *more: tuple[bytes, bytes]) -> None:
    """A plain answer that says why."""
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
               (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
