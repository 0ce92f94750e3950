"""The film below a finished clip is of the clip."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.stills import HEIGHT, PICTURES, chosen, stills
from engine.errors import InvalidRequest
from tests.engine.media_files import write_video


@pytest.mark.parametrize(("frames", "numbers"), [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (8, tuple(range(8))),
                                                 (16, (1, 3, 5, 7, 9, 11, 13, 15)), (49, (3, 9, 15, 21, 27, 33, 39, 45))])
def test_frames_are_spread_over_the_whole_clip(frames: int, numbers: tuple[int, ...]) -> None:
    assert chosen(frames) == numbers
    assert len(set(numbers)) == min(frames, PICTURES) and numbers[-1] < frames


def test_stills_are_the_frames_they_say(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, (np.full((48, 64, 3), 12 * number + 30, np.uint8) for number in range(16)))
    film = Image.open(io.BytesIO(stills(path, frames=16, width=64, height=48))).convert("L")
    each = round(HEIGHT * 64 / 48)
    assert film.size == (PICTURES * each, HEIGHT)
    seen = [film.getpixel((part * each + each // 2, HEIGHT // 2)) for part in range(PICTURES)]
    assert seen == pytest.approx([12 * number + 30 for number in chosen(16)], abs=4)


def test_a_file_that_is_shorter_than_its_clip_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, (np.zeros((48, 64, 3), np.uint8) for _ in range(4)))
    with pytest.raises(InvalidRequest, match="4 frames"):
        stills(path, frames=16, width=64, height=48)
    with pytest.raises(InvalidRequest, match="up to 800"):
        stills(path, frames=801, width=64, height=48)
    path.write_bytes(b"no video")
    with pytest.raises(InvalidRequest):
        stills(path, frames=9, width=64, height=48)
