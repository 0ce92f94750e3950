"""What a shared site has besides a private one: the gate, the sign-in page, and use-cases that know who asks."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from gradio.oauth import attach_oauth

from app.sharing.access import Access
from app.sharing.owned import OwnedStudio
from app.space.access import has_oauth
from app.ui.gate import Gate
from app.ui.public import public_routes
from app.ui.signin import signin_routes
from app.ui.visiting import visitor_here


def owned(studio: Any, access: Access | None) -> Any:
    """The studio that pages, API and media get."""
    if access is None:
        return studio
    mine = OwnedStudio(studio, visitor_here, access.sharing)
    mine.inline = access.inline
    return mine


def put_gate(app: FastAPI, access: Access | None, studio: Any) -> None:
    """Call before the Host and Origin check is put in front, and before gradio is asked for anything. `studio`: from `owned`."""
    if access is not None:
        routes = app.router.routes
        before = len(routes)
        if has_oauth():
            attach_oauth(app)
        else:
            app.include_router(signin_routes(access))
        app.include_router(public_routes(studio))
        routes[:0] = [routes.pop() for _ in range(len(routes) - before)][::-1]  # gradio, mounted at /, would answer first
        app.add_middleware(Gate, access=access)
        app.user_middleware.sort(key=lambda each: each.cls is Gate)  # the platform's session is read before the gate asks for it
