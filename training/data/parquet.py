"""Hugging Face datasets as they are stored: parquet files with a column of videos (bytes, or paths) and one of captions.

Read with pyarrow where it is installed (`pip install pyarrow`); the `datasets` library is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from engine.errors import InvalidRequest
from engine.lines import one_line
from engine.media.kinds import HEAD_BYTES, kind_of
from engine.video.publish import storage_errors
from training.data.records import Rejection
from training.data.sources import Found, Listing, Wish, chosen_columns
from training.data.texts import MAX_ROWS, caption_of

ENDINGS = {"mp4": ".mp4", "matroska": ".mkv", "avi": ".avi"}
BATCH = 16


def list_parquet(files: Iterable[Path], wish: Wish) -> Listing:
    """The rows of parquet `files`; videos stored as bytes are written below `wish.into`. Raises InvalidRequest, `StorageBlocked`."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InvalidRequest("source", "is stored as parquet, which is read with pyarrow, and that is not installed. "
                                       "`pip install pyarrow`, or export the set as videos with a metadata.csv.") from None
    found: list[Found] = []
    rejections: list[Rejection] = []
    columns: list[str] = []
    for file in files:
        try:
            table = parquet.ParquetFile(file)
            columns = list(table.schema_arrow.names)
            video, caption = chosen_columns(columns, wish, file.name)
            number = 0
            for batch in table.iter_batches(BATCH, columns=[each for each in (video, caption) if each]):
                for row in batch.to_pylist():
                    number += 1
                    _row(row, video, caption, f"row {number} of {file.name}", file, wish, found, rejections)
                    if len(found) > MAX_ROWS:
                        raise InvalidRequest("source", f"has more than {MAX_ROWS:,} rows. Split it into several sets.")
        except (pyarrow.ArrowException, OSError) as error:
            raise InvalidRequest("source", f"{file.name} cannot be read as parquet ({str(error)[:120]}). Fetch it again.") from error
    return Listing(f"a table in parquet (columns: {', '.join(columns[:8])})", tuple(found), tuple(rejections))


def _row(row: dict[str, Any], video: str, caption: str, origin: str, file: Path, wish: Wish, found: list[Found],
         rejections: list[Rejection]) -> None:
    value, words = row.get(video), one_line(caption_of(row.get(caption)) or "") if caption else ""
    if isinstance(value, str):
        value = {"path": value, "bytes": None}
    if isinstance(value, bytes):
        value = {"path": None, "bytes": value}
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        rejections.append(Rejection(origin, f"has no video in the column {video!r}.", words))
    elif value.get("bytes"):
        path = _written(value["bytes"], len(found), wish)
        found.append(Found(path, words, f"{origin} ({PurePath(str(value.get('path') or path.name)).name[:80]})"))
    else:
        found.append(Found((wish.root or file.parent) / value["path"], words, f"{origin} ({one_line(str(value['path']))[:80]})"))


def _written(data: bytes, number: int, wish: Wish) -> Path:
    if wish.into is None:
        raise InvalidRequest("source", "holds the videos themselves, and there is no folder to put them in.")
    ending = ENDINGS.get(kind_of(data[:HEAD_BYTES]).reader, ".bin")  # what is no video is refused with its reason when it is looked at
    path = wish.into / f"{number:05d}{ending}"
    with storage_errors(wish.into):
        wish.into.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path
