"""What is in a folder, a list or a table: captions and where their videos are. Looks at names and texts only; opens no video.

    prompts.txt + videos.txt           line by line, blank lines in their place
    metadata.csv | .tsv | .jsonl ...   one row a clip, columns by name or chosen
    data/*.parquet                     a Hugging Face dataset as it is stored (`parquet`)
    videos, each with a .txt .caption .json of its name beside it, or in labels/
    folders of pictures                each one clip
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.lines import one_line
from training.data.files import PICTURES, pictures_in
from training.data.records import Rejection
from training.data.texts import CAPTION_KEYS, MAX_ROWS, Unreadable, caption_in, caption_of, json_rows, lines_of, table_rows

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
PROMPT_LISTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
VIDEO_LISTS = ("videos.txt", "video.txt")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
VIDEO_KEYS = ("video", "file_name", "video_path", "file_path", "path", "file", "filename", "media", "media_path", "clip")
CAPTION_FILES = (".txt", ".caption", ".json")
TABLE_FILES = (".csv", ".tsv", ".jsonl")
"""Tables by their ending; a .json may be a caption."""
ABOUT = ("readme", "license", "licence", "copying", "notice")
"""Files that are about a set, and no part of it."""
ABOUT_ENDINGS = ("", ".txt", ".md", ".rst", ".html", ".pdf")
LITTER = ("thumbs.db", "desktop.ini")
MOST_FILES = 200_000


@dataclass(frozen=True, slots=True)
class Wish:
    """How a source is to be understood, where it does not say so itself."""

    caption_column: str = ""
    """Of a table; or 'prompts.txt', the list of captions."""
    video_column: str = ""
    """Of a table; or 'videos.txt', the list of paths."""
    root: Path | None = None
    """Where relative paths begin; the folder of the list or table unless said."""
    picture_fps: float = 8.0
    """Rate at which folders of pictures are to be shown."""
    into: Path | None = None
    """A folder of ours for videos that lie inside tables."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.picture_fps <= 240:
            raise InvalidRequest("picture_fps", f"is {self.picture_fps}; allowed is 0.1 to 240 pictures a second.")


@dataclass(frozen=True, slots=True)
class Found:
    """One clip as the source names it."""

    path: Path
    caption: str
    origin: str
    kind: str = "video"
    fps: float = 0.0
    """Of a folder of pictures."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All a source names."""

    layout: str
    found: tuple[Found, ...]
    rejections: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()


def list_source(path: Path, wish: Wish) -> Listing:
    """What the folder, list or table at `path` names. Raises InvalidRequest for what is none of these, or is as a whole unreadable."""
    try:
        folder, file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise InvalidRequest("source", f"{str(path)[:200]!r} cannot be opened ({error}).") from error
    if file:
        return _list_file(path, wish)
    if not folder:
        raise InvalidRequest("source", f"{str(path)[:200]!r} is not there. Give a folder, a list (csv, tsv, jsonl, prompts.txt), a zip, or "
                                       "the id of a dataset on the hub (owner/name).")
    return _list_folder(path, wish)


def _list_file(path: Path, wish: Wish) -> Listing:
    ending = path.suffix.lower()
    if path.name.lower() in (*PROMPT_LISTS, *VIDEO_LISTS) or (ending == ".txt" and wish.video_column.endswith(".txt")):
        return _two_lists(path.parent, wish)
    if ending in TABLES:
        return _table(path, wish)
    if ending == ".parquet":
        from training.data.parquet import list_parquet

        return list_parquet([path], wish)
    if ending in VIDEOS:
        return Listing("one video", (_with_caption(path, path.parent),), ())
    raise InvalidRequest("source", f"{path.name[:100]!r} is nothing a set can be made of. Give a folder, or a file that ends in "
                                   ".csv, .tsv, .jsonl, .json, .parquet, .zip or is called prompts.txt.")


def _list_folder(folder: Path, wish: Wish) -> Listing:
    listing = _listed(folder, wish)
    if listing is None:
        return _walk(folder, wish)
    return replace(listing, rejections=(*listing.rejections, *_unnamed(folder, listing.found)))


def _listed(folder: Path, wish: Wish) -> Listing | None:
    """What the lists or tables of the folder name; None where it has none."""
    if _named(folder, PROMPT_LISTS, wish.caption_column) and _named(folder, VIDEO_LISTS, wish.video_column):
        return _two_lists(folder, wish)
    tables = [each for each in sorted(folder.iterdir()) if each.suffix.lower() in TABLE_FILES and each.is_file()
              and not _hidden(each, folder)]
    table = next((each for each in tables if each.stem.lower() == "metadata"), tables[0] if len(tables) == 1 else None)
    if table is not None:
        return _table(table, wish)
    parquets = sorted(folder.rglob("*.parquet"))
    if parquets:
        from training.data.parquet import list_parquet

        return list_parquet(parquets, wish)
    nested = sorted(each for each in folder.rglob("metadata.*") if each.suffix.lower() in TABLE_FILES)
    if nested:  # a Hugging Face videofolder with one table a split
        return joined("tables of " + folder.name, [_table(each, wish) for each in nested])
    if tables:
        names = ", ".join(each.name[:60] for each in tables[:6])
        raise InvalidRequest("source", f"{folder.name!r} has {len(tables)} tables ({names}), and which one is meant cannot be told. Give "
                                       f"the one that counts, or call it metadata{tables[0].suffix}.")
    return None


def _unnamed(folder: Path, found: Iterable[Found]) -> list[Rejection]:
    """The videos in the folder that its lists or tables say nothing of."""
    names = {os.path.normpath(each.path) for each in found}
    rest = [path for path in islice(folder.rglob("*"), MOST_FILES)
            if path.suffix.lower() in VIDEOS and str(path) not in names and not _hidden(path, folder) and path.is_file()]
    real = {_real(each.path) for each in found} if rest else set()  # by way of a link
    return _told(folder, [path for path in rest if _real(path) not in real],
                 lambda path: "is in the folder, and no line that can be read names it.")


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a name that no file can have
        return ""


def _named(folder: Path, names: Iterable[str], wished: str) -> Path | None:
    """The list of that name in `folder`; the wished one where one is wished."""
    wanted = (wished,) if wished.endswith(".txt") else tuple(names)
    return next((folder / name for name in wanted if "/" not in name and (folder / name).is_file()), None)


# ---- two lists

def _two_lists(folder: Path, wish: Wish) -> Listing:
    prompts, videos = _named(folder, PROMPT_LISTS, wish.caption_column), _named(folder, VIDEO_LISTS, wish.video_column)
    if prompts is None or videos is None:
        there = prompts or videos
        raise InvalidRequest("source", f"{folder.name!r} has {there.name if there else 'neither prompts.txt nor videos.txt'}"
                                       f"{'' if there is None else ' without ' + ('videos.txt' if prompts else 'prompts.txt')}. Both are "
                                       "needed, one line for each clip.")
    words, paths = lines_of(prompts), lines_of(videos)
    if len(words) != len(paths):
        raise InvalidRequest("source", f"{prompts.name} has {len(words):,} lines and {videos.name} {len(paths):,} (blank ones count, those "
                                       f"at the end do not), so captions and videos do not match. {_where(words, paths)}")
    found, rejections = [], []
    for number, (caption, name) in enumerate(zip(words, paths, strict=True), 1):
        origin = f"line {number} of {videos.name}"
        if isinstance(name, Unreadable) or isinstance(caption, Unreadable):
            rejections.append(Rejection(origin, str(name if isinstance(name, Unreadable) else caption)))
        elif name:
            found.append(_placed(name, caption, origin, wish.root or folder, wish))
        elif caption:
            reason = f"is blank, and line {number} of {prompts.name} is not: a caption without a video."
            rejections.append(Rejection(origin, reason, caption))
    return _listing(f"{prompts.name} and {videos.name}", found, rejections)


def _where(words: list[Any], paths: list[Any]) -> str:
    """Where to look for the line too many: the first place where one list is blank and the other is not."""
    for number, (caption, name) in enumerate(zip(words, paths, strict=False), 1):
        if (caption == "") != (name == ""):
            return f"Line {number} is the first that is blank in only one of them."
    number = min(len(words), len(paths)) + 1
    rest = (words if len(words) > len(paths) else paths)[number - 1]
    return f"Line {number} is the first without a partner: {str(rest)[:80]!r}."


# ---- tables

def _table(path: Path, wish: Wish) -> Listing:
    rows: Iterable[tuple[int, Mapping[str, Any] | Unreadable]]
    columns, rows = table_rows(path) if path.suffix.lower() in (".csv", ".tsv") else json_rows(path)
    video, caption = chosen_columns(columns, wish, path.name)
    found, rejections = [], []
    for number, row in rows:
        origin = f"line {number} of {path.name}"
        if isinstance(row, Unreadable):
            rejections.append(Rejection(origin, str(row)))
            continue
        name, words = row.get(video), caption_of(row.get(caption)) or ""
        if isinstance(name, dict):
            name = name.get("path")
        if not isinstance(name, str) or not name.strip():
            rejections.append(Rejection(origin, f"has nothing in the column {video!r}: a caption without a video.", words))
        else:
            found.append(_placed(name, words, origin, wish.root or path.parent, wish))
    return _listing(f"the table {path.name} (videos: {video}, captions: {caption or 'none'})", found, rejections)


def chosen_columns(columns: list[str], wish: Wish, called: str) -> tuple[str, str]:
    """(column of videos, column of captions or ''). Raises InvalidRequest naming the columns there are."""
    there = ", ".join(repr(each[:40]) for each in columns[:20]) or "none"
    for field, wished in (("video_column", wish.video_column), ("caption_column", wish.caption_column)):
        if wished and wished not in columns:
            raise InvalidRequest(field, f"is {wished[:60]!r}; {called} has the columns {there}.")
    lower = {each.lower().strip(): each for each in reversed(columns)}
    video = wish.video_column or next((lower[key] for key in VIDEO_KEYS if key in lower), "")
    caption = wish.caption_column or next((lower[key] for key in CAPTION_KEYS if key in lower), "")
    if not video:
        raise InvalidRequest("video_column", f"cannot be told: {called} has the columns {there}. Say which one names the videos "
                                             "(--video-column), and which one the captions (--caption-column).")
    return video, caption


# ---- videos beside texts, folders of pictures

def _walk(folder: Path, wish: Wish) -> Listing:
    found: list[Found] = []
    rest: list[Path] = []
    rejections: list[Rejection] = []
    for index, path in enumerate(sorted(folder.rglob("*"))):
        if index > MOST_FILES:
            raise InvalidRequest("source", f"{folder.name!r} has more than {MOST_FILES:,} files. Give the folder of the clips themselves.")
        if _hidden(path, folder):
            continue
        if path.is_dir():
            try:
                if len(pictures_in(path)) > 1 and not any(each.suffix.lower() in VIDEOS for each in path.iterdir()):
                    found.append(_with_caption(path, folder, "frames", wish.picture_fps))
            except OSError as error:  # whose files `rglob` passes over
                origin = one_line(str(path.relative_to(folder)))
                rejections.append(Rejection(origin, f"is a folder that cannot be opened ({error.strerror})."))
        elif path.suffix.lower() in VIDEOS:
            found.append(_with_caption(path, folder))
        else:
            rest.append(path)
    if not found and len(pictures_in(folder)) > 1:
        found.append(_with_caption(folder, folder.parent, "frames", wish.picture_fps))
    good = [each for each in found if not isinstance(each.caption, Unreadable)]
    rejections += [Rejection(each.origin, str(each.caption)) for each in found if isinstance(each.caption, Unreadable)]
    unused, notes = _unused(folder, found, rest)
    pictured = sum(each.kind == "frames" for each in good)
    layout = "folders of pictures" if pictured and pictured == len(good) else "a folder of videos"
    return _listing(layout, good, [*rejections, *unused], notes)


def _unused(folder: Path, found: list[Found], rest: list[Path]) -> tuple[list[Rejection], list[str]]:
    """(what of the `rest` of the files became no part of a clip, what is said of those that lie beside clips)."""
    captions = {caption_file(each.path) for each in found}
    shown = {each.path for each in found if each.kind == "frames"}
    stems = {each.path.with_suffix("") for each in found if each.kind == "video"}
    rest = [path for path in rest if path not in captions and not (path.suffix.lower() in PICTURES and path.parent in shown)]
    loose = sum(path.suffix.lower() in PICTURES for path in rest)
    second = {path for path in rest if path.suffix.lower() in CAPTION_FILES and path.with_suffix("") in stems}
    notes = []
    if loose:
        notes.append(f"{loose} picture{'s' if loose > 1 else ''} lying beside the clips {'are' if loose > 1 else 'is'} not "
                     "used: only videos and folders of pictures are clips.")
    if second:
        notes.append(f"{len(second)} file{'s' if len(second) > 1 else ''} beside clips {'are' if len(second) > 1 else 'is'} not used: each "
                     f"of these clips has a caption already. Of {', '.join(CAPTION_FILES)} the first one counts.")
    return _told(folder, [path for path in rest if path not in second and path.suffix.lower() not in PICTURES], _why_unused), notes


def _told(folder: Path, paths: list[Path], why: Callable[[Path], str]) -> list[Rejection]:
    """Each with its reason, save for what is about the set; no more of them than a set may have clips."""
    paths = [path for path in paths if not _is_about(path)]
    told = [Rejection(one_line(str(path.relative_to(folder))), why(path)) for path in paths[:MAX_ROWS]]
    if len(paths) > MAX_ROWS:
        told.append(Rejection(folder.name, f"has {len(paths) - MAX_ROWS:,} more files that are not used."))
    return told


def _is_about(path: Path) -> bool:
    ending = path.suffix.lower()
    return path.name.lower() in LITTER or (path.stem.lower() in ABOUT and ending in ABOUT_ENDINGS)


def _why_unused(path: Path) -> str:
    ending = path.suffix.lower()
    if ending in (".txt", ".caption"):
        return "is a caption without a video of the same name beside it."
    if ending == ".json":
        return "is the caption of no video beside it. If it is a table, give it by itself."
    if ending in TABLE_FILES:
        return "is a table further down. Give it by itself, or call it metadata."
    if ending == ".zip":
        return "is an archive in a folder, which is not unpacked. Give it by itself, or unpack it."
    return "is of a kind that is not used here. Videos are mp4, mov, mkv, webm or avi."


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _with_caption(path: Path, folder: Path, kind: str = "video", fps: float = 0.0) -> Found:
    """With the caption of the file beside it; one that cannot be read is an `Unreadable` in its place."""
    text = caption_file(path)
    caption: Any = ""
    if text is not None:
        try:
            caption = caption_in(text)
        except Unreadable as error:
            caption = error
    return Found(path, caption, str(path.relative_to(folder)), kind, fps)


def caption_file(path: Path) -> Path | None:
    """`a/1.txt` of `a/1.mp4`, else `labels/1.txt` beside a folder `videos`; of a folder of pictures also `caption.txt` in it."""
    places = [path.with_suffix(ending) if path.suffix.lower() in VIDEOS else path.with_name(path.name + ending) for ending in CAPTION_FILES]
    if path.suffix.lower() in VIDEOS:
        places += [path.parent.parent / "labels" / (path.stem + ending) for ending in CAPTION_FILES]
    elif there(path.is_dir):
        places += [path / ("caption" + ending) for ending in CAPTION_FILES]
    return next((each for each in places if there(each.is_file)), None)


# ---- common

def there(asked: Callable[[], bool]) -> bool:
    """What a file system says of a name; False for one that it cannot be asked for, too long or with a NUL in it."""
    try:
        return asked()
    except (OSError, ValueError):
        return False


def _placed(name: str, caption: str, origin: str, root: Path, wish: Wish) -> Found:
    """`name` of a list, below `root`. Where it may not leave `root`, one that does is no path at all, and told so when taken."""
    path = root / name.replace("\\", "/") if "\\" in name and not there((root / name).exists) else root / name
    folder = there(path.is_dir)
    return Found(path, one_line(caption), f"{origin} ({one_line(name)[:120]})", "frames" if folder else "video",
                 wish.picture_fps if folder else 0.0)


def _listing(layout: str, found: list[Found], rejections: list[Rejection], notes: Iterable[str] = ()) -> Listing:
    if len(found) > MAX_ROWS:
        raise InvalidRequest("source", f"names {len(found):,} clips; at most {MAX_ROWS:,} make one set. Split it.")
    return Listing(layout, tuple(found), tuple(rejections), tuple(notes))


def joined(layout: str, parts: Iterable[Listing]) -> Listing:
    """Several as one. Raises InvalidRequest for too many clips."""
    parts = list(parts)
    return _listing(layout, [one for part in parts for one in part.found], [one for part in parts for one in part.rejections],
                    [one for part in parts for one in part.notes])
