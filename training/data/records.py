"""A set of clips to train on, as frozen values and as JSON.

The manifest is the only thing that is ever written: sources are named by path and sha256, captions and choices live here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidRequest, SprocketError
from engine.lines import one_line

if TYPE_CHECKING:
    from engine.media.clip import Span

SCHEMA = 1
MAX_CAPTION_CHARS = 4000
MAX_PREFIX_CHARS = 60
MAX_NAME_CHARS = 80
SPLITS = ("train", "held-out")
DATASET_ID = re.compile(r"[0-9a-f]{12}")
CLIP_ID = re.compile(r"[0-9a-f]{16}")


class DatasetDamaged(SprocketError):
    """A manifest is there and cannot be read."""

    code = "dataset_damaged"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something of the source that did not become a clip."""

    origin: str
    """Where it was named: 'prompts.txt line 3', 'b/2.mp4'."""
    reason: str
    """What is wrong, and what to do."""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Looks:
    """What was seen in a clip when it was taken in."""

    hashes: tuple[str, ...]
    """Perceptual hashes of three of its pictures, 16 hex digits each: first, middle, last."""
    colours: tuple[str, ...]
    """Mean colours of the same three, 4 x 4 places of RGB, 96 hex digits each."""
    still: float
    """Share of steps of an eighth of a second with hardly any change, 0 to 1 (`looks.STILL_STEP`)."""
    motion: float
    """Mean change of such a step, levels of 255."""
    cuts: tuple[float, ...]
    """Where another scene begins, seconds from the clip's own beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip: a part of a video file, or a folder of pictures."""

    id: str
    """16 hex digits of what it shows: source and part. Two clips of one id would be the same clip twice."""
    source: str
    """Absolute path; or relative to the dataset's own folder for what came out of an archive."""
    kind: str = "video"
    """'video' or 'frames' (a folder of pictures)."""
    sha256: str
    """Of the file; of all names and contents of a folder."""
    origin: str
    caption: str
    said_by: str = "file"
    """Who the caption is from: 'file', 'hand', or the name of the model that described it."""
    width: int
    """As it is to be seen: upright, with square pixels."""
    height: int
    frames: int
    """Stored pictures of the whole file."""
    fps: float
    """Average rate of the file; of a folder of pictures the rate they are meant to be shown at."""
    seconds: float
    """Of the whole file."""
    variable: bool = False
    """The time from picture to picture varies."""
    reader: str = ""
    stream: int = 0
    codec: str = ""
    begin: float = 0.0
    """Seconds from the file's first picture on."""
    end: float | None = None
    """Seconds; None: the end of the file."""
    used: bool = True
    """False where a person has left it out."""
    looks: Looks | None = None

    @property
    def span(self) -> Span:
        return (self.begin, self.end)

    @property
    def length(self) -> float:
        """Seconds of this part."""
        return max(0.0, (self.seconds if self.end is None else min(self.end, self.seconds)) - self.begin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A set of clips, all that was refused, and how the clips are to be read."""

    id: str
    owner: str
    name: str
    source: str
    """What was imported, for people."""
    layout: str
    """How it was understood: 'prompts.txt and videos.txt', 'a folder of videos', ..."""
    created_at: float
    changed_at: float
    clips: tuple[Clip, ...]
    rejections: tuple[Rejection, ...] = ()
    prefix: str = ""
    """A word put before every caption, with a space: the token that calls the concept."""
    held_out: float = 0.1
    """Share of the sources that is not trained on, 0 to 0.5."""
    seed: int = 0
    """Which ones: another seed, other clips."""
    fit: str = "crop"
    """How a clip of another shape goes into the frame: 'crop' or 'pad'."""
    skip_start: int = 0
    """Pictures of each clip passed over at its beginning, counted at the file's own rate."""
    skip_end: int = 0
    long: str = "pieces"
    """Clips longer than the longest bucket: cut into 'pieces' of its length, or only the 'first' frames taken."""
    notes: tuple[str, ...] = ()
    """What a person should know about how it was taken in."""
    schema: int = field(default=SCHEMA)

    @property
    def used(self) -> tuple[Clip, ...]:
        """Clips that are not left out by hand."""
        return tuple(clip for clip in self.clips if clip.used)

    def clip(self, clip_id: str) -> Clip:
        """Raises InvalidRequest (field 'clip')."""
        for clip in self.clips:
            if clip.id == clip_id:
                return clip
        raise InvalidRequest("clip", f"{str(clip_id)[:40]!r} is not in {self.name!r}. `sprocket dataset check` lists its clips.")

    def text(self, clip: Clip) -> str:
        """What is trained on: the prefix, a space, the caption."""
        return " ".join(part for part in (self.prefix, clip.caption) if part)

    def span(self, clip: Clip) -> Span:
        """The part of the file that is read, with what is skipped taken off."""
        rate = clip.fps or 25.0
        begin = clip.begin + self.skip_start / rate
        if not self.skip_end:
            return (begin, clip.end)
        return (begin, (clip.seconds if clip.end is None else clip.end) - self.skip_end / rate)

    def splits(self) -> dict[str, str]:
        """Clip id -> 'train' or 'held-out' for every clip in use.

        The sources with the smallest hash of (seed, sha256) are held out, as many as the share says: all parts of one file are on
        one side. Where anything is held out, at least one is, and at least one is trained on.
        """
        clips = self.used
        sources = sorted({clip.sha256 for clip in clips}, key=lambda each: hashlib.sha256(f"{self.seed}|{each}".encode()).digest())
        count = min(max(1, round(len(sources) * self.held_out)), len(sources) - 1) if self.held_out > 0 and sources else 0
        held = set(sources[:count])
        return {clip.id: "held-out" if clip.sha256 in held else "train" for clip in clips}

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return dataclasses.asdict(self)


def clip_id(sha256: str, begin: float, end: float | None) -> str:
    """16 hex digits for a part of a source."""
    return hashlib.sha256(f"{sha256}|{begin:.6f}|{'' if end is None else f'{end:.6f}'}".encode()).hexdigest()[:16]


def checked_caption(text: str) -> str:
    """Raises InvalidRequest (field 'caption') for one that is too long."""
    line = one_line(text)
    if len(line) > MAX_CAPTION_CHARS:
        raise InvalidRequest("caption", f"has {len(line):,} characters; at most {MAX_CAPTION_CHARS:,} are kept, and models read some 1,000 "
                                        "of them. Shorten it.")
    return line


def checked_name(text: str, field_name: str = "name") -> str:
    """Raises InvalidRequest for an empty or long name."""
    line = one_line(text)
    if not 1 <= len(line) <= MAX_NAME_CHARS:
        raise InvalidRequest(field_name, f"must have 1 to {MAX_NAME_CHARS} characters, not {len(line):,}.")
    return line


def write_json(dataset: Dataset) -> bytes:
    return json.dumps(dataset.to_json(), ensure_ascii=False, indent=1, sort_keys=True).encode()


def read_json(path: Path) -> Dataset:
    """Raises DatasetDamaged for a manifest that is not whole or is of a later version; OSError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise ValueError(f"it is of version {str(values['schema'])[:20]}, and this Sprocket reads {SCHEMA}")
        clips = tuple(_clip(each) for each in values.pop("clips"))
        rejections = tuple(Rejection(**each) for each in values.pop("rejections"))
        return Dataset(**values | {"clips": clips, "rejections": rejections, "notes": tuple(values["notes"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetDamaged(f"the manifest {path} cannot be read ({type(error).__name__}: {str(error)[:120]}). Import the set again: "
                             "its files were never touched.") from error


def _clip(values: Mapping[str, Any]) -> Clip:
    looks = values["looks"]
    seen = None if looks is None else Looks(tuple(looks["hashes"]), tuple(looks["colours"]), float(looks["still"]),
                                            float(looks["motion"]), tuple(looks["cuts"]))
    return Clip(**{**values, "looks": seen})


def unique(clips: Iterable[Clip]) -> tuple[tuple[Clip, ...], tuple[Rejection, ...]]:
    """Clips by id, the first of each; the others told as rejections."""
    kept: dict[str, Clip] = {}
    again = []
    for clip in clips:
        if clip.id in kept:
            again.append(Rejection(clip.origin, f"is the same file as {kept[clip.id].origin}, byte for byte. It is kept once; give it only "
                                                "one caption.", clip.caption))
        else:
            kept[clip.id] = clip
    return tuple(kept.values()), tuple(again)
