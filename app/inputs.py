"""Taking in images and videos that clips start from: looked at in a limited process, then copied under their own hash.

    data folder/inputs/<sha256>.png

Nothing else may write there, and requests name inputs by hash only: no path ever comes from the network.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from app.history.records import Clip
from app.settings import Settings
from engine.errors import InvalidRequest
from engine.inputs import input_name
from engine.media.kinds import HEAD_BYTES, kind_of
from engine.media.probe import DEFAULT_LIMITS, probe_image, probe_video
from engine.video.publish import storage_errors

ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "AVIF": "avif",
           "mp4": "mp4", "matroska": "mkv", "avi": "avi"}
"""Of what the file is, never of what it is called."""


def add_file(settings: Settings, path: Path, field: str | None = None) -> str:
    """The input's name. `field`: 'image' or 'video'; None takes either. Raises InvalidRequest, StorageBlocked."""
    part = _part(settings)
    with storage_errors(settings.inputs_dir):
        try:
            copy_in(path, part, field or "image", DEFAULT_LIMITS.video_bytes)
            return _keep(settings, part, field)  # what was looked at is what is kept, even if the original changes meanwhile
        finally:
            part.unlink(missing_ok=True)


def add_frame(settings: Settings, file: Path, clip: Clip, frame: int | None) -> str:
    """Frame number `frame` of the clip in `file` as a PNG; None: the last one. Raises InvalidRequest (field 'at'), StorageBlocked."""
    from PIL import Image  # with PyAV half a second, and seldom needed

    from engine.media.clip import read_frames

    number = clip.frames - 1 if frame is None else frame
    if not 0 <= number < clip.frames:
        raise InvalidRequest("at", f"is {number}; the clip has {clip.frames} frames, counted from 0. Use 0 to {clip.frames - 1}.",
                             suggestion=min(max(number, 0), clip.frames - 1))
    pixels = read_frames(file, frames=1, width=clip.width, height=clip.height, fit="crop", start=number, field="at")
    part = _part(settings)
    with storage_errors(settings.inputs_dir):
        try:
            Image.fromarray(pixels[0]).save(part, "PNG")
            return _keep(settings, part, "image")
        finally:
            part.unlink(missing_ok=True)


def _part(settings: Settings) -> Path:
    settings.inputs_dir.mkdir(mode=0o700, exist_ok=True)
    return settings.inputs_dir / f"{secrets.token_hex(8)}.part"


def copy_in(path: Path, part: Path, field: str, most: int) -> None:
    """`path` into `part`, on the disk when it returns. Raises `InvalidRequest` (`field`) for what is no file of at most `most` bytes."""
    try:
        if not path.is_file():
            raise InvalidRequest(field, f"is {str(path)[:200]!r}; there is no such file. Choose another.")
        if path.stat().st_size > most:  # before the disk is filled with it; what is in it is looked at after
            raise InvalidRequest(field, f"has {path.stat().st_size / 1e6:,.0f} MB; at most {most / 1e6:,.0f} MB are read. "
                                        + ("Is this a whole model?" if field == "loras" else "Cut or compress it first."))
        source = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InvalidRequest(field, f"is {str(path)[:200]!r}; it cannot be opened ({error}). Choose another file.") from error
    with source, part.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def _keep(settings: Settings, part: Path, field: str | None) -> str:
    """Under its own name, once it is known to be a sound image or video. An equal file that is there already stays."""
    with part.open("rb") as file:
        family = kind_of(file.read(HEAD_BYTES)).family
    wanted = field or ("video" if family == "video" else "image")
    facts = probe_image(part, field=wanted) if wanted == "image" else probe_video(part, field=wanted)
    name = input_name(part, ENDINGS[facts.reader])
    part.replace(settings.inputs_dir / name)
    return name
