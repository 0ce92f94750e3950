"""What can be seen in a clip by decoding it once, small: a poster, perceptual hashes, how much stands still, where scenes change."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InvalidRequest
from training.data.cuts import CutFinder
from training.data.frames import iterate
from training.data.records import Clip, Looks

POSTER_SIDE = 384
POSTER_QUALITY = 82
SMALL = 96
"""Pixels of the longer side of what is compared."""
STEPS_A_SECOND = 8
STILL_STEP = 0.9
"""Levels of 255: a step with less mean change is one of hardly any change (Vchitect-2.0, section IV, which looks at grey pictures)."""
STILL_PATCH = 6.0
"""...unless some patch of `PATCH` x `PATCH` pixels changes by more: a small thing that moves is no still picture."""
PATCH = 8
MOST_FPS = 60.0
LEAST_SHARE = 0.9
"""Of the pictures a file says it has, so many must come out of the decoder."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One pass over a clip."""

    looks: Looks
    poster: bytes
    """WebP of its middle picture."""
    pictures: int


def look(clip: Clip, path: Path) -> Seen:
    """Decodes the whole clip. Raises `InvalidRequest` (field 'video') where it breaks off or gives too few pictures."""
    rate = min(clip.fps or 25.0, MOST_FPS)
    expected = clip.length * rate
    width, height = _within(clip.width, clip.height, POSTER_SIDE)
    small = _within(clip.width, clip.height, SMALL)
    finder, motion = CutFinder(rate), _Motion(rate)
    prints: list[tuple[str, str]] = []
    poster, count = None, 0
    for count, picture in enumerate(iterate(clip, path, width=width, height=height, fps=rate, fit="crop", span=clip.span), 1):
        finder.add(picture)
        reduced = _reduced(picture, small)
        motion.add(reduced)
        prints.append((perceptual_hash(reduced), colour_print(reduced)))
        if poster is None or count <= expected / 2 + 1:
            poster = picture
    if poster is None or count < LEAST_SHARE * expected - 1:
        raise InvalidRequest("video", f"gives {count:,} pictures of {expected:.0f} it should have: it is damaged in the middle or cut off. "
                                      "Export it again.")
    hashes, colours = zip(*(prints[index] for index in (0, count // 2, count - 1)), strict=True)
    still, mean = motion.result()
    return Seen(Looks(hashes, colours, still, mean, finder.cuts()), webp(poster), count)


class _Motion:
    """How much changes from step to step of a clip at `rate` pictures a second."""

    def __init__(self, rate: float) -> None:
        self._every = max(1, round(rate / STEPS_A_SECOND))
        self._before: np.ndarray | None = None
        self._count = self._still = 0
        self._changes: list[float] = []

    def add(self, picture: np.ndarray) -> None:
        """uint8 (height, width, 3), small."""
        self._count += 1
        if (self._count - 1) % self._every:
            return
        now = picture.astype(np.float32)
        if self._before is not None:
            difference = np.abs(now - self._before).max(axis=2)  # a yellow thing before snow is as bright as the snow
            self._changes.append(float(difference.mean()))
            self._still += self._changes[-1] < STILL_STEP and _busiest(difference) < STILL_PATCH
        self._before = now

    def result(self) -> tuple[float, float]:
        """(share of still steps, mean change)."""
        if not self._changes:
            return 1.0, 0.0
        return round(self._still / len(self._changes), 4), round(float(np.mean(self._changes)), 4)


def _within(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height))
    return max(2, round(width * scale)), max(2, round(height * scale))


def _reduced(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (height, width, 3), averaged down to `size` (width, height)."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _busiest(difference: np.ndarray) -> float:
    """Highest mean over patches of (height, width)."""
    high, wide = (side // PATCH * PATCH for side in difference.shape)
    if not high or not wide:
        return float(difference.mean())
    patches = difference[:high, :wide].reshape(high // PATCH, PATCH, wide // PATCH, PATCH)
    return float(patches.mean(axis=(1, 3)).max())


def perceptual_hash(picture: np.ndarray) -> str:
    """64 bits as 16 hex digits of uint8 (height, width, 3): is each of 8 x 8 places brighter than its right neighbour (dHash)?"""
    from PIL import Image

    grid = np.asarray(Image.fromarray(picture).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grid[:, 1:] > grid[:, :-1]).flatten()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def colour_print(picture: np.ndarray) -> str:
    """Mean colours of 4 x 4 places of uint8 (height, width, 3), 96 hex digits: flat pictures have no gradients to compare."""
    return _reduced(picture, (4, 4)).tobytes().hex()


def sampled(clip: Clip, path: Path, pictures: int, longest: int) -> Iterator[np.ndarray]:
    """`pictures` of a clip spread evenly over it, uint8 (height, width, 3): what a describing model is shown."""
    width, height = _within(clip.width, clip.height, longest)
    rate = pictures / max(clip.length, 1e-3)
    for count, picture in enumerate(iterate(clip, path, width=width, height=height, fps=rate, fit="crop", span=clip.span)):
        if count < pictures:
            yield picture


def webp(picture: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a WebP file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "WEBP", quality=POSTER_QUALITY, method=2)
    return out.getvalue()
