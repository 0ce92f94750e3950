"""Which clip lands in which (frames, height, width). Pure arithmetic over a model's rules.

Frames go by time: a clip of 3.2 s has 25 frames at 8 a second, however many its file has. A long clip is cut into pieces of the longest
bucket (`pieces_of`), or only its first frames are taken; a short one goes to the longest bucket that it fills, and is never stretched by
repeating frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.spec import ModelSpec
from training.data.records import Clip, Dataset

LEAST_SHOW = 0.25
"""As in `engine.media.clip`: a last frame that is on display for less than this part of its time does not count."""
WHOLE_PIXELS = 384 * 384
"""Larger frames are encoded in bands: the same numbers in a third of the memory."""
SHAPES = ("native", "aspect")
ASPECTS = (1.0, 4 / 3, 3 / 4)
"""Width to height of the further sizes that 'aspect' offers, beside the model's own and the same turned by 90 degrees."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One shape of training examples."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames} x {self.height} x {self.width}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A clip, or a piece of one, and where it lands."""

    clip: Clip
    bucket: Bucket
    frames: int
    """How many there are from its start on, at the model's rate; more than the bucket's are cut off at the end."""
    start: int = 0
    """Of a piece: frames of the clip before it, at the model's rate."""


@dataclass(frozen=True, slots=True)
class Left:
    """A clip that lands nowhere, and why."""

    clip: Clip
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What buckets there are for one model."""

    lengths: tuple[int, ...]
    """Frames, longest first."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width), the model's own first."""
    fps: float


def rules_of(spec: ModelSpec, *, shapes: str = "native", frames: int | None = None, size: tuple[int, int] | None = None,
             fps: float | None = None) -> Rules:
    """The buckets of `spec`.

    `shapes`: 'native' puts every clip into one size; 'aspect' adds the turned size, a square, 4:3 and 3:4 of the same area, where the
    model's rules allow them. `frames`: the longest length, the model's own unless said. `size`: (height, width) instead of the model's.
    `fps`: another rate than the model's, for motion that shall be faster or slower.
    Raises InvalidRequest (field 'shapes', 'frames', 'size', 'fps').
    """
    if shapes not in SHAPES:
        raise InvalidRequest("shapes", f"is {shapes[:20]!r}. Use one of {', '.join(SHAPES)}.", suggestion="native")
    longest = spec.native_frames if frames is None else frames
    step = spec.frame_step
    if (longest - 1) % step or not 1 < longest <= spec.max_frames:
        near = min(max(step + 1, (longest - 1) // step * step + 1), spec.max_frames)
        raise InvalidRequest("frames", f"is {longest}; {spec.name} takes {step} k + 1 frames, at most {spec.max_frames}.", suggestion=near)
    rate = spec.fps if fps is None else fps
    if not 1 <= rate <= 120:
        raise InvalidRequest("fps", f"is {rate:g}; allowed is 1 to 120 frames a second, and {spec.name} shows {spec.fps:g}.",
                             suggestion=spec.fps)
    own = size or (spec.native_height, spec.native_width)
    _check_size(spec, own)
    # A learned table of positions fits one length only; other lengths silently get another table in diffusers.
    lengths = (longest,) if spec.position == "learned" else tuple(range(longest, step, -step))
    further = _further(spec, own) if shapes == "aspect" and not spec.fixed_size else ()
    return Rules(lengths, (own, *(each for each in further if each != own)), rate)


def _check_size(spec: ModelSpec, size: tuple[int, int]) -> None:
    height, width = size
    many = spec.size_multiple
    if spec.fixed_size and size != (spec.native_height, spec.native_width):
        raise InvalidRequest("size", f"is {height} x {width}; {spec.name} runs at {spec.native_height} x {spec.native_width} only.")
    if height % many or width % many or not many <= height <= spec.max_height or not many <= width <= spec.max_width:
        raise InvalidRequest("size", f"is {height} x {width} (height x width); both must be multiples of {many}, at most "
                                     f"{spec.max_height} x {spec.max_width} for {spec.name}.")


def _further(spec: ModelSpec, own: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    height, width = own
    found = [(width, height)]
    for aspect in ASPECTS:
        wide = math.sqrt(height * width * aspect)
        found.append((_near(wide / aspect, spec.size_multiple), _near(wide, spec.size_multiple)))
    fitting = [each for each in found if each[0] <= spec.max_height and each[1] <= spec.max_width]
    return tuple(dict.fromkeys(fitting))


def _near(value: float, multiple: int) -> int:
    return max(multiple, round(value / multiple) * multiple)


def frames_at(seconds: float, fps: float) -> int:
    """How many frames `engine.media.clip` gives of a steady video of so many seconds."""
    return max(0, math.ceil(seconds * fps - LEAST_SHOW))


def bucket_of(frames: int, width: int, height: int, rules: Rules) -> Bucket | None:
    """The longest bucket that `frames` fill, in the size whose shape is nearest; None where there are too few."""
    length = next((each for each in rules.lengths if each <= frames), None)
    if length is None:
        return None
    shape = math.log(width / height)
    high, wide = min(rules.sizes, key=lambda size: abs(math.log(size[1] / size[0]) - shape))
    return Bucket(length, high, wide)


def pieces_of(frames: int, length: int) -> tuple[int, ...]:
    """Where the pieces of `length` frames begin that a clip of `frames` frames is cut into.

    As many as come nearest to its length, spread evenly from its first frame to its last: neighbours share frames, or leave some out, but
    never half a piece. One piece is the clip's beginning.
    """
    count = max(1, (2 * frames + length) // (2 * length))
    if count == 1 or frames <= length:
        return (0,)
    return tuple(round(index * (frames - length) / (count - 1)) for index in range(count))


def place(dataset: Dataset, rules: Rules, clips: Iterable[Clip] | None = None) -> tuple[tuple[Placed, ...], tuple[Left, ...]]:
    """Where every clip in use lands, and those that land nowhere with the reason."""
    placed, left = [], []
    for clip in dataset.used if clips is None else clips:
        begin, end = dataset.span(clip)
        seconds = max(0.0, (clip.seconds if end is None else min(end, clip.seconds)) - begin)
        frames = frames_at(seconds, rules.fps)
        bucket = bucket_of(frames, clip.width, clip.height, rules)
        if bucket is None:
            left.append(Left(clip, too_short(frames, seconds, rules, dataset)))
        else:
            starts = pieces_of(frames, bucket.frames) if dataset.long == "pieces" and bucket.frames == rules.lengths[0] else (0,)
            placed += [Placed(clip, bucket, frames - start, start) for start in starts]
    return tuple(placed), tuple(left)


def too_short(frames: int, seconds: float, rules: Rules, dataset: Dataset) -> str:
    """Why a clip lands nowhere, and what would help."""
    skipped = " after what is skipped" if dataset.skip_start or dataset.skip_end else ""
    return (f"lasts {seconds:.2f} s{skipped}, {frames} frame{'' if frames == 1 else 's'} at {rules.fps:g} a second; the shortest bucket "
            f"has {rules.lengths[-1]}. Use a longer clip{', or skip less' if skipped else ''}.")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of buckets."""

    bucket: Bucket
    train: int
    held_out: int
    seconds: float
    """Of a clip in this bucket."""
    cut: int
    """Clips of it that are longer than the bucket, and lose their end."""
    clips: int = 0
    """Clips of it, where `train` and `held_out` count pieces."""


def table(placed: Sequence[Placed], splits: dict[str, str], fps: float) -> tuple[Row, ...]:
    """The buckets that have clips, fullest first."""
    rows = []
    for bucket in sorted({each.bucket for each in placed}):
        inside = [each for each in placed if each.bucket == bucket]
        held = sum(splits.get(each.clip.id) == "held-out" for each in inside)
        last = {each.clip.id: each.frames for each in inside}  # what is left at the last piece of each
        cut = sum(frames > bucket.frames for frames in last.values())
        rows.append(Row(bucket, len(inside) - held, held, bucket.frames / fps, cut, len(last)))
    return tuple(sorted(rows, key=lambda row: (-row.train - row.held_out, row.bucket)))
