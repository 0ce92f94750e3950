"""A video file to frames: upright, in display shape, right colours, at the frame rate a model wants. No torch.

Decoding streams: besides the decoder's own few pictures one frame is held, however long the video is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from engine.errors import InvalidRequest
from engine.media.fit import BAR, Fit, centred, check_frame, scaled_size
from engine.media.probe import DEFAULT_LIMITS, VideoFacts, probe_video

T = TypeVar("T")

BILINEAR, LANCZOS, EXACT = 2, 512, 8192 | 16384 | 262144
"""libswscale's flags. Bilinear is for colour samples where nothing else is scaled; Lanczos widens with the reduction, so thin
lines do not flicker; exact is correct rounding, and all of the colour samples."""
MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""AVColorSpace of the file -> libswscale's name of the same matrix."""
BT601, BT709, LIMITED, FULL = 5, 1, 1, 2
TIE = 1e-6
"""Seconds: distances that differ by less are equal."""
Span = tuple[float, float | None]
"""Seconds from the first picture on: where to begin, where to end (not included; None: at the end of the video)."""
WHOLE: Span = (0.0, None)
LEAST_SHOW = 0.25
"""A last frame that would be on display for less than this part of its time does not count."""


def read_frames(path: Path, *, frames: int, width: int, height: int, fit: Fit, fps: float | None = None, start: int = 0,
                span: Span = WHOLE, field: str = "video", facts: VideoFacts | None = None) -> np.ndarray:
    """`frames` pictures of the video in `path` from number `start` on: uint8 (frames, height, width, 3), sRGB.

    In memory the three colours lie apart, as a VAE wants them: `.transpose(0, 3, 1, 2)` is contiguous.

    `fps`: frames per second of the result; the video is sampled by its timestamps, so speed stays as it is, also where
    the frame rate varies. None takes every stored frame once. `start` counts in frames of the result (from 0).
    `span`: only what is on display from one time on, before another. `fit`: see `engine.media.fit`. `facts`: what `probe_video` said
    of this file, if the caller has asked already; else it is probed here. Raises `InvalidRequest` (`field`) for what is no video, is
    damaged or has too few frames, which the message counts.
    """
    _check_wish(width, height, fit, fps, start)
    if frames < 1:
        raise InvalidRequest("frames", f"is {frames}; at least one is needed.", suggestion=1)
    facts = facts or probe_video(path, field=field)
    result = _blank(frames, width, height)
    count = 0
    with _opened(path, facts, field) as (container, stream):
        painter = _Painter(stream, (width, height), fit)
        for count, frame in enumerate(islice(_chosen(container, stream, fps, span), start, start + frames), 1):
            painter.paint(frame, result[count - 1])
    if count < frames:
        raise InvalidRequest(field, _too_short(count_frames(path, fps=fps, span=span, field=field, facts=facts), frames, fps, start))
    return result


def iter_frames(path: Path, *, width: int, height: int, fit: Fit, fps: float | None = None, start: int = 0,
                span: Span = WHOLE, field: str = "video", facts: VideoFacts | None = None) -> Iterator[np.ndarray]:
    """As `read_frames`, but one uint8 (height, width, 3) after the other until the video ends, in bounded memory.

    Nothing happens before the first frame is asked for, not even the probe.
    """
    _check_wish(width, height, fit, fps, start)
    with _opened(path, facts or probe_video(path, field=field), field) as (container, stream):
        painter = _Painter(stream, (width, height), fit)
        for frame in islice(_chosen(container, stream, fps, span), start, None):
            yield painter.painted(frame)


def iter_timed(path: Path, *, width: int, height: int, fit: Fit, field: str = "video", facts: VideoFacts | None = None,
               unpainted: int = 0, gone_by: float = -math.inf) -> Iterator[tuple[float, float, np.ndarray]]:
    """Every stored frame once, with its time: (seconds, seconds on display, uint8 (height, width, 3)), in bounded memory.

    Somebody who only wants later frames is spared much of the time: the first `unpainted` of them, and those that another one has
    followed `gone_by` seconds after the first picture, are decoded but not turned into pixels (their array is blank). By the clock of
    the frames: how many are shown in a time is not known from an average rate. The last frame is always painted.
    """
    _check_wish(width, height, fit, None, 0)
    with _opened(path, facts or probe_video(path, field=field), field) as (container, stream):
        painter = _Painter(stream, (width, height), fit)
        blank = _blank(1, width, height)[0]
        waiting: tuple[float, float, Any] | None = None  # until it is known when the next one follows
        origin = 0.0
        for number, (now, duration, frame) in enumerate(timed(container.decode(stream), stream)):
            origin = now if number == 0 else origin
            if waiting is not None:
                gone = number <= unpainted or now - origin <= gone_by
                yield waiting[0], waiting[1], blank if gone else painter.painted(waiting[2])
            waiting = (now, duration, frame) if number < unpainted or now - origin <= gone_by else None
            if waiting is None:
                yield now, duration, painter.painted(frame)
        if waiting is not None:
            yield waiting[0], waiting[1], painter.painted(waiting[2])


def _check_wish(width: int, height: int, fit: str, fps: float | None, start: int) -> None:
    check_frame(width, height, fit)
    if fps is not None and not 0 < fps <= 1000:
        raise InvalidRequest("fps", f"is {fps}; it must be above 0 and at most 1,000.")
    if start < 0:
        raise InvalidRequest("start", f"is {start}; frames are counted from 0.", suggestion=0)


def _blank(frames: int, width: int, height: int) -> np.ndarray:
    """uint8 (frames, height, width, 3) in the colour of the bars, over memory of (frames, 3, height, width)."""
    blank = np.empty((frames, 3, height, width), np.uint8).transpose(0, 2, 3, 1)
    blank[...] = BAR
    return blank


def count_frames(path: Path, *, fps: float | None = None, span: Span = WHOLE, field: str = "video",
                 facts: VideoFacts | None = None) -> int:
    """How many frames `iter_frames` would give in all, by decoding. Raises `InvalidRequest` (`field`)."""
    with _opened(path, facts or probe_video(path, field=field), field) as (container, stream):
        return sum(1 for _ in _chosen(container, stream, fps, span))


@contextmanager
def _opened(path: Path, facts: VideoFacts, field: str) -> Iterator[tuple[Any, Any]]:
    """(container, stream) of the probed video; what fails in the block is told as a fault of the file.

    The probe's limits hold here too: the file may be another one by now, or change its size in the middle.
    """
    try:
        with av.open(str(path.absolute()), format=facts.reader, options={"protocol_whitelist": "file"},
                     metadata_errors="replace") as container:
            stream = container.streams[facts.stream]
            if not isinstance(stream, av.video.stream.VideoStream):
                raise ValueError("it has changed")
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(DEFAULT_LIMITS.video_pixels)}
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(field, f"the video cannot be decoded ({reason[:120]}). Play it to its end to see whether it is "
                                    "whole, and convert it to an H.264 mp4.") from error


def _chosen(container: Any, stream: Any, fps: float | None, span: Span) -> Iterator[Any]:
    shown = within(timed(container.decode(stream), stream), span)
    return (frame for _, _, frame in shown) if fps is None else at_rate(shown, fps)


def timed(frames: Iterable[Any], stream: Any) -> Iterator[tuple[float, float, Any]]:
    """(seconds, seconds on display, frame) of decoded frames; time never runs backwards, whatever the file says."""
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    unit = float(stream.time_base or 0)
    now = -math.inf
    for frame in frames:
        following = now + step if math.isfinite(now) else 0.0
        now = following if frame.pts is None else max(now, frame.pts * unit)
        yield now, (frame.duration or 0) * unit or step, frame


def within(shown: Iterable[tuple[float, float, T]], span: Span) -> Iterator[tuple[float, float, T]]:
    """Of things on display at some times (seconds, duration, thing) those that come up inside `span`, counted from the first one."""
    begin, end = span
    origin: float | None = None
    for time, duration, thing in shown:
        origin = time if origin is None else origin
        if end is not None and time - origin >= end - TIE:
            return
        if time - origin >= begin - TIE:
            yield time, duration, thing


def at_rate(shown: Iterable[tuple[float, float, T]], fps: float) -> Iterator[T]:
    """Things on display at some times (seconds, duration, thing), looked at `fps` times a second from the first one on.

    Each look takes the thing nearest in time (at equal distance the earlier), so that a constant rate asked for itself
    gives everything exactly once, however its timestamps are rounded.
    """
    count, origin = 0, 0.0
    before: tuple[float, float, T] | None = None
    for time, duration, thing in shown:
        if before is None:
            origin = time
        else:
            while origin + count / fps <= (before[0] + time) / 2 + TIE:
                yield before[2]
                count += 1
        before = time, duration, thing
    if before is None:
        return
    last = before[0] - origin
    total = max(math.floor((last + TIE) * fps) + 1, math.ceil((last + before[1]) * fps - LEAST_SHOW))
    for _ in range(count, total):
        yield before[2]


class _Painter:
    """Turns decoded frames of one stream into frames of the size asked for."""

    def __init__(self, stream: Any, target: tuple[int, int], fit: Fit) -> None:
        self.target, self.fit = target, fit
        self.reformatter = VideoReformatter()  # one for all frames: it keeps its tables
        aspect = float(stream.sample_aspect_ratio or 1)  # of one pixel: old camcorders and DVDs have oblong ones
        self.aspect = aspect if 0.1 <= aspect <= 10 else 1.0

    def painted(self, frame: Any) -> np.ndarray:
        """As `paint`, into a picture of its own: uint8 (height, width, 3)."""
        picture = _blank(1, *self.target)[0]
        self.paint(frame, picture)
        return picture

    def paint(self, frame: Any, out: np.ndarray) -> None:
        """`frame` of the decoder into `out`, uint8 (height, width, 3), which is all bars before."""
        turn = quarter_turn(frame)
        display = (frame.width * self.aspect, float(frame.height))
        width, height = scaled_size(display[::-1] if turn.transposed else display, self.target, self.fit)
        stored = (height, width) if turn.transposed else (width, height)
        matrix, full = colours(frame)
        # Planar, because libswscale packs RGB without SIMD once it rounds correctly; without correct rounding every frame
        # comes out a level too dark, which adds up where a clip is extended again and again.
        picture: Any = self.reformatter.reformat(
            frame, *stored, format="gbrp", src_colorspace=matrix, src_color_range=FULL if full else LIMITED, dst_color_range=FULL,
            interpolation=EXACT | (BILINEAR if stored == (frame.width, frame.height) else LANCZOS))
        for plane, channel in zip(picture.planes, (1, 2, 0), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:picture.height, :picture.width]
            _place(turn.apply(rows), out[..., channel])


def _place(picture: np.ndarray, out: np.ndarray) -> None:
    """`picture` (height, width) into the middle of `out`: cut where it is larger, leaving `out` as it is where smaller."""
    inner, outer = [], []
    for size, room in zip(picture.shape, out.shape, strict=True):
        at = centred(size, room)
        inner.append(slice(max(0, -at), max(0, -at) + room))
        outer.append(slice(max(0, at), max(0, at) + size))
    out[tuple(outer)] = picture[tuple(inner)]


def colours(frame: Any) -> tuple[int, bool]:
    """(matrix, full range?) of a decoded frame; untagged ones as players take them: BT.709 from 720 lines or 1280 columns on, limited."""
    name = frame.format.name
    rgb = name.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal8", "gray"))
    matrix = MATRIX.get(int(frame.colorspace), BT709 if frame.height >= 720 or frame.width >= 1280 else BT601)
    return matrix, rgb or name.startswith("yuvj") or int(frame.color_range) == FULL


class _Turn:
    """One of the eight ways to lay a picture down: perhaps transposed, then perhaps flipped."""

    def __init__(self, transposed: bool, flip_x: bool, flip_y: bool) -> None:
        self.transposed, self.flip_x, self.flip_y = transposed, flip_x, flip_y

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of `picture` (height, width) as it is to be seen."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[::-1 if self.flip_y else 1, ::-1 if self.flip_x else 1]


def quarter_turn(frame: Any) -> _Turn:
    """From the display matrix a phone writes; angles between are taken as the nearest quarter turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return _Turn(False, False, False)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(int)
    # libavutil: x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Turn(False, a < 0, d < 0)
    return _Turn(True, c < 0, b < 0)


def _too_short(there: int, wanted: int, fps: float | None, start: int) -> str:
    """`there`: frames of the whole video."""
    rate = "" if fps is None else f" at {fps:g} frames a second"
    has = f"the video has {there:,} frame{'' if there == 1 else 's'}{rate}"
    if start >= there:
        return f"{has} and cannot start at frame {start:,} (they are counted from 0). Start earlier, or choose a longer video."
    if start:
        return (f"{has}, of which {there - start:,} come from frame {start:,} on; {wanted:,} are needed. Start earlier, choose a "
                f"longer video or ask for at most {there - start:,} frames.")
    return f"{has}, and {wanted:,} are needed. Choose a longer video or ask for at most {there:,} frames."
