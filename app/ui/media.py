"""Clips, posters and previews by id, never by path, each with its own type and nothing a browser could run.

GET /media/clips/{clip}.mp4[?download=1]   Range requests answered, so that seeking works
GET /media/clips/{clip}.json               the recipe
GET /media/posters/{clip}.webp
GET /media/stills/{clip}.webp              frames of one's own clip side by side, `app.stills`
                                           mp4 and poster also of what others have published (`app.published`)
GET /media/previews/{job}.webp             changes while the job runs
GET /media/datasets/{set}/{clip}.webp, .mp4    a clip to train on: its picture, and its own file
GET /media/inputs/{name}.webp?width&height&fit&frames&fps   an image or video to start from, as it will be fitted
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from app.key_frames import KeyFrame, picture
from app.sharing.gallery import OwnedGallery
from app.stills import stills
from app.ui.parts import OWNER
from engine.errors import SprocketError

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
NEVER = {"Cache-Control": "no-store"}
ASKED = {"Cache-Control": "private, no-cache"}
"""Of what another has published: it may not be there any more."""


def media_routes(studio: Any) -> APIRouter:
    """The routes over one studio."""
    router = APIRouter(prefix="/media")
    _clip_routes(router, studio)

    @router.get("/previews/{job_id}.webp")
    def preview(job_id: str) -> Response:
        return _file(_find(lambda: studio.preview_path(job_id, owner=OWNER)), "image/webp", NEVER)

    @router.get("/datasets/{dataset_id}/{clip_id}.webp")
    def dataset_poster(dataset_id: str, clip_id: str) -> Response:
        return _file(_find(lambda: studio.datasets.poster(dataset_id, clip_id, owner=OWNER)), "image/webp", FOREVER)

    @router.api_route("/datasets/{dataset_id}/{clip_id}.mp4", methods=["GET", "HEAD"])
    def dataset_clip(dataset_id: str, clip_id: str) -> Response:
        try:
            path, kind = studio.datasets.video(dataset_id, clip_id, owner=OWNER)
        except SprocketError:
            return _nothing()
        return _file(path, kind, NEVER)

    @router.get("/keys/{job_id}/{index}.webp")
    def key_frame(job_id: str, index: int) -> Response:
        try:
            frames = {frame.index: frame for frame in studio.key_frames(job_id, owner=OWNER)}
            data = _given(studio, job_id, frames[index]) if frames[index].source == "given" else picture(frames[index])
        except (SprocketError, KeyError):
            return _nothing()
        return Response(data, media_type="image/webp", headers=SAFE | NEVER)

    @router.get("/inputs/{name}.webp")
    def fitted(name: str, width: int, height: int, fit: str = "crop", frames: int = 1, fps: float = 8.0) -> Response:
        try:
            data = studio.input_preview(name, width=width, height=height, fit=fit, frames=frames, fps=fps)
        except SprocketError:
            return _nothing()
        return Response(data, media_type="image/webp", headers=SAFE | FOREVER)

    return router


def _given(studio: Any, job_id: str, frame: KeyFrame) -> bytes:
    """An image as it will be in the clip. Raises as `input_preview`."""
    request = studio.job(job_id, owner=OWNER).request
    spec = studio.spec(request["model"])
    return studio.input_preview(frame.path.name, width=request.get("width") or spec.native_width,
                                height=request.get("height") or spec.native_height, fit=request.get("fit") or "crop")


def _clip_routes(router: APIRouter, studio: Any) -> None:
    """Those of finished clips."""

    @router.api_route("/clips/{clip_id}.mp4", methods=["GET", "HEAD"])
    def clip(clip_id: str, download: str = "") -> Response:
        found, caching = _find(lambda: studio.clip_path(clip_id, owner=OWNER)), FOREVER
        if found is None and shared(studio):
            found, caching = _find(lambda: studio.published.video(clip_id)), ASKED
        name = found.name if found and download == "1" else None
        return _file(found, "video/mp4", caching, name)

    @router.get("/clips/{clip_id}.json")
    def recipe(clip_id: str) -> Response:
        try:
            return JSONResponse(studio.clip(clip_id, owner=OWNER).recipe, headers=SAFE | NEVER)
        except SprocketError:
            return _nothing()

    @router.api_route("/posters/{clip_id}.webp", methods=["GET", "HEAD"])
    def poster(clip_id: str) -> Response:
        found, caching = _find(lambda: studio.poster_path(clip_id, owner=OWNER)), FOREVER
        if found is None and shared(studio):
            found, caching = _find(lambda: studio.published.poster(clip_id)), ASKED
        return _file(found, "image/webp", caching)

    @router.get("/stills/{clip_id}.webp")
    def film(clip_id: str) -> Response:
        try:
            clip = studio.clip(clip_id, owner=OWNER)
            path = studio.clip_path(clip_id, owner=OWNER)
            data = stills(path, frames=clip.frames, width=clip.width, height=clip.height)
        except SprocketError:
            return _nothing()
        return Response(data, media_type="image/webp", headers=SAFE | FOREVER)


def shared(studio: Any) -> bool:
    """Do several people use it, so that one may have published something for another?"""
    return isinstance(getattr(studio, "published", None), OwnedGallery)


def _find(look: Callable[[], Path | None]) -> Path | None:
    try:
        return look()
    except SprocketError:
        return None


def file_response(path: Path | None, kind: str, caching: dict[str, str], download: str | None = None) -> Response:
    """A file, or 404; with the headers every file of people's has."""
    return _file(path, kind, caching, download)


def _file(path: Path | None, kind: str, caching: dict[str, str], download: str | None = None) -> Response:
    if path is None or not path.is_file():
        return _nothing()
    return FileResponse(path, media_type=kind, headers=SAFE | caching, filename=download)


def _nothing() -> Response:
    return PlainTextResponse("Not here.", status_code=404, headers=SAFE | NEVER)
