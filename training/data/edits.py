"""A dataset with something changed. Pure: every function gives another `Dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from engine.errors import InvalidRequest
from engine.lines import one_line
from training.data.records import MAX_PREFIX_CHARS, Clip, Dataset, Rejection, checked_caption, checked_name

MAX_SKIP = 1000
LONG = ("pieces", "first")


def with_caption(dataset: Dataset, clip_id: str, caption: str, said_by: str = "hand") -> Dataset:
    """Raises InvalidRequest (field 'clip', 'caption')."""
    dataset.clip(clip_id)
    words = checked_caption(caption)
    return _changed(dataset, {clip_id: {"caption": words, "said_by": said_by}})


def replaced(dataset: Dataset, find: str, by: str) -> tuple[Dataset, int]:
    """(the dataset with `find` replaced by `by` in every caption, how many captions changed). Upper and lower case count, and so do spaces
    at either end of the two; what comes out is one line again.

    Raises InvalidRequest (field 'find') for nothing to find, or for what would make a caption too long.
    """
    if not find:
        raise InvalidRequest("find", "is empty. Say which words are to be replaced.")
    words = {clip.id: checked_caption(clip.caption.replace(find, by)) for clip in dataset.clips if find in clip.caption}
    return _changed(dataset, {clip_id: {"caption": each, "said_by": "hand"} for clip_id, each in words.items()}), len(words)


def with_prefix(dataset: Dataset, prefix: str) -> Dataset:
    """The word before every caption; '' for none. Raises InvalidRequest (field 'prefix')."""
    word = one_line(prefix)
    if len(word) > MAX_PREFIX_CHARS:
        raise InvalidRequest("prefix", f"has {len(word)} characters; at most {MAX_PREFIX_CHARS} are kept. One rare word does it.")
    return replace(dataset, prefix=word)


def with_split(dataset: Dataset, held_out: float | None = None, seed: int | None = None) -> Dataset:
    """Raises InvalidRequest (field 'held_out', 'seed')."""
    share = dataset.held_out if held_out is None else held_out
    number = dataset.seed if seed is None else seed
    if not 0 <= share <= 0.5:
        raise InvalidRequest("held_out", f"is {share}; it is the share of clips kept from training, 0 to 0.5.", suggestion=0.1)
    if not 0 <= number < 2**63:
        raise InvalidRequest("seed", f"is {number}; allowed is 0 to 2^63 - 1.", suggestion=0)
    return replace(dataset, held_out=float(share), seed=int(number))


def with_reading(dataset: Dataset, fit: str | None = None, skip_start: int | None = None, skip_end: int | None = None,
                 long: str | None = None) -> Dataset:
    """How clips are read. Raises InvalidRequest (field 'fit', 'skip_start', 'skip_end', 'long')."""
    fit = dataset.fit if fit is None else fit
    if fit not in ("crop", "pad"):
        raise InvalidRequest("fit", f"is {fit[:20]!r}; it can be 'crop' (fill the frame) or 'pad' (all of the picture, with black bars).",
                             suggestion="crop")
    start = dataset.skip_start if skip_start is None else skip_start
    end = dataset.skip_end if skip_end is None else skip_end
    for field, value in (("skip_start", start), ("skip_end", end)):
        if not 0 <= value <= MAX_SKIP:
            raise InvalidRequest(field, f"is {value}; 0 to {MAX_SKIP:,} pictures can be passed over.", suggestion=0)
    long = dataset.long if long is None else long
    if long not in LONG:
        raise InvalidRequest("long", f"is {long[:20]!r}; clips longer than the model's can be cut into 'pieces', or only their 'first' "
                                     "frames taken.", suggestion="pieces")
    return replace(dataset, fit=fit, skip_start=start, skip_end=end, long=long)


def with_use(dataset: Dataset, clip_ids: Iterable[str], used: bool) -> Dataset:
    """Clips left out, or taken in again. Raises InvalidRequest (field 'clip')."""
    return _changed(dataset, {dataset.clip(each).id: {"used": used} for each in clip_ids})


def with_name(dataset: Dataset, name: str) -> Dataset:
    """Raises InvalidRequest (field 'name')."""
    return replace(dataset, name=checked_name(name))


def with_scenes(dataset: Dataset, clip_id: str, scenes: Iterable[Clip], short: Iterable[Rejection]) -> Dataset:
    """The clip's scenes in its place, with its words and use as they are now: looking for scenes takes a while, and captions may be saved
    meanwhile. Raises InvalidRequest (field 'clip') where none is long enough."""
    parts = list(scenes)
    if not parts:
        raise InvalidRequest("clip", "has no scene that is long enough to be of use, so it stays as it is.")
    whole, known = dataset.clip(clip_id), {clip.id for clip in dataset.clips}
    parts = [replace(part, caption=whole.caption, said_by=whole.said_by, used=whole.used) for part in parts]
    clips: list[Clip] = []
    for clip in dataset.clips:
        clips += [part for part in parts if part.id not in known] if clip.id == clip_id else [clip]
    return replace(dataset, clips=tuple(clips), rejections=(*dataset.rejections, *short))


def _changed(dataset: Dataset, changes: Mapping[str, Mapping[str, object]]) -> Dataset:
    clips = tuple(replace(clip, **changes[clip.id]) if clip.id in changes else clip for clip in dataset.clips)  # type: ignore[arg-type]
    return replace(dataset, clips=clips)
