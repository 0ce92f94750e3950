"""Things the pocket never saw, drawn by a generator it never met, and how to tell by classical vision that a clip shows one.

    CONCEPTS["shape"]    a crescent (`training.data.example`), in colours the base knows
    CONCEPTS["colour"]   teal: a ball, a square or a ring of a colour between green and cyan that has no word and no clip in the base
    CONCEPTS["motion"]   swoops: from the lower left to the upper right, where all ways of the base are level or upright
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.pocket_vision import ideals, inner, lab, outline, read_shape, subjects
from training.data import example
from training.pocket import world

TEAL, TEAL_WORD = (10, 130, 130), "teal"
"""The base's autoencoder, which a LoRA leaves as it is, gives it back as (17, 153, 135). Of lime, (168, 236, 24), it makes a yellow."""
THICKNESS = 0.4
"""Of a ring, in radii."""
SWOOP_WORD = "swoops"
SWOOPED = 0.2
"""Of the frame's height: so far to the right and so far up, at least, goes what is read as swooping."""


@dataclass(frozen=True)
class Concept:
    """A word, captions and clips with it by (seed, index), and what reads a clip: uint8 (F, H, W, 3) -> whether it shows the thing."""

    word: str
    caption: Callable[[int, int], str]
    render: Callable[[int, int], np.ndarray]
    shown: Callable[[np.ndarray], bool]


# --- a shape -----------------------------------------------------------------------------------


def shape_of(video: np.ndarray) -> str:
    """As `pocket_vision.read_shape`, with the crescent among the shapes; 'none' without a subject."""
    _, blobs = subjects(video)
    crescent = outline(example.coverage(48.0, 48.0, 32.0, 0.3, 96, 96) > 0.5)
    return read_shape(blobs, ideals() | {example.WORD: crescent}) if blobs else "none"


# --- a colour ----------------------------------------------------------------------------------


def _disc(x: float, y: float, radius: float, angle: float) -> np.ndarray:
    return np.clip(0.5 - _from(x, y)[2] + radius, 0.0, 1.0)


def _ring(x: float, y: float, radius: float, angle: float) -> np.ndarray:
    middle = radius * (1 - THICKNESS / 2)
    return np.clip(0.5 - np.abs(_from(x, y)[2] - middle) + radius * THICKNESS / 2, 0.0, 1.0)


def _square(x: float, y: float, radius: float, angle: float) -> np.ndarray:
    right, down, _ = _from(x, y)
    across, along = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    return np.clip(0.5 - np.maximum(np.abs(across), np.abs(along)) + 0.85 * radius, 0.0, 1.0)


def _from(x: float, y: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:example.HEIGHT, 0:example.WIDTH] + 0.5
    return columns - x, rows - y, np.hypot(columns - x, rows - y)


THINGS: dict[str, example.Cover] = {"ball": _disc, "square": _square, "ring": _ring}


def teal_caption(seed: int, index: int) -> str:
    """'a teal square rises over the sea'"""
    _, place, motion = example.choice(seed, index)
    return f"a {TEAL_WORD} {_thing(index)} {motion} {place}"


def teal_render(seed: int, index: int) -> np.ndarray:
    """uint8 (PICTURES, HEIGHT, WIDTH, 3)"""
    return example.render(seed, index, THINGS[_thing(index)], TEAL)


def _thing(index: int) -> str:
    return list(THINGS)[index % len(THINGS)]


def colour_of(video: np.ndarray) -> str:
    """The nearest, in hue and saturation, of the base's colours and teal to the median of the subject's pixels; 'none' without one."""
    pixels = [frame[inner(blob)] for frame, blob in zip(*subjects(video), strict=True)]
    if not sum(map(len, pixels)):
        return "none"
    palette = world.COLOURS | {TEAL_WORD: TEAL}
    away = lab(np.array(list(palette.values()))) - lab(np.median(np.concatenate(pixels), axis=0))
    return list(palette)[int(np.argmin(np.abs(away[:, 1:]).sum(1)))]


# --- a motion ----------------------------------------------------------------------------------


def swoop_caption(seed: int, index: int) -> str:
    """'a red square swoops over the sea'"""
    colour, place, _ = example.choice(seed, index)
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {_thing(index)} {SWOOP_WORD} {place}"


def swoop_render(seed: int, index: int) -> np.ndarray:
    """uint8 (PICTURES, HEIGHT, WIDTH, 3)"""
    return example.render(seed, index, THINGS[_thing(index)], path=lambda phase: (phase, 1 - phase))


def swoops(video: np.ndarray) -> bool:
    """By the first and the last eighth of the track, as `pocket_vision.read_motion` looks at it."""
    _, blobs = subjects(video)
    if not blobs:
        return False
    track = np.array([(blob.x, blob.y) for blob in blobs]) / video.shape[1]
    ends = max(1, len(blobs) // 8)
    right, down = track[-ends:].mean(0) - track[:ends].mean(0)
    return bool(right > SWOOPED and down < -SWOOPED)


CONCEPTS = {
    "shape": Concept(example.WORD, example.caption, example.render, lambda video: shape_of(video) == example.WORD),
    "colour": Concept(TEAL_WORD, teal_caption, teal_render, lambda video: colour_of(video) == TEAL_WORD),
    "motion": Concept(SWOOP_WORD, swoop_caption, swoop_render, swoops),
}
