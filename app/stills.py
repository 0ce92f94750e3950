"""The film below a finished clip: some of its frames, evenly spaced, side by side in one picture.

Made when a page asks for it, from the clip's own file, and kept by the browser; nothing of it lies on the disk. No torch.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path

from engine.errors import InvalidRequest

PICTURES = 8
LONGEST = 800
"""Frames of a clip that has a film: a longer one would have to be decoded whole, beside people who wait for their pages."""
HEIGHT = 80
"""Pixels: the film on the page is 40 high, and screens show two for one."""
WIDEST = 240
QUALITY = 80
_one_at_a_time = threading.Lock()


def chosen(frames: int) -> tuple[int, ...]:
    """Numbers of the frames that are shown of `frames` (from 1): the middle of each of up to `PICTURES` equal parts."""
    count = max(1, min(PICTURES, frames))
    return tuple((2 * part + 1) * max(frames, 1) // (2 * count) for part in range(count))


def stills(path: Path, *, frames: int, width: int, height: int) -> bytes:
    """WebP of `chosen(frames)` of the video in `path`, each `HEIGHT` high. `frames`, `width`, `height`: the clip's.

    One clip is decoded at a time: whoever asks for many waits. Raises InvalidRequest (field 'video') for what cannot be decoded and
    for more than `LONGEST` frames.
    """
    if frames > LONGEST:
        raise InvalidRequest("video", f"has {frames} frames; a film is made of up to {LONGEST}.")
    with _one_at_a_time:
        return _stills(path, chosen(frames), (min(max(16, round(HEIGHT * width / height)), WIDEST), HEIGHT))


@lru_cache(maxsize=64)
def _stills(path: Path, numbers: tuple[int, ...], size: tuple[int, int]) -> bytes:
    import numpy as np  # with PyAV half a second, and a command needs none of it
    from PIL import Image

    from engine.media.clip import iter_frames
    from engine.video.still import webp

    found = []
    for number, frame in enumerate(iter_frames(path, width=size[0], height=size[1], fit="crop")):
        if number in numbers:
            found.append(frame)
        if number >= numbers[-1]:
            break
    if len(found) < len(numbers):
        raise InvalidRequest("video", f"has {number + 1 if found else 0} frames, and {numbers[-1] + 1} were looked for.")
    return webp(Image.fromarray(np.concatenate(found, axis=1)), QUALITY)
