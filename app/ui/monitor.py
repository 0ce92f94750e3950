"""How the site is, for machines.

    GET /readyz    200 while jobs can be taken and run, else 503 and why, in a word each
    GET /metrics   Prometheus; for admins, for whoever has the token, and on a site nobody signs in to for everybody
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from app.logs import owner_mark
from app.metrics import TYPE, Metrics
from app.sharing.access import Access
from app.sharing.visitor import SCOPE_KEY, Role, Visitor
from app.ui.guard import Receive, Scope, Send
from engine.errors import SprocketError

log = logging.getLogger("sprocket.http")
QUIET = ("/healthz", "/readyz", "/metrics")


def monitor(app: FastAPI, studio: Any, access: Access | None) -> Metrics:
    """Adds the routes. `studio`: the whole one."""
    metrics = Metrics(studio)

    @app.get("/readyz")
    def ready() -> Response:
        try:
            status = studio.status()
        except SprocketError as error:
            return JSONResponse({"ready": False, "why": [error.code]}, status_code=503)
        wrong = {"no_worker": not status.worker_alive, "storage_blocked": status.blocked_reason is not None}
        why = [word for word, so in wrong.items() if so]
        return JSONResponse({"ready": not why, "why": why}, status_code=503 if why else 200)

    @app.get("/metrics")
    def numbers(request: Request) -> Response:
        if access is not None and not may_read(request, access):
            return PlainTextResponse("Sign in as admin, or send `Authorization: Bearer` with SPROCKET_METRICS_TOKEN.", status_code=401)
        try:
            return Response(metrics.text(), media_type=TYPE)
        except SprocketError as error:
            return PlainTextResponse(f"# {error.code}\n", status_code=503)

    return metrics


def may_read(request: Request, access: Access) -> bool:
    """An admin, or the token."""
    visitor = request.scope.get(SCOPE_KEY)
    if isinstance(visitor, Visitor) and visitor.role >= Role.ADMIN:
        return True
    expected, said = access.sharing.metrics_token, request.headers.get("authorization", "")
    return bool(expected) and said[:7].lower() == "bearer " and hmac.compare_digest(said[7:].encode(), expected.encode())


class Meter:
    """ASGI middleware in front of everything: counts and logs each answer. Paths are logged without their query."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                seconds, status, path = time.perf_counter() - begun, int(message["status"]), scope["path"]
                self.metrics.answered(path, status, seconds)
                if path not in QUIET:
                    visitor = scope.get(SCOPE_KEY)
                    owner = {"owner": owner_mark(visitor.owner)} if isinstance(visitor, Visitor) else {}
                    log.info("%s %s %d", scope["method"], path, status,
                             extra={"method": scope["method"], "path": path, "status": status, "ms": round(seconds * 1000, 1), **owner})
            await send(message)

        await self.app(scope, receive, sending)
