"""Videos become frames: upright, never stretched, right colours, right moments, no more memory than a frame."""

from __future__ import annotations

from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidRequest
from engine.media import clip
from engine.media.clip import at_rate, count_frames, iter_frames, iter_timed, read_frames
from engine.media.fit import crop_box, scaled_size
from engine.media.probe import VideoFacts
from tests.engine.media_files import BLUE, GREEN, RED, WHITE, corners, counting, numbers, quarters, write_video

BLACK = (0, 0, 0)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limited process, which has its own tests and takes most of the time."""
    readers = {".mp4": "mp4", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
    monkeypatch.setattr(clip, "probe_video", lambda path, field="video": VideoFacts(
        readers[path.suffix], 0, 0, 0, 0, 0.0, 0.0, "", "", False, False, False, None))


def shown(*times: float, duration: float = 0.1) -> list[tuple[float, float, int]]:
    return [(time, duration, number) for number, time in enumerate(times)]


def test_shapes_are_kept() -> None:
    assert crop_box((200, 100), (50, 50)) == (50, 0, 150, 100)
    assert crop_box((100, 200), (720, 480)) == pytest.approx((0, 66.667, 100, 133.333), abs=1e-3)
    assert crop_box((96, 64), (48, 32)) == (0, 0, 96, 64)
    assert scaled_size((200, 100), (50, 50), "crop") == (100, 50)
    assert scaled_size((200, 100), (50, 50), "pad") == (50, 25)
    assert scaled_size((4000, 3), (64, 48), "pad") == (64, 1)
    for source in ((853, 479), (1080, 1920), (7, 3)):
        wide, high = scaled_size(source, (720, 480), "crop")
        assert wide >= 720
        assert high >= 480
        inner_wide, inner_high = scaled_size(source, (720, 480), "pad")
        assert inner_wide <= 720
        assert inner_high <= 480


def test_a_constant_rate_asked_for_itself_gives_every_frame_once() -> None:
    for fps in (8, 24, 30, 23.976, 59.94):
        exact = [number / fps for number in range(100)]
        rounded = [round(time, 3) for time in exact]  # as Matroska stores them
        for times in (exact, rounded, [time - 2.5 for time in exact]):
            assert list(at_rate(shown(*times, duration=1 / fps), fps)) == list(range(100))


def test_resampling_goes_by_time() -> None:
    thirty = shown(*(number / 30 for number in range(90)), duration=1 / 30)
    assert list(at_rate(thirty, 10)) == list(range(0, 90, 3))
    assert list(at_rate(thirty, 60)) == [number for number in range(90) for _ in range(2)]
    assert len(list(at_rate(thirty, 8))) == 24
    # a recording that stood still for a second
    assert list(at_rate(shown(0, 0.1, 0.2, 1.2, 1.3), 10)) == [0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert list(at_rate([], 8)) == []
    assert list(at_rate(shown(5.0), 8)) == [0]


def test_resampling_takes_no_more_than_it_needs() -> None:
    endless = ((number / 30, 1 / 30, number) for number in count())
    assert list(islice(at_rate(endless, 10), 5)) == [0, 3, 6, 9, 12]
    assert next(endless)[2] <= 15


def test_frames_and_their_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counting(20))
    frames = read_frames(path, frames=20, width=64, height=48, fit="crop")
    assert (frames.shape, frames.dtype) == ((20, 48, 64, 3), np.uint8)
    assert numbers(frames) == list(range(20))
    assert numbers(iter_frames(path, width=32, height=48, fit="crop", fps=10)) == [0, 3, 6, 9, 12, 15, 18]
    assert numbers(read_frames(path, frames=3, width=64, height=48, fit="crop", fps=10, start=2)) == [6, 9, 12]
    assert numbers(read_frames(path, frames=1, width=64, height=48, fit="crop", start=19)) == [19]
    doubled = read_frames(path, frames=4, width=64, height=48, fit="crop", fps=60)
    assert numbers(doubled) == [0, 0, 1, 1]


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(("wish", "message"), [
    ({"frames": 30}, "has 20 frames, and 30 are needed.*at most 20"),
    ({"frames": 3, "start": 40}, "has 20 frames and cannot start at frame 40"),
    ({"frames": 9, "start": 2, "fps": 10.0}, "has 7 frames at 10 frames a second, of which 5 come from frame 2 on; 9 are needed"),
])
def test_too_short_says_how_many_there_are(wish: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counting(20))
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_frames(path, width=64, height=48, fit="crop", field="extend", **wish)
    assert caught.value.field == "extend"


@pytest.mark.parametrize(("wish", "field"), [
    ({"frames": 0}, "frames"), ({"fit": "stretch"}, "fit"), ({"width": 0}, "width"), ({"height": -1}, "height"),
    ({"fps": 0.0}, "fps"), ({"fps": float("nan")}, "fps"), ({"start": -1}, "start"),
])
def test_impossible_wishes(wish: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_frames(tmp_path / "a.mp4", **({"frames": 1, "width": 64, "height": 48, "fit": "crop"} | wish))
    assert caught.value.field == field


def test_a_varying_rate_is_sampled_by_its_clock(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.8, 0.9, 1.0]
    path = write_video(tmp_path / "a.mkv", counting(6), times=times, fps=1000,
                       prepare=lambda stream: setattr(stream.codec_context, "time_base", Fraction(1, 1000)))
    assert numbers(iter_frames(path, width=64, height=48, fit="crop", fps=10))[:11] == [0, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5]
    assert numbers(iter_frames(path, width=64, height=48, fit="crop")) == [0, 1, 2, 3, 4, 5]
    assert count_frames(path) == 6


TURNS = {  # the matrix's a, b, c, d (x' = a x + c y, y' = b x + d y) -> the corners as they are to be seen
    (1, 0, 0, 1): [RED, GREEN, BLUE, WHITE], (0, 1, -1, 0): [BLUE, RED, WHITE, GREEN],
    (-1, 0, 0, -1): [WHITE, BLUE, GREEN, RED], (0, -1, 1, 0): [GREEN, WHITE, RED, BLUE],
    (-1, 0, 0, 1): [GREEN, RED, WHITE, BLUE], (0, 1, 1, 0): [RED, BLUE, GREEN, WHITE],
}


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(("wish", "painted"), [
    ({}, [1, 2, 3, 4, 5]), ({"unpainted": 2}, [3, 4, 5]), ({"unpainted": 9}, [5]),
    ({"gone_by": 0.05}, [1, 2, 3, 4, 5]), ({"gone_by": 0.1}, [2, 3, 4, 5]), ({"gone_by": 0.3}, [2, 3, 4, 5]),
    ({"gone_by": 0.55}, [3, 4, 5]), ({"gone_by": 99.0}, [5]),
])
def test_pictures_that_nobody_wants_are_not_painted(wish: dict[str, Any], painted: list[int], tmp_path: Path) -> None:
    times = [0.2, 0.3, 0.7, 0.8, 0.9]  # the second one stands for 0.4 s
    path = write_video(tmp_path / "x.mkv", counting(6)[1:], times=times)
    found = list(iter_timed(path, width=64, height=48, fit="crop", **wish))
    assert [round(now, 3) for now, _, _ in found] == times
    assert [number for number in numbers(pixels for _, _, pixels in found) if number] == painted


@pytest.mark.parametrize("turn", TURNS)
def test_phones_that_were_held_upright(turn: tuple[int, int, int, int], tmp_path: Path) -> None:
    a, b, c, d = (value << 16 for value in turn)
    path = write_video(tmp_path / "a.mp4", [quarters(96, 64)] * 2,
                       prepare=lambda stream: stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30]))
    size = (64, 96) if turn[0] == 0 else (96, 64)
    frame = read_frames(path, frames=1, width=size[0], height=size[1], fit="crop")[0]
    assert corners(frame) == TURNS[turn]


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(("matrix", "full", "tagged", "size"), [
    (5, False, True, (96, 64)), (1, False, True, (96, 64)), (5, True, True, (96, 64)), (1, True, True, (96, 64)),
    (5, False, False, (96, 64)), (1, False, False, (1280, 720)),  # untagged: as players take them
])
def test_colours_come_back(matrix: int, full: bool, tagged: bool, size: tuple[int, int], tmp_path: Path) -> None:
    picture = quarters(*size)
    path = write_video(tmp_path / "a.mp4", [picture], matrix=matrix, full=full, tagged=tagged)
    frame = read_frames(path, frames=1, width=size[0], height=size[1], fit="crop")[0]
    for rows, columns in ((slice(8, 24), slice(8, 40)), (slice(-24, -8), slice(-40, -8)), (slice(8, 24), slice(-40, -8))):
        error = frame[rows, columns].astype(int) - picture[rows, columns]
        assert np.abs(error).max() <= 5  # the wrong matrix or range: 10 and more
        assert np.abs(error.mean(axis=(0, 1))).max() <= 2


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(("codec", "pixel_format", "name"), [
    ("libx264", "yuv444p", "a.mp4"), ("libx264", "yuv420p10le", "a.mkv"), ("libx264rgb", "rgb24", "a.mkv"), ("ffv1", "bgr0", "a.mkv"),
    ("mjpeg", "yuvj420p", "a.avi"), ("libvpx-vp9", "yuv420p", "a.webm"),
])
def test_other_pixels(codec: str, pixel_format: str, name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, [quarters(96, 64)] * 2, codec=codec, pixel_format=pixel_format,
                       full=pixel_format in ("yuvj420p", "rgb24", "bgr0"), tagged=False)
    frame = read_frames(path, frames=1, width=96, height=64, fit="crop")[0]
    assert np.abs(frame[8:24, 8:40].astype(int) - RED).max() <= 8
    assert np.abs(frame[-24:-8, -40:-8].astype(int) - WHITE).max() <= 8


@pytest.mark.usefixtures("unprobed")
def test_odd_sizes_bars_and_oblong_pixels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [quarters(85, 47)], codec="ffv1", pixel_format="bgr0", full=True, tagged=False)
    frame = read_frames(path, frames=1, width=64, height=64, fit="pad")[0]
    rows = np.flatnonzero(frame.max(axis=(1, 2)) > 12)
    assert (rows[0], rows[-1]) == (14, 48)  # 64 * 47 / 85 = 35 rows in the middle
    assert corners(frame) == [BLACK] * 4

    def oblong(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = write_video(tmp_path / "b.mp4", [quarters(48, 64)], prepare=oblong)  # to be seen as 96 x 64
    assert corners(read_frames(path, frames=1, width=96, height=64, fit="pad")[0]) == [RED, GREEN, BLUE, WHITE]


def test_a_file_that_changes_after_the_probe_meets_the_limits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", counting(3))
    facts = clip.probe_video(path)
    monkeypatch.setattr(clip, "probe_video", lambda *_args, **_fields: facts)
    path.write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(InvalidRequest, match="cannot be decoded"):
        read_frames(path, frames=1, width=64, height=48, fit="crop")
    monkeypatch.setattr(clip, "DEFAULT_LIMITS", clip.DEFAULT_LIMITS.__class__(video_pixels=64 * 48 - 1))
    write_video(path, counting(3))
    with pytest.raises(InvalidRequest, match="cannot be decoded"):
        read_frames(path, frames=1, width=64, height=48, fit="crop")
