"""The pocket world: small scenes drawn exactly, from a seed, with their ground truth.

A scene is one or two flat-coloured subjects that perform one motion over one background.
Everything is a pure function of a `Scene` and a clip shape; a `Scene` is a pure function of
`(seed, index, split)`. Nothing here knows torch, files or captions (see `captions.py`).

Geometry is declared on a 192x128 canvas ("canvas units"); `render` scales it to the asked
size by height. Edges are antialiased analytically: a signed distance is turned into coverage
with a ramp one output pixel wide, so there is no supersampling and no random sampling.

Colour rule, kept on purpose so that any classical detector can tell subject from background:
subjects are bright *and* saturated, backgrounds are pale or dark.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from .scenery import paint_background

WIDTH, HEIGHT = 192, 128
SHAPES = ("ball", "square", "triangle", "star", "heart", "ring")
COLOURS = {
    "red": (222, 30, 38),
    "orange": (250, 132, 14),
    "yellow": (250, 222, 30),
    "green": (22, 150, 52),
    "cyan": (20, 220, 226),
    "blue": (36, 66, 232),
    "purple": (134, 34, 190),
    "pink": (255, 92, 176),
}
BACKGROUNDS = ("night sky", "meadow", "sea", "desert", "snow", "plain studio")
MOTIONS = ("left to right", "right to left", "rises", "falls", "bounces", "grows", "shrinks", "spins")
SPEEDS = ("slowly", "quickly")
HORIZONTAL = ("left to right", "right to left")
VERTICAL = ("rises", "falls", "bounces")

SPLITS = ("train", "held-out", "all")
PAIR_SHARE = 0.12
"""Share of scenes with two subjects."""
EDGE = 2.0
"""A subject always stays at least this many canvas units inside the frame."""


@dataclass(frozen=True)
class Subject:
    """One thing on the stage. x, y: centre of its path, canvas units; size: largest radius."""

    shape: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """Everything that decides the pixels, except the clip's shape.

    jitter: three numbers in [-1, 1] that move the background a little.
    reach: how far the motion goes: canvas units for paths, a ratio of radii for grows and
    shrinks, turns for spins. hops: number of bounces.
    """

    subjects: tuple[Subject, ...]
    background: str
    motion: str
    speed: str
    reach: float
    hops: int
    jitter: tuple[float, float, float]


# --- which combinations are held out ---------------------------------------------------------


def is_held_out(shape: str, colour: str, background: str, motion: str) -> bool:
    """Whether this combination is never trained on: a fixed tenth, by hash."""
    key = f"{shape}|{colour}|{background}|{motion}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % 10 == 0


def combinations(split: str = "all") -> list[tuple[str, str, str, str]]:
    """All (shape, colour, background, motion) of a split, in a fixed order."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {SPLITS}")
    found = [(s, c, b, m) for s in SHAPES for c in COLOURS for b in BACKGROUNDS for m in MOTIONS]
    return [key for key in found if split == "all" or is_held_out(*key) == (split == "held-out")]


# --- drawing lots: a scene from a seed -------------------------------------------------------


def scene_at(seed: int, index: int, split: str = "train", pair_share: float = PAIR_SHARE) -> Scene:
    """Scene number `index` of the endless sequence `seed`; the same arguments, the same scene.

    With split "train" no subject of the scene is a held-out combination; with "held-out" the
    first one always is.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {SPLITS}")
    rng = np.random.default_rng((seed, index, SPLITS.index(split)))
    while True:
        shape, colour, background, motion = _draw_combination(rng)
        if split != "all" and is_held_out(shape, colour, background, motion) != (split == "held-out"):
            continue
        second = None
        if rng.random() < pair_share:
            second = _draw_second(rng, shape, colour)
            if split == "train" and is_held_out(*second, background, motion):
                continue
        break
    speed = SPEEDS[rng.integers(2)]
    shift, slide, light = rng.uniform(-1, 1, 3)
    jitter = (float(shift), float(slide), float(light))
    draft = Scene((), background, motion, speed, 0.0, 0, jitter)
    if second is None:
        return _stage_one(rng, draft, (shape, colour))
    return _stage_two(rng, draft, ((shape, colour), second))


def _draw_combination(rng: np.random.Generator) -> tuple[str, str, str, str]:
    return (
        SHAPES[rng.integers(len(SHAPES))],
        tuple(COLOURS)[rng.integers(len(COLOURS))],
        BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        MOTIONS[rng.integers(len(MOTIONS))],
    )


def _draw_second(rng: np.random.Generator, shape: str, colour: str) -> tuple[str, str]:
    """A companion that differs in shape and in colour, so that each can be told by either."""
    shapes = [s for s in SHAPES if s != shape]
    colours = [c for c in COLOURS if c != colour]
    return shapes[rng.integers(len(shapes))], colours[rng.integers(len(colours))]


def _reach(motion: str, speed: str) -> tuple[float, int]:
    """(reach, hops) of a motion: canvas units for paths, a ratio of radii for grows and shrinks, turns for spins."""
    quick = speed == "quickly"
    if motion == "bounces":
        return (24.0, 2) if quick else (38.0, 1)
    if motion in HORIZONTAL:
        return 80.0 if quick else 48.0, 0
    if motion in VERTICAL:
        return 56.0 if quick else 30.0, 0
    if motion == "spins":
        return 0.7 if quick else 0.4, 0
    return 2.0 if quick else 1.5, 0


Kind = tuple[str, str]
"""A shape and a colour."""


@dataclass(frozen=True)
class Lane:
    """The rectangle a subject's centre may use, canvas units."""

    x0: float
    x1: float
    y0: float
    y1: float


def _stage_one(rng: np.random.Generator, draft: Scene, kind: Kind) -> Scene:
    size = _size(draft.motion)
    near = _margin(draft.motion, size)
    return _place(rng, draft, (kind,), (Lane(near, WIDTH - near, near, HEIGHT - near),), size)


def _stage_two(rng: np.random.Generator, draft: Scene, kinds: tuple[Kind, Kind]) -> Scene:
    """Two subjects in two lanes: one above the other for paths that cross the frame, else side by side."""
    size = _size(draft.motion) * (0.8 if draft.motion in HORIZONTAL else 0.92)
    near = _margin(draft.motion, size)
    if draft.motion in HORIZONTAL:
        half = HEIGHT / 2
        lanes = (Lane(near, WIDTH - near, near, half - near), Lane(near, WIDTH - near, half + near, HEIGHT - near))
    else:
        half = WIDTH / 2
        lanes = (Lane(near, half - near, near, HEIGHT - near), Lane(half + near, WIDTH - near, near, HEIGHT - near))
    return _place(rng, draft, kinds, lanes, size)


def _size(motion: str) -> float:
    """Largest radius in canvas units; smaller where the path is vertical, to leave it room.

    One size for a motion, and as large as its path allows: a latent cell is 8 pixels wide, and which shape a subject has
    shows in the few cells that its outline crosses.
    """
    if motion in VERTICAL:
        return 28.0
    if motion in ("grows", "shrinks"):
        return 37.0
    return 34.0


def _margin(motion: str, size: float) -> float:
    """How near a subject's centre may come to the edge of its lane: the corners of a turning square reach 1.22 radii."""
    return size * (1.22 if motion == "spins" else 1.09) + EDGE


def _place(rng: np.random.Generator, draft: Scene, kinds: tuple[Kind, ...], lanes: tuple[Lane, ...], size: float) -> Scene:
    """Put the subjects on stage: centre of each path inside its lane, so that the whole path stays in it."""
    motion = draft.motion
    reach, hops = _reach(motion, draft.speed)
    dx = reach / 2 if motion in HORIZONTAL else 0.0
    dy = reach / 2 if motion in VERTICAL else 0.0
    u, v = rng.random(), rng.random()
    subjects = []
    for (shape, colour), lane in zip(kinds, lanes, strict=True):
        # A subject that does not travel sideways stands near the middle of its lane.
        centre, room = (lane.x0 + lane.x1) / 2, (lane.x1 - lane.x0) / 2 - dx
        room = room if motion in HORIZONTAL else min(room, 42.0)
        x = _on_grid(centre - room, centre + room, u)
        y = lane.y1 - dy if motion == "bounces" else _on_grid(lane.y0 + dy, lane.y1 - dy, v)
        subjects.append(Subject(shape, colour, x, y, size))
    return replace(draft, subjects=tuple(subjects), reach=reach, hops=hops)


GRID = 16
"""Centres of paths are multiples of this, one patch of the transformer: the same shape then falls on its cells in the same way."""


def _on_grid(low: float, high: float, share: float) -> float:
    """The multiple of GRID at `share`, in [0, 1), of those in [low, high]; the middle where there is none."""
    first, last = math.ceil(low / GRID), math.floor(high / GRID)
    if last < first:
        return (low + high) / 2
    return float(GRID * (first + int(share * (last - first + 1))))


# --- motion ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """Where a subject is in one frame: centre and radius in canvas units, angle in radians (clockwise)."""

    x: float
    y: float
    radius: float
    angle: float


def pose(scene: Scene, subject: Subject, phase: float, vigour: float = 1.0) -> Pose:
    """The subject at `phase` in [0, 1] of the clip. vigour: share of the path that the clip travels."""
    x, y, radius, angle = subject.x, subject.y, subject.size, 0.0
    swing = scene.reach * vigour * (phase - 0.5)
    match scene.motion:
        case "left to right":
            x += swing
        case "right to left":
            x -= swing
        case "rises":
            y -= swing
        case "falls":
            y += swing
        case "bounces":
            hops = max(1, round(scene.hops * vigour))
            y += scene.reach * (0.5 - abs(math.sin(math.pi * hops * phase)))
        case "grows":
            radius *= (1 + (scene.reach - 1) * phase) / scene.reach
        case "shrinks":
            radius *= (1 + (scene.reach - 1) * (1 - phase)) / scene.reach
        case "spins":
            angle = 2 * math.pi * scene.reach * vigour * phase
    return Pose(x, y, radius, angle)


def vigour(num_frames: int) -> float:
    """Share of its path a clip travels: all of it from 25 frames on, less in shorter clips.

    A latent frame holds four video frames; at full travel a nine-frame clip would move a
    subject by its own width within one.
    """
    return min(1.0, 0.3 + 0.7 * (num_frames - 1) / 24)


def phases(num_frames: int) -> np.ndarray:
    """Phase of each frame, in [0, 1]; a single frame shows the beginning."""
    return np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)


# --- shapes as signed distances, in units of the radius (negative inside) --------------------

_MARKS = {  # x, y, radius of the darker spot that makes a spin visible, in units of the radius
    "ball": (0.40, -0.40, 0.27),
    "square": (0.40, -0.40, 0.25),
    "triangle": (0.0, -0.32, 0.22),
    "star": (0.0, -0.34, 0.20),
    "heart": (0.42, -0.28, 0.23),
    "ring": (0.53, -0.53, 0.17),
}
_MARK_SHADE = 0.28


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a simple polygon (corners: N x 2)."""
    best = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -1, 1) * np.sqrt(best)


def _regular(count: int, radii: tuple[float, ...]) -> np.ndarray:
    """Corners of a star-like polygon, first one up, radii repeating."""
    turn = np.arange(count) * 2 * np.pi / count - np.pi / 2
    r = np.resize(np.array(radii), count)
    return np.stack([r * np.cos(turn), r * np.sin(turn)], axis=1).astype(np.float32)


def _heart_outline() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.6, (y - 2.6) / 16.6], axis=1).astype(np.float32)


_TRIANGLE = _regular(3, (1.08,))
_STAR = _regular(10, (1.08, 0.47))
_HEART = _heart_outline()


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline at points given in units of the radius, negative inside."""
    match shape:
        case "ball":
            return np.hypot(x, y) - 1.0
        case "ring":
            return np.abs(np.hypot(x, y) - 0.75) - 0.25
        case "square":
            qx, qy = np.abs(x) - 0.86, np.abs(y) - 0.86
            return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)
        case "triangle":
            return _polygon(x, y, _TRIANGLE)
        case "star":
            return _polygon(x, y, _STAR)
        case "heart":
            return _polygon(x, y, _HEART)
    raise ValueError(f"shape {shape!r} is not one of {SHAPES}")


# --- rendering -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """video: uint8 (frames, height, width, 3). mask: uint8 coverage 0..255 of all subjects, (frames, height, width)."""

    video: np.ndarray
    mask: np.ndarray


def render(scene: Scene, num_frames: int = 25, width: int = WIDTH, height: int = HEIGHT, *, only: range | None = None) -> Clip:
    """Draw the scene as a clip of `num_frames`, or just the frames `only` of that clip.

    The canvas is scaled by height and centred when the aspect differs.
    """
    wanted = phases(num_frames)[slice(None) if only is None else slice(only.start, only.stop)]
    stage = paint_background(scene.background, scene.jitter, width, height)
    video = np.empty((len(wanted), height, width, 3), np.uint8)
    mask = np.zeros((len(wanted), height, width), np.uint8)
    for f, phase in enumerate(wanted):
        image, cover = stage.copy(), np.zeros((height, width), np.float32)
        for subject in scene.subjects:
            _draw(image, cover, subject, pose(scene, subject, float(phase), vigour(num_frames)))
        video[f] = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
        mask[f] = np.rint(cover * 255).astype(np.uint8)
    return Clip(video, mask)


def _draw(image: np.ndarray, cover: np.ndarray, subject: Subject, at: Pose) -> None:
    """Paint one subject into `image` (H, W, 3) and its coverage into `cover`, both in place."""
    height, width = cover.shape
    scale = height / HEIGHT
    cx, cy = at.x * scale + (width - WIDTH * scale) / 2, at.y * scale
    radius = at.radius * scale
    x0, x1 = max(0, int(cx - 1.2 * radius - 2)), min(width, int(cx + 1.2 * radius + 3))
    y0, y1 = max(0, int(cy - 1.2 * radius - 2)), min(height, int(cy + 1.2 * radius + 3))
    if x0 >= x1 or y0 >= y1:
        return
    x, y = np.meshgrid((np.arange(x0, x1) + 0.5 - cx) / radius, (np.arange(y0, y1) + 0.5 - cy) / radius)
    cos, sin = math.cos(at.angle), math.sin(at.angle)
    u, v = (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)
    body = np.clip(0.5 - signed_distance(subject.shape, u, v) * radius, 0, 1)
    mx, my, mr = _MARKS[subject.shape]
    mark = np.clip(0.5 - (np.hypot(u - mx, v - my) - mr) * radius, 0, 1)[..., None]
    colour = np.asarray(COLOURS[subject.colour], np.float32)
    paint = colour + (colour * _MARK_SHADE - colour) * mark
    part = image[y0:y1, x0:x1]
    part += (paint - part) * body[..., None]
    np.maximum(cover[y0:y1, x0:x1], body, out=cover[y0:y1, x0:x1])
