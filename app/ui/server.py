"""The web server: FastAPI with the media routes, our own assets, a health check, and gradio mounted at `/`.

Never imports torch. Listens on loopback unless told otherwise; see `guard.py` for who may call it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from app.sharing.access import Access
from app.ui.address import VIEWS
from app.ui.guard import Guard
from app.ui.media import SAFE, media_routes
from app.ui.monitor import Meter, monitor
from app.ui.parts import said
from app.ui.pulse import pulse_routes
from app.ui.train import training_routes
from app.ui.uploads import folder_of, upload_routes
from engine.errors import SprocketError

ASSET_TYPES = {"style.css": "text/css", "logo.svg": "image/svg+xml"}
MAX_UPLOAD = "512mb"
SHUTDOWN_SECONDS = 5


def build_app(studio: Any, access: Access | None = None) -> FastAPI:
    """The whole site over one studio. Starts no worker; creates this host's folders for uploads below the data folder, emptied.

    `access`: who may come in, for a studio that several people share; None: everybody who reaches it, as the one owner.
    """
    settings, whole = studio.settings, studio
    os.environ["GRADIO_TEMP_DIR"] = str(_fresh(settings.uploads_dir))
    _fresh(folder_of(settings))
    import gradio as gr  # after GRADIO_TEMP_DIR is set: components read it when they are built

    from app.ui.layout import ASSETS, build_ui, head, theme
    from app.ui.sessions import keep_lean
    from app.ui.shared import owned, put_gate

    studio = owned(studio, access)
    app = FastAPI(title="Sprocket", docs_url=None, redoc_url=None, openapi_url=None)
    for router in (pulse_routes(whole), training_routes(studio), media_routes(studio), upload_routes(studio)):
        app.include_router(router)

    @app.get("/studio/{name}")  # gradio has /assets itself
    def asset(name: str) -> Response:
        if name not in ASSET_TYPES:
            return PlainTextResponse("Not here.", status_code=404, headers=SAFE)
        return FileResponse(
            ASSETS / name,
            media_type=ASSET_TYPES[name],
            headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"},
        )

    app.add_api_route("/healthz", lambda: healthz(whole), methods=["GET"], response_model=None)
    metrics = monitor(app, whole, access)
    for view in VIEWS:
        app.add_api_route(f"/{view}", _short_address(view), methods=["GET"])

    gr.mount_gradio_app(
        app,
        build_ui(studio),
        path="/",
        theme=theme(),
        css_paths=[ASSETS / "style.css"],
        head=head(),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        blocked_paths=[str(settings.data_dir / "history.db")],
        favicon_path=str(ASSETS / "logo.svg"),
        i18n=None,
    )
    keep_lean(app)
    put_gate(app, access, studio)
    app.add_middleware(Guard, hosts=settings.allowed_hosts)
    app.add_middleware(Meter, metrics=metrics)
    return app


def healthz(studio: Any) -> Response:
    """Can the studio work? 503 with the reason where its history cannot be read."""
    try:
        return JSONResponse({"ok": True, "worker": bool(studio.status().worker_alive)})
    except SprocketError as error:
        return JSONResponse({"ok": False, "worker": False, "error": said(error)}, status_code=503)


def serve(studio: Any, host: str, port: int, access: Access | None = None) -> None:
    """Serves until SIGINT or SIGTERM, then returns, so that the caller can close what it opened."""
    import uvicorn

    config = uvicorn.Config(
        build_app(studio, access),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,  # whose word counts is decided by `app.sharing.access`
    )
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            uvicorn.Server(config).run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(_number: int, _frame: object) -> None:
    """uvicorn hands the signal on to the handler it found; the default one would end us before the worker is stopped."""
    raise SystemExit(0)


def _short_address(view: str) -> Callable[[Request], Response]:
    """`/gallery?clip=ID` for people; the page itself lives at `/?view=gallery&clip=ID`."""

    def redirect(request: Request) -> Response:
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "view"]
        return RedirectResponse("/?" + urlencode([("view", view), *rest]), status_code=307)

    return redirect


def _fresh(folder: Path) -> Path:
    """A private, empty folder for what browsers send. What an earlier server left behind is deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder
