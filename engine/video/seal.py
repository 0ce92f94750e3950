"""The last thing done to a finished clip before it is checked: its mark (`marking`), and the operator's signature (`signing`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.video.marking import check_marks, mark_picture, mark_video, xmp_packet
from engine.video.publish import storage_errors
from engine.video.signing import Credentials, sign


def seal(part: Path, poster: bytes, recipe: Mapping[str, Any], signer: Credentials | None) -> bytes:
    """Marks the mp4 in place, signs it where there is a certificate, reads the marks back, and returns the marked poster (WebP).

    Raises `OutputRejected`, `StorageBlocked`, `InvalidRequest` (the certificate cannot sign).
    """
    with storage_errors(part.parent):
        packet = xmp_packet(recipe)
        mark_video(part, packet)
        marked = mark_picture(poster, packet)
        if signer is not None:
            sign(part, recipe, signer)
    check_marks(part, marked, recipe)
    return marked
