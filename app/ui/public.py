"""The public gallery in the page, and what of it people see who have not signed in.

    /?view=gallery&public=1[&clip=ID]     the tab, for whoever is signed in
    GET /public[?words=…&sheet=2]         a plain page without a script, for everybody else, where `SPROCKET_OPEN_GALLERY` allows it
    GET /public/{clip}

On a laptop with one owner there is none of it: nobody else would look.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.errors import NotFound
from app.history.records import Clip
from app.sharing.visitor import Role, asking
from app.ui.address import Address
from app.ui.html.common import empty, link
from app.ui.html.public import missing_html, public_clip_html, public_html, publish_html, stranger_clip_html, stranger_html
from app.ui.parts import OWNER
from app.ui.signin import HEADERS, POLICY
from engine.errors import SprocketError


def gallery_of(studio: Any) -> Any:
    """The public gallery as whoever asks may use it; None where there is none for them."""
    if getattr(studio, "visitor", None) is None or not studio.published.visible:
        return None
    return studio.published


def section(studio: Any, clip: Clip) -> str:
    """On the owner's page of a clip: Publish or Unpublish."""
    gallery = gallery_of(studio)
    may = gallery is not None and studio.visitor.role >= Role.MAKER and not clip.trashed_at and not clip.missing
    return publish_html(clip, everybody=gallery.open) if may else ""


def public_view(studio: Any, at: Address) -> str:
    """The tab, or the published clip that the address names."""
    gallery = gallery_of(studio)
    if gallery is None:
        return empty("Nothing is published here", "This studio shows nobody's clips to you.")
    if not at.clip:
        return public_html(gallery.page(at.query()), at, [spec.name for spec in studio.models()])
    try:
        clip = gallery.clip(at.clip)
    except NotFound:
        return empty("No such clip", "It was never here, or it is not published any more.",
                     action=link("Show all public clips", Address(view="gallery", public=True).href()))
    role = studio.visitor.role
    return public_clip_html(clip, at, own=_own(studio, clip.id), makes=role >= Role.MAKER, rules=role >= Role.ADMIN)


def _own(studio: Any, clip_id: str) -> bool:
    with contextlib.suppress(SprocketError):
        return bool(studio.clip(clip_id, owner=OWNER))
    return False


def public_routes(studio: Any) -> APIRouter:
    """For people who have not signed in; whoever has is sent to the tab. `studio`: as its visitor may use it."""
    router = APIRouter()
    headers = HEADERS | {"Content-Security-Policy": POLICY + "; media-src 'self'"}

    @router.api_route("/public", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        values = dict(request.query_params)
        at = Address.of({name: values[name] for name in ("words", "sheet") if name in values} | {"view": "gallery"})
        if asking.get() is not None:
            return RedirectResponse(Address(view="gallery", public=True, words=at.words, sheet=at.sheet).href(), 303)
        try:
            return HTMLResponse(stranger_html(studio.published.page(at.query()), at), headers=headers)
        except SprocketError:
            return HTMLResponse(missing_html(), 404, headers=headers)

    @router.api_route("/public/{clip_id}", methods=["GET", "HEAD"])
    def clip(clip_id: str) -> Response:
        if asking.get() is not None:
            return RedirectResponse(Address(view="gallery", public=True, clip=clip_id[:32]).href(), 303)
        try:
            return HTMLResponse(stranger_clip_html(studio.published.clip(clip_id)), headers=headers)
        except SprocketError:
            return HTMLResponse(missing_html(), 404, headers=headers)

    return router
