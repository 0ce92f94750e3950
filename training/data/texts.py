"""Reading the small text files of a dataset: captions, lists, tables. Nothing is guessed: what is not UTF-8 is said to be so."""

from __future__ import annotations

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest

MAX_LIST_BYTES = 64 << 20
MAX_CAPTION_BYTES = 256 << 10
MAX_ROWS = 5000
CAPTION_KEYS = ("caption", "text", "prompt", "description", "captions", "short_caption")


class Unreadable(Exception):
    """Why one small file or line cannot be used, for a rejection."""


def bytes_of(path: Path, most: int) -> bytes:
    """Raises Unreadable."""
    try:
        if path.stat().st_size > most:
            raise Unreadable(f"{path.name} has {path.stat().st_size:,} bytes; at most {most:,} are read. Is it a text file?")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read ({error.strerror}).") from error


def decoded(data: bytes, called: str) -> str:
    """UTF-8, with or without its mark, or UTF-16 with one. Raises Unreadable naming the first byte that is neither."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise Unreadable(f"{called} begins as UTF-16 and breaks off at byte {error.start:,}. Save it as UTF-8.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{called} is not UTF-8: byte {error.start + 1:,} is 0x{data[error.start]:02x}. Open it in an editor and save it "
                         "as UTF-8.") from error


def lines_of(path: Path) -> list[str | Unreadable]:
    """Every line of a list in its place, blank ones too; those at the end that are blank do not count. One that is no text is an
    `Unreadable` in its place. Raises InvalidRequest for a file that cannot be read at all."""
    try:
        data = bytes_of(path, MAX_LIST_BYTES)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            data = decoded(data, path.name).encode()
    except Unreadable as error:
        raise InvalidRequest("source", str(error)) from error
    lines: list[str | Unreadable] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), 1):
        try:
            lines.append(decoded(line, f"line {number} of {path.name}").strip())
        except Unreadable as error:
            lines.append(error)
    while lines and lines[-1] == "":
        lines.pop()
    return lines


def caption_in(path: Path) -> str:
    """The caption in a .txt, .caption or .json file beside a video; several lines are joined. Raises Unreadable."""
    text = decoded(bytes_of(path, MAX_CAPTION_BYTES), path.name)
    if path.suffix.lower() != ".json":
        return " ".join(text.split())
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is not JSON ({str(error)[:80]}).") from error
    found = caption_of(value)
    if found is None:
        raise Unreadable(f"{path.name} has none of {', '.join(CAPTION_KEYS)}.")
    return found


def caption_of(value: Any) -> str | None:
    """The caption in a JSON value: a text, the first of a list, or what an object has under one of the usual names."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list) and value:
        return caption_of(value[0])
    if isinstance(value, dict):
        return next((found for key in CAPTION_KEYS if key in value and (found := caption_of(value[key])) is not None), None)
    return None


def table_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str] | Unreadable]]]:
    """(columns, [(line number, row by column)]) of a CSV or TSV file; quotes that are doubled around a whole field, as in
    diffusers' guide, are taken off. A row of more fields than there are columns is an `Unreadable` in its place. Raises InvalidRequest."""
    try:
        text = decoded(bytes_of(path, MAX_LIST_BYTES), path.name)
    except Unreadable as error:
        raise InvalidRequest("source", str(error)) from error
    delimiter = _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows: list[tuple[int, dict[str, str] | Unreadable]] = []
    columns: list[str] = []
    try:
        for row in reader:
            values = [unquoted(each) for each in row]
            if not any(values):
                continue
            if not columns:
                columns = values
                continue
            if len(rows) >= MAX_ROWS:
                raise InvalidRequest("source", f"{path.name} has more than {MAX_ROWS:,} rows. Split it into several sets.")
            rows.append((reader.line_num, _by_column(columns, values, delimiter)))
    except csv.Error as error:
        raise InvalidRequest("source", f"{path.name} cannot be read near line {reader.line_num} ({error}).") from error
    if not columns:
        raise InvalidRequest("source", f"{path.name} is empty. Its first line must name the columns.")
    return columns, rows


def _by_column(columns: list[str], values: list[str], delimiter: str) -> dict[str, str] | Unreadable:
    """A row of a table. One field too many is a caption cut in two, unless there is nothing in it: spreadsheets end rows so."""
    if any(values[len(columns):]):
        mark = {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
        return Unreadable(f"has {len(values)} fields, the header {len(columns)}: put the caption in quotes, as a {mark} outside them ends "
                          "a field.")
    return dict(zip(columns, values + [""] * (len(columns) - len(values)), strict=False))


def _delimiter(path: Path, text: str) -> str:
    head = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv" or ("\t" in head and "," not in head):
        return "\t"
    return ";" if ";" in head and "," not in head else ","


def unquoted(text: str) -> str:
    """Without white space and one pair of quotes around all of it."""
    text = text.strip()
    return text[1:-1].strip() if len(text) >= 2 and text[0] == text[-1] == '"' else text


def json_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any] | Unreadable]]]:
    """(columns, [(line or number, row)]) of JSON lines, of a list of objects, or of {"data": [...]}; a line that is none is an
    `Unreadable` in its place. Raises InvalidRequest."""
    rows: list[tuple[int, dict[str, Any] | Unreadable]] = []
    try:
        text = decoded(bytes_of(path, MAX_LIST_BYTES), path.name)
    except Unreadable as error:
        raise InvalidRequest("source", str(error)) from error
    whole = _whole(text)
    if whole is not None:
        rows = [(number, each if isinstance(each, dict) else Unreadable(f"entry {number} of {path.name} is not an object."))
                for number, each in enumerate(whole, 1)]
    else:
        # not splitlines(): a caption may hold U+2028 and other characters that it takes for ends of lines, and JSON does not
        for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
            if line.strip():
                rows.append((number, _row(line, number, path.name)))
    if len(rows) > MAX_ROWS:
        raise InvalidRequest("source", f"{path.name} has {len(rows):,} rows; at most {MAX_ROWS:,} are read. Split it into several sets.")
    columns: dict[str, None] = {}
    for _, row in rows:
        columns |= dict.fromkeys(row) if isinstance(row, dict) else {}
    return list(columns), rows


def _whole(text: str) -> list[Any] | None:
    """The rows of a file that is one JSON value; None for JSON lines."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        inner = value.get("data")
        return inner if isinstance(inner, list) else [value]
    return value if isinstance(value, list) else None


def _row(line: str, number: int, called: str) -> dict[str, Any] | Unreadable:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"line {number} of {called} is not JSON ({str(error)[:80]}).")
    return value if isinstance(value, dict) else Unreadable(f"line {number} of {called} is not an object.")
