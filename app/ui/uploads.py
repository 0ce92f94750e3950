"""Files on their way in from a browser: bytes to the disk, bounded, and a token for them. What is in them is looked at later.

    POST /media/uploads   the file itself as the body   ->  {"upload": token}
    act `take`            {"upload": token}             ->  `source_actions.take`: an input, restored settings, or why not

So the looking happens in the page's own line of events, one at a time, and nothing but this folder can be named.
"""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from engine.errors import StorageBlocked
from engine.video.publish import storage_errors

MAX_UPLOAD_BYTES = 512 << 20
TOKEN = re.compile(r"[0-9a-f]{32}")
KEPT_SECONDS = 24 * 3600.0
"""A file nobody has asked for so long is deleted. Those of a set come one after the other, and are asked for once the last is here."""


def upload_routes(folder: Path, limit: int = MAX_UPLOAD_BYTES) -> APIRouter:
    """The route, with files below `folder`, each of at most `limit` bytes."""
    router = APIRouter(prefix="/media")

    @router.post("/uploads")
    async def upload(request: Request) -> Response:
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > limit:  # before the first byte
            return _refused(413, too_large(int(said), limit))
        sweep(folder)
        token = secrets.token_hex(16)
        part = folder / f"{token}.part"
        try:
            with storage_errors(folder):
                size = await _save(request, part, limit)
        except StorageBlocked as error:
            part.unlink(missing_ok=True)
            return _refused(507, str(error))
        except BaseException:  # the browser has gone
            part.unlink(missing_ok=True)
            raise
        if size > limit:
            part.unlink(missing_ok=True)
            return _refused(413, too_large(size, limit))
        part.replace(folder / token)
        return JSONResponse({"upload": token}, headers={"Cache-Control": "no-store"})

    return router


async def _save(request: Request, part: Path, limit: int) -> int:
    """The body into `part`; stops beyond `limit`. Bytes that have come."""
    size = 0
    with part.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                break
            file.write(chunk)
    return size


def uploaded(folder: Path, token: object) -> Path | None:
    """The file of a token; None when there is none (any more)."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        return None
    path = folder / token
    return path if path.is_file() else None


def sweep(folder: Path, older: float = KEPT_SECONDS) -> None:
    """Deletes what was sent and never asked for, and what never came to its end."""
    for path in folder.iterdir():
        if path.is_file() and TOKEN.fullmatch(path.stem) and time.time() - path.stat().st_mtime > older:
            path.unlink(missing_ok=True)


def too_large(size: int, limit: int = MAX_UPLOAD_BYTES) -> str:
    return (f"The file has {size / 1e6:,.0f} MB or more; at most {limit / 1e6:,.0f} MB come in through the page. Cut or compress it first, "
            "or give it to `sprocket generate --video`, which takes more.")


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers={"Cache-Control": "no-store", "Connection": "close"})


def folder_of(settings: Any) -> Path:
    """Where files wait to be looked at; `server.build_app` empties it at each start. Not gradio's own folder, which gradio serves."""
    return Path(settings.incoming_dir)
