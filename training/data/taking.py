"""Found files to clips: each looked at in the limited process, decoded once, and kept by path and checksum, or refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from engine.digest import file_sha256
from engine.errors import InvalidRequest, SprocketError
from engine.lines import one_line
from engine.media.probe import probe_image, probe_video
from training.data.files import folder_sha256, pictures_in, source_path
from training.data.looks import Seen, look
from training.data.records import MAX_CAPTION_CHARS, Clip, Rejection, clip_id
from training.data.sources import Found

MOST_AT_ONCE = 4
MOST_PICTURES = 4096


@dataclass(frozen=True, slots=True)
class Taken:
    """One clip with its poster (WebP)."""

    clip: Clip
    poster: bytes


def take_all(found: Iterable[Found], folder: Path, *, inside: Path | None = None,
             progress: Callable[[int, int], None] = lambda done, of: None,
             stopped: Callable[[], bool] = lambda: False) -> tuple[list[Taken], list[Rejection]]:
    """Every found file as a clip or as a rejection, in the order they were found.

    `folder`: the dataset's own; a source below it is named relative to it. `inside`: where all sources must lie, for lists that came
    from somewhere else. `progress(done, of)` is told after each; `stopped` ends it early, with what is left refused as not looked at.
    """
    wanted = list(found)
    taken: list[Taken] = []
    rejections: list[Rejection] = []

    def one(each: Found) -> Taken | Rejection:
        if stopped():
            return Rejection(each.origin, "was not looked at: the import was stopped.", each.caption)
        return take(each, folder, inside)

    with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
        for done, answer in enumerate(pool.map(one, wanted), 1):
            if isinstance(answer, Taken):
                taken.append(answer)
            else:
                rejections.append(answer)
            progress(done, len(wanted))
    return taken, rejections


def take(found: Found, folder: Path, inside: Path | None = None) -> Taken | Rejection:
    """One of them."""
    try:
        _check_place(found.path, inside)
        if len(found.caption) > MAX_CAPTION_CHARS:
            raise InvalidRequest("caption", f"has {len(found.caption):,} characters; at most {MAX_CAPTION_CHARS:,} are kept. Shorten it.")
        clip = _frame_folder(found) if found.kind == "frames" else _video(found)
        if found.path.is_relative_to(folder):
            clip = replace(clip, source=found.path.relative_to(folder).as_posix())
        seen = look(clip, found.path)
        return Taken(replace(clip, looks=seen.looks), seen.poster)
    except InvalidRequest as error:
        return Rejection(found.origin, error.message if error.field == "video" else str(error), found.caption)
    except SprocketError as error:
        return Rejection(found.origin, str(error), found.caption)
    except OSError as error:
        return Rejection(found.origin, f"cannot be read ({error.strerror or error}).", found.caption)
    except ValueError as error:  # a NUL in its name
        return Rejection(found.origin, f"cannot be read ({error}).", found.caption)


def _check_place(path: Path, inside: Path | None) -> None:
    if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
        raise InvalidRequest("video", "points outside the set, so it is not opened.")


def _video(found: Found) -> Clip:
    facts = probe_video(found.path)
    if facts.frames < 2:
        raise InvalidRequest("video", "has a single picture, which does not move. Give a video.")
    digest = file_sha256(found.path)
    return Clip(id=clip_id(digest, 0.0, None), source=str(found.path.absolute()), sha256=digest, origin=found.origin,
                caption=one_line(found.caption), width=facts.width, height=facts.height, frames=facts.frames, fps=facts.fps,
                seconds=facts.seconds, variable=facts.variable, reader=facts.reader, stream=facts.stream, codec=facts.codec)


def _frame_folder(found: Found) -> Clip:
    pictures = pictures_in(found.path)
    if not 2 <= len(pictures) <= MOST_PICTURES:
        raise InvalidRequest("video", f"the folder has {len(pictures):,} pictures; 2 to {MOST_PICTURES:,} make a clip.")
    endings = {each.suffix.lower() for each in pictures}
    if len(endings) > 1:
        raise InvalidRequest("video", f"the folder has pictures of several kinds ({', '.join(sorted(endings))}). Save all as one kind.")
    facts = probe_image(pictures[0], field="video")
    sizes = {_size(each) for each in pictures}
    if len(sizes) > 1:
        named = " and ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3])
        raise InvalidRequest("video", f"its pictures have different sizes ({named}). Bring them to one size.")
    digest = folder_sha256(pictures)
    return Clip(id=clip_id(digest, 0.0, None), source=str(found.path.absolute()), kind="frames", sha256=digest, origin=found.origin,
                caption=one_line(found.caption), width=facts.width, height=facts.height, frames=len(pictures), fps=found.fps,
                seconds=len(pictures) / found.fps, reader=facts.reader, codec=facts.reader.lower())


def _size(path: Path) -> tuple[int, int]:
    """(width, height) by the header alone. Raises InvalidRequest."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidRequest("video", f"its picture {path.name[:60]!r} cannot be read.") from error


def split_at_cuts(clip: Clip, folder: Path, least_seconds: float) -> tuple[list[tuple[Clip, Seen]], list[Rejection]]:
    """The scenes of a clip as clips of their own, each with the clip's caption; those shorter than `least_seconds` as rejections.

    Raises InvalidRequest (field 'clip') where no cut was found, or the file has changed.
    """
    if clip.looks is None or not clip.looks.cuts:
        raise InvalidRequest("clip", "has one scene only; there is nothing to split.")
    edges = [clip.begin, *(clip.begin + cut for cut in clip.looks.cuts)]
    ends: list[float | None] = [*edges[1:], clip.end]
    scenes, short = [], []
    for number, (begin, end) in enumerate(zip(edges, ends, strict=True), 1):
        scene = replace(clip, id=clip_id(clip.sha256, begin, end), begin=begin, end=end, looks=None,
                        origin=f"{clip.origin}, scene {number}")
        if scene.length < least_seconds:
            reason = f"lasts {scene.length:.2f} s; a scene needs {least_seconds:g} s to be of use."
            short.append(Rejection(scene.origin, reason, clip.caption))
            continue
        seen = look(scene, source_path(clip, folder))
        scenes.append((replace(scene, looks=seen.looks), seen))
    return scenes, short
