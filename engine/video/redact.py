"""A copy of a clip whose recipe says less, for handing on: every other byte but the signature's is the original's.

The recipe is JSON text somewhere in the mp4's metadata. The shorter one is written over it and filled up with blanks, which JSON allows
after a value; so no box changes its length and no offset of a frame is touched.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest, OutputRejected
from engine.video.publish import make_folder, storage_errors
from engine.video.signing import Credentials, sign

C2PA_UUID = bytes.fromhex("D8FEC3D61B0E483C92975828877EC481")
"""Of the box that holds a signature (C2PA specification 2.1, A.5.3)."""
MOST_COPIES = 8
"""Of one recipe in one file; ours has one."""


def redacted(source: Path, target: Path, recipe: Mapping[str, Any], signer: Credentials | None) -> None:
    """Writes `target`, atomically: `source` with `recipe` in place of its own, signed anew by `signer` where it was signed.

    Raises OutputRejected for a file whose recipe is not found, is shorter than the new one, or whose signature cannot be renewed;
    StorageBlocked, OSError.
    """
    before = recipe_text(source)
    after = json.dumps(recipe, ensure_ascii=False, sort_keys=True).encode()
    if len(after) > len(before):
        raise OutputRejected(f"the recipe in {source.name} has {len(before)} bytes and what may be shown of it {len(after)}; it cannot be "
                             "written over. The clip was not made by this version of Sprocket.")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")  # several may ask for the first copy at once
    with storage_errors(target.parent):
        make_folder(target.parent)
        try:
            shutil.copyfile(source, part)
            signed = _overwrite(part, before, after.ljust(len(before)))
            if signed and signer is None:
                raise OutputRejected(f"{source.name} is signed, and a copy that says less breaks the signature. Set SPROCKET_C2PA_CERT and "
                                     "SPROCKET_C2PA_KEY again, so that the copy can be signed.")
            if signed and signer is not None:
                sign(part, recipe, signer)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def recipe_text(path: Path) -> bytes:
    """The recipe as it stands in the file. Raises OutputRejected where there is none."""
    from engine.media.probe import probe_video

    try:
        text = probe_video(path, field="file").recipe  # in the limited process: the file may have been put there
    except InvalidRequest as error:
        raise OutputRejected(f"{path.name} cannot be read: {error.message}") from error
    if not text:
        raise OutputRejected(f"{path.name} carries no recipe: another program took it out, and what else it did is not known.")
    return text.encode()


def _overwrite(path: Path, before: bytes, after: bytes) -> bool:
    """Replaces `before` wherever it stands; both are of one length. Is the file signed?"""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at, found = data.find(before), 0
        while at >= 0 and found < MOST_COPIES:
            data[at:at + len(before)] = after
            at, found = data.find(before, at + len(before)), found + 1
        if not found or at >= 0:
            raise OutputRejected(f"the recipe in {path.name.strip('.')} is not where it was read from.")
        signed = data.find(C2PA_UUID) >= 0
        data.flush()
        os.fsync(file.fileno())
    return signed
