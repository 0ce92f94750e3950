"""Signing in and out over HTTP.

    GET  /signin[?next=/…]     the page
    POST /signin               name, password, next as a form -> a session in a cookie, and back to `next`
    POST /signout              the session is over
"""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from app.sharing.access import COOKIE, Access, TooManyAttempts
from app.ui.html.signin import signin_html
from app.ui.parts import said
from engine.errors import SprocketError

MOST_FORM = 8192
POLICY = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}


def signin_routes(access: Access) -> APIRouter:
    """The routes over one doorkeeper."""
    router, gallery = APIRouter(), access.sharing.open_gallery

    @router.get("/signin")
    def page(request: Request) -> Response:
        return HTMLResponse(signin_html(there=own_place(request.query_params.get("next", "/")), gallery=gallery), headers=HEADERS)

    @router.post("/signin")
    async def sign_in(request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return HTMLResponse(signin_html(said="That was too much for a name and a password."), 413, headers=HEADERS)
        there, name = own_place(form.get("next", "/")), form.get("name", "")[:100]
        peer = request.client.host if request.client else ""
        headers = request.scope["headers"]
        try:
            token = await run_in_threadpool(access.sign_in, name, form.get("password", ""), access.address(peer, headers))
        except TooManyAttempts as error:
            wait = {"Retry-After": str(int(error.seconds) + 1)}
            return HTMLResponse(signin_html(there=there, said=str(error), name=name, gallery=gallery), 429, headers=HEADERS | wait)
        except SprocketError as error:
            words = said(error) if error.code == "sign_in_refused" else "Nobody can sign in just now: the users file is damaged."
            return HTMLResponse(signin_html(there=there, said=words, name=name, gallery=gallery), 401, headers=HEADERS)
        answer = RedirectResponse(there, status_code=303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(COOKIE, token, max_age=int(access.sharing.session_seconds), httponly=True, samesite="lax", path="/",
                          secure=access.is_https(peer, request.url.scheme, headers))
        return answer

    @router.post("/signout")
    def sign_out(request: Request) -> Response:
        access.sign_out(request.scope["headers"])
        answer = RedirectResponse("/signin", status_code=303, headers={"Cache-Control": "no-store", "Clear-Site-Data": '"storage"'})
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return router


def own_place(there: str) -> str:
    """`there` if it is a path of this site, else the first page: nobody is sent elsewhere by a link to the sign-in page."""
    plain = there.startswith("/") and not there.startswith(("//", "/\\")) and there.isprintable() and "\\" not in there
    return there if plain and len(there) < 2000 and not there.startswith(("/signin", "/signout")) else "/"


async def _form(request: Request) -> dict[str, str] | None:
    """The fields; None when there is more than any form of ours sends."""
    body = bytearray()
    async for chunk in request.stream():
        body.extend(chunk)
        if len(body) > MOST_FORM:
            return None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
