"""A zip from anywhere, unpacked into a folder of ours: nothing outside it, no links, no bombs, nothing that is of no use here."""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from engine.errors import InvalidRequest
from engine.lines import one_line
from engine.video.publish import storage_errors
from training.data.files import MAX_NAME_BYTES, PICTURES
from training.data.records import Rejection
from training.data.sources import VIDEOS

MAX_ENTRIES = 5000
MAX_BYTES = 8 << 30
MAX_RATIO = 100
"""Bytes that one byte of the archive may become: videos and pictures hardly shrink, texts tenfold."""
SMALL_BYTES = 1 << 20
"""Of no matter what ratio."""
MAX_NAME = 240
TEXTS = (".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
USEFUL = (*VIDEOS, *PICTURES, *TEXTS)
PIECE = 1 << 20


def unpack(path: Path, into: Path) -> tuple[Rejection, ...]:
    """The useful files of the zip at `path` below `into`, and what was not taken with the reason.

    Raises InvalidRequest (field 'source') for what is no zip, is locked, or would be too much; `StorageBlocked`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_whole(entries)
            rejections, total = [], 0
            for entry in entries:
                reason = _refusal(entry)
                if reason is None:
                    try:
                        with storage_errors(into):
                            total += _write(archive, entry, into / PurePosixPath(entry.filename.replace("\\", "/")), MAX_BYTES - total)
                    except (FileExistsError, NotADirectoryError, IsADirectoryError):
                        reason = "is there already: the first one is kept. Give each file a name of its own."
                if reason:
                    rejections.append(Rejection(one_line(entry.filename)[:120], reason))
            return tuple(rejections)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; bz2 says of damaged data that it is an OSError
        raise InvalidRequest("source", f"the archive cannot be unpacked ({str(error)[:120]}). Make it again, as a plain zip without a "
                                       "password.") from error


def _check_whole(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidRequest("source", f"the archive has {len(entries):,} files; at most {MAX_ENTRIES:,} are unpacked. Unpack it yourself "
                                       "and give the folder.")
    size = sum(entry.file_size for entry in entries)
    if size > MAX_BYTES:
        raise InvalidRequest("source", f"the archive says it holds {size / 1e9:,.1f} GB; at most {MAX_BYTES / 1e9:.1f} GB are unpacked. "
                                       "Unpack it yourself and give the folder.")
    for entry in entries:
        if entry.file_size > SMALL_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise InvalidRequest("source", f"{one_line(entry.filename)[:80]!r} in the archive would grow {MAX_RATIO}-fold or more, as only "
                                           "a bomb does. Nothing was unpacked.")


def _refusal(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not taken; '' for what need not be told, None for what is taken."""
    name = entry.filename.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        return "would lie outside the set's folder, so it is not unpacked."
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link, which is not unpacked."
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ""
    if not name.isprintable() or len(name) > MAX_NAME:
        return "has a name that cannot be used here. Rename it."
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"has a name of more than {MAX_NAME_BYTES} bytes (Chinese and Japanese characters have three each). Rename it."
    if PurePosixPath(name).suffix.lower() not in USEFUL:
        return "is of a kind that is not used here, and was not unpacked."
    return None


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Bytes written. Counted as they come: what an archive says of itself may be a lie."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(entry) as source, target.open("xb") as file:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > most or size > entry.file_size:
                raise InvalidRequest("source", f"{one_line(entry.filename)[:80]!r} in the archive is larger than it says. It is damaged or "
                                               "made to do harm.")
            file.write(piece)
    return size
