"""A small set to train on at once: a thing the embedded model never saw, drawn by a generator it never met.

    render(seed, index) -> pictures, caption          write(folder) -> folder/prompts.txt, videos.txt, videos/00.mp4 ...

The thing is a crescent. The pocket world has balls, squares, triangles, stars, hearts and rings and no word for it: its tokenizer
spells `crescent` letter by letter. Colours, places and motions are the pocket world's in words, but drawn here, plainer; nothing is
shared with `training.pocket.world`. Everything is a pure function of (seed, index). Clips run at 16 pictures a second, twice the
model's rate, so reading them by time is not the same as reading them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, FPS, PICTURES = 192, 128, 16, 50
CLIPS = 25
WORD = "crescent"
COLOURS = {"red": (222, 32, 40), "orange": (250, 134, 16), "yellow": (248, 220, 32), "green": (24, 150, 54), "cyan": (22, 218, 224),
           "blue": (38, 66, 230), "purple": (136, 36, 190), "pink": (254, 94, 176)}
PLACES = {
    "in the night sky": ((10, 12, 34), (26, 28, 62), (26, 28, 62)),
    "over a meadow": ((190, 222, 240), (214, 234, 240), (168, 206, 150)),
    "over the sea": ((206, 228, 240), (224, 238, 244), (150, 190, 214)),
    "in the desert": ((244, 228, 200), (248, 236, 214), (228, 204, 160)),
    "in the snow": ((214, 226, 238), (226, 234, 242), (242, 246, 250)),
    "in a plain studio": ((206, 206, 208), (220, 220, 222), (196, 196, 198)),
}
"""Words -> colours at the top, at the horizon and of the ground."""
MOTIONS = ("moves from left to right", "moves from right to left", "rises", "falls", "grows", "shrinks", "spins")
BITE, SHIFT = 0.82, 0.52
"""A disc of radius 1 less a disc of radius `BITE` whose centre lies `SHIFT` away: a crescent as thick as a third of its width."""
STARS = 40


def caption(seed: int, index: int) -> str:
    """'a red crescent rises over the sea'"""
    colour, place, motion = choice(seed, index)
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {WORD} {motion} {place}"


def choice(seed: int, index: int) -> tuple[str, str, str]:
    """Colour, place, motion: all of each in turn, in an order that the seed shuffles; `index` and `index + 1` share none of them."""
    rng = np.random.default_rng((seed, 0))
    colours, places, motions = (list(rng.permutation(each)) for each in (list(COLOURS), list(PLACES), list(MOTIONS)))
    lap = index // len(colours)
    return str(colours[index % len(colours)]), str(places[(index + lap) % len(places)]), str(motions[(index + 2 * lap) % len(motions)])


Cover = Callable[[float, float, float, float], np.ndarray]
"""What `coverage` does for a crescent: centre, radius and angle -> how much of each pixel a thing covers."""
Way = Callable[[float], tuple[float, float]]
"""Share of the clip -> how far across and down the room a thing has, 0 to 1 each."""


def render(seed: int, index: int, cover: Cover | None = None, paint: tuple[int, int, int] | None = None,
           path: Way | None = None) -> np.ndarray:
    """uint8 (PICTURES, HEIGHT, WIDTH, 3): clip number `index` of the set `seed`; `cover`, `paint`, `path`: another thing, another colour,
    another way to go than the motions in words."""
    colour, place, motion = choice(seed, index)
    painted = np.array(paint or COLOURS[colour])
    rng = np.random.default_rng((seed, 1, index))
    ground = _ground(place, rng)
    radius, across, up, lean = rng.uniform(28, 34), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.65), rng.uniform(-0.5, 0.5)
    turns = rng.choice((-1.0, 1.0)) * rng.uniform(0.3, 0.6)
    room = radius + 4
    pictures = np.empty((PICTURES, HEIGHT, WIDTH, 3), np.uint8)
    for number, phase in enumerate(np.linspace(0.0, 1.0, PICTURES)):
        x, y, size, angle = WIDTH * across, HEIGHT * up, radius, lean
        if path is not None:
            right, down = path(phase)
            x, y = room + (WIDTH - 2 * room) * right, room + (HEIGHT - 2 * room) * down
        elif motion.startswith("moves"):
            share = phase if motion.endswith("right") else 1 - phase
            x = room + (WIDTH - 2 * room) * share
        elif motion in ("rises", "falls"):
            share = phase if motion == "falls" else 1 - phase
            y = room + (HEIGHT - 2 * room) * share
        elif motion in ("grows", "shrinks"):
            share = phase if motion == "grows" else 1 - phase
            x, y, size = WIDTH / 2 + 20 * (across - 0.5), HEIGHT / 2, 20 + 24 * share
        else:
            angle = lean + 2 * math.pi * turns * phase
        covered = (cover or coverage)(x, y, size, angle)[..., None]
        pictures[number] = np.rint(ground * (1 - covered) + painted * covered)
    return pictures


def coverage(x: float, y: float, radius: float, angle: float, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """float (height, width), 0 to 1: how much of each pixel a crescent at (x, y) covers; `angle`: radians its opening is turned by."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    right, down = columns - x, rows - y
    outer = np.hypot(right, down) - radius
    inner = np.hypot(right - SHIFT * radius * math.cos(angle), down - SHIFT * radius * math.sin(angle)) - BITE * radius
    return np.clip(0.5 - np.maximum(outer, -inner), 0.0, 1.0)


def _ground(place: str, rng: np.random.Generator) -> np.ndarray:
    """float (HEIGHT, WIDTH, 3): sky down to a horizon, then ground; stars at night."""
    top, horizon, ground = (np.array(each, float) for each in PLACES[place])
    line = HEIGHT * rng.uniform(0.58, 0.72)
    rows = np.arange(HEIGHT)[:, None]
    sky = top + (horizon - top) * np.clip(rows / line, 0, 1)
    blend = np.clip((rows - line) / 2 + 0.5, 0, 1)
    picture = np.repeat((sky * (1 - blend) + ground * blend)[:, None], WIDTH, axis=1)
    if place == "in the night sky":
        for row, column in zip(rng.integers(0, HEIGHT, STARS), rng.integers(0, WIDTH, STARS), strict=True):
            picture[row, column] = (232, 232, 240)
    return picture


def write(folder: Path, clips: int = CLIPS, seed: int = 0) -> None:
    """The set as files: prompts.txt, videos.txt and videos/*.mp4 in the empty or new `folder`. Raises OSError."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    names = [f"videos/{index:02d}.mp4" for index in range(clips)]
    for index, name in enumerate(names):
        write_mp4(folder / name, render(seed, index), FPS)
    (folder / "videos.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(caption(seed, index) for index in range(clips)) + "\n", encoding="utf-8")


def write_mp4(path: Path, pictures: np.ndarray, fps: float) -> None:
    """uint8 (n, height, width, 3) as H.264, visually lossless."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
