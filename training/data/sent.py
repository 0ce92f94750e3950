"""Files that came from a browser, all into one folder of ours: archives among them are unpacked, and nothing is passed over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from engine.errors import InvalidRequest
from engine.video.publish import storage_errors
from training.data import archive
from training.data.records import Rejection
from training.data.sources import Listing, Wish, joined, list_source


def list_sent(sent: Path, files: Path, wish: Wish) -> tuple[Listing, tuple[Rejection, ...]]:
    """(what the files in the folder `sent` name, what of archives was not taken). They move to `files`, which is not there yet.

    One archive is unpacked among the other files, so that a table or captions may lie beside it; of several each is a set by itself, as
    names in them may be the same. Raises InvalidRequest, `StorageBlocked`.
    """
    packed = sorted(each for each in sent.iterdir() if each.suffix.lower() == ".zip")
    with storage_errors(files.parent):
        files.mkdir()
        loose = files if len(packed) < 2 else files / "files"
        loose.mkdir(exist_ok=True)
        for each in sent.iterdir():
            if each not in packed:
                each.rename(loose / each.name)
    if len(packed) < 2:
        refused = archive.unpack(packed[0], files) if packed else ()
        return list_source(inner(files) if packed else files, wish), refused
    parts, told = [list_source(loose, wish)] if any(loose.iterdir()) else [], []
    for number, each in enumerate(packed, 1):
        into = files / f"{number}"
        try:
            with storage_errors(files):
                into.mkdir()
            told += [replace(one, origin=f"{each.name}: {one.origin}") for one in archive.unpack(each, into)]
            parts.append(_of(list_source(inner(into), replace(wish, into=into / "tables")), each.name))
        except InvalidRequest as error:
            shutil.rmtree(into, ignore_errors=True)
            told.append(Rejection(each.name, error.message))
    return joined(f"{len(packed)} archives", parts), tuple(told)


def _of(listing: Listing, called: str) -> Listing:
    """With the archive's name before each."""
    return replace(listing, found=tuple(replace(one, origin=f"{called}: {one.origin}") for one in listing.found),
                   rejections=tuple(replace(one, origin=f"{called}: {one.origin}") for one in listing.rejections),
                   notes=tuple(f"{called}: {one}" for one in listing.notes))


def inner(folder: Path) -> Path:
    """The one folder in `folder` where there is nothing else: archives often have one around all."""
    found = [each for each in folder.iterdir() if not each.name.startswith(".")]
    return found[0] if len(found) == 1 and found[0].is_dir() else folder
