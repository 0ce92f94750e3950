"""Files on their way in from a browser: bytes to the disk, bounded, and a token for them. What is in them is looked at later.

    POST /media/uploads   the file itself as the body   ->  {"upload": token}
    act `take`            {"upload": token}             ->  `source_actions.take`: an input, restored settings, or why not

So the looking happens in the page's own line of events, one at a time, and nothing but this folder can be named. In a shared studio what
waits here counts for whoever sent it, by the end of its token.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from app import storage
from app.errors import NotAllowed
from engine.errors import StorageBlocked
from engine.video.publish import storage_errors

MAX_UPLOAD_BYTES = 512 << 20
TOKEN = re.compile(r"[0-9a-f]{32}(-[0-9a-f]{16})?")
"""Drawn; then, in a shared studio, who sent the file."""
KEPT_SECONDS = 24 * 3600.0
"""A file nobody has asked for so long is deleted. Those of a set come one after the other, and are asked for once the last is here."""


def upload_routes(studio: Any, limit: int = MAX_UPLOAD_BYTES) -> APIRouter:
    """The route, with files of at most `limit` bytes each."""
    router, folder, coming = APIRouter(prefix="/media"), folder_of(studio.settings), Coming()

    @router.post("/uploads")
    async def upload(request: Request) -> Response:
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > limit:  # before the first byte
            return _refused(413, too_large(int(said), limit))
        await run_in_threadpool(sweep, folder)
        expected = int(said) if said.isdigit() else limit
        try:
            end = await run_in_threadpool(coming.begin, studio, expected)
        except NotAllowed as error:
            return _refused(429, str(error))
        except StorageBlocked as error:
            return _refused(507, str(error))
        try:
            return await _received(request, folder / f"{secrets.token_hex(16)}{end}", limit)
        finally:
            coming.over(end, expected)

    return router


class Coming:
    """Bytes that browsers are sending now. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def begin(self, studio: Any, size: int) -> str:
        """May `size` more bytes come in? If so they count, until `over`. Returns the end of the token, which says whose they are; '' in a
        studio of one. Raises NotAllowed, StorageBlocked."""
        folder = folder_of(studio.settings)

        def waiting(owner: str) -> int:
            return self._bytes[_end_of(owner)] + sum(map(_size, folder.glob(f"*{_end_of(owner)}")))

        may_send = getattr(studio, "may_send", None)
        with self._lock:
            end = "" if may_send is None else _end_of(may_send(size, waiting))
            trouble = storage.problem(studio.settings, size + self._bytes.total())
            if trouble is not None:
                raise StorageBlocked(trouble)
            self._bytes[end] += size
        return end

    def over(self, end: str, size: int) -> None:
        with self._lock:
            self._bytes[end] -= size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has just been looked at
        return 0


def _end_of(owner: str) -> str:
    return f"-{hashlib.sha256(owner.encode()).hexdigest()[:16]}"


async def _received(request: Request, path: Path, limit: int) -> Response:
    """The body at `path`, whole, or why not."""
    part = path.with_suffix(".part")
    try:
        with storage_errors(path.parent):
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
    part.replace(path)
    return JSONResponse({"upload": path.name}, headers={"Cache-Control": "no-store"})


async def _save(request: Request, part: Path, limit: int) -> int:
    """The body into `part`; stops beyond `limit`. Bytes that have come."""
    size = 0
    with part.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                break
            await run_in_threadpool(file.write, chunk)
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
        with contextlib.suppress(OSError):  # it has just been looked at, and is gone
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
