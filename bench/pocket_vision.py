"""Classical vision that reads a pocket clip: which shape, colour, background and motion it shows.

No learning, no knowledge of the caption: segmentation by chroma, hull and radial outline for
the shape, tracks of centroid, area and mark angle for the motion, row colours for the stage.
Made for single-subject clips at any size; lengths are in shares of the frame's height.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from training.pocket import world
from training.pocket.scenery import paint_background

CHROMA = 95
"""Subjects are more colourful than this (max - min of RGB, 0..255), backgrounds less."""


@dataclass(frozen=True)
class Reading:
    """What a clip shows; an attribute is "none" when no subject was found."""

    shape: str
    colour: str
    background: str
    motion: str


@dataclass(frozen=True)
class Blob:
    """The largest subject of one frame. mask: bool (H, W) without the dark mark; hull: bool (H, W)."""

    mask: np.ndarray
    hull: np.ndarray
    x: float
    y: float
    hull_area: float
    tilt: complex
    """From the hull's centre to the mask's, in units of the radius: points away from the mark."""


def read_clip(video: np.ndarray) -> Reading:
    """uint8 (F, H, W, 3) -> what is seen in it."""
    background = read_background(video)
    frames, blobs = subjects(video)
    if not blobs:
        return Reading("none", "none", background, "none")
    return Reading(read_shape(blobs), read_colour(frames, blobs), background, read_motion(blobs, video.shape[1]))


def subjects(video: np.ndarray) -> tuple[list[np.ndarray], list[Blob]]:
    """The frames that show a subject, and it; none of them where fewer than 0.6 of all do."""
    found = [(frame, blob) for frame in video if (blob := find_blob(frame)) is not None]
    if len(found) < max(1, 0.6 * len(video)):
        return [], []
    return [frame for frame, _ in found], [blob for _, blob in found]


def find_blob(frame: np.ndarray) -> Blob | None:
    chroma = frame.max(-1).astype(int) - frame.min(-1)
    mask = (chroma > CHROMA).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return None
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[best, cv2.CC_STAT_AREA] < 0.006 * mask.size:
        return None
    part = (labels == best).astype(np.uint8)
    points = cv2.findNonZero(part)
    hull = cv2.fillConvexPoly(np.zeros_like(part), cv2.convexHull(points), 1)
    hy, hx = np.nonzero(hull)
    my, mx = np.nonzero(part)
    radius = (len(hx) / np.pi) ** 0.5
    tilt = complex(mx.mean() - hx.mean(), my.mean() - hy.mean()) / radius
    return Blob(part > 0, hull > 0, float(hx.mean()), float(hy.mean()), float(len(hx)), tilt)


# --- background ------------------------------------------------------------------------------


def _rows(video: np.ndarray) -> np.ndarray:
    """Median colour of each of 32 bands of rows, over time and width: (32, 3)."""
    frames, height, width, _ = video.shape
    bands = video[:, : height // 32 * 32].reshape(frames, 32, -1, width, 3).transpose(1, 0, 2, 3, 4)
    return np.median(bands.reshape(32, -1, 3), axis=1)


def read_background(video: np.ndarray) -> str:
    _, height, width, _ = video.shape
    seen = _rows(video[:: max(1, len(video) // 5)])

    def distance(name: str) -> float:
        stage = paint_background(name, (0.0, 0.0, 0.0), width, height)
        # The median over bands forgives those that a large subject covers.
        return float(np.median(np.abs(_rows(np.rint(stage).astype(np.uint8)[None]) - seen).sum(-1)))

    return min(world.BACKGROUNDS, key=distance)


# --- colour ----------------------------------------------------------------------------------


def lab(rgb: np.ndarray) -> np.ndarray:
    """RGB (n, 3) or (3,), 0 to 255 -> CIE Lab (n, 3)."""
    return cv2.cvtColor(np.asarray(rgb, np.float32).reshape(1, -1, 3) / 255, cv2.COLOR_RGB2LAB)[0]


def inner(blob: Blob) -> np.ndarray:
    """bool (H, W): the subject's pixels away from its outline; a small one may have none."""
    return cv2.erode(blob.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def read_colour(frames: list[np.ndarray], blobs: list[Blob]) -> str:
    """Nearest named colour, in hue and saturation, to the median of the subject's inner pixels."""
    pixels = [frame[inside if (inside := inner(blob)).any() else blob.mask] for frame, blob in zip(frames, blobs, strict=True)]
    seen = lab(np.median(np.concatenate(pixels), axis=0))[0]
    names = tuple(world.COLOURS)
    palette = lab(np.array([world.COLOURS[n] for n in names]))
    difference = (palette - seen) * np.float32((0.5, 1, 1))
    return names[int(np.argmin((difference**2).sum(1)))]


# --- shape -----------------------------------------------------------------------------------


def outline(mask: np.ndarray) -> np.ndarray:
    """Rotation-free description of a silhouette: magnitudes of harmonics 1..6 of its radial outline, and its hole."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED)
    ys, xs = np.nonzero(filled)
    cx, cy = xs.mean(), ys.mean()
    points = max(contours, key=len)[:, 0].astype(np.float32)
    dx, dy = points[:, 0] - cx, points[:, 1] - cy
    order = np.argsort(np.arctan2(dy, dx))
    turn, radius = np.arctan2(dy, dx)[order], np.hypot(dx, dy)[order]
    even = np.interp(np.linspace(-np.pi, np.pi, 128, endpoint=False), turn, radius, period=2 * np.pi)
    spectrum = np.abs(np.fft.rfft(even))
    core = np.hypot(xs - cx, ys - cy) < 0.42 * (len(xs) / np.pi) ** 0.5
    hole = 1 - float(mask[ys[core], xs[core]].mean()) if core.any() else 0.0  # a blob of a few pixels
    return np.append(2 * spectrum[1:7] / spectrum[0], 0.5 * hole)


@functools.cache
def ideals() -> dict[str, np.ndarray]:
    """Outline of every shape of the world."""
    return {shape: _ideal(shape) for shape in world.SHAPES}


def _ideal(shape: str) -> np.ndarray:
    y, x = (np.mgrid[0:96, 0:96] - 47.5) / 32
    body = world.signed_distance(shape, x.astype(np.float32), y.astype(np.float32)) < 0
    return outline(body)


def read_shape(blobs: list[Blob], known: Mapping[str, np.ndarray] | None = None) -> str:
    """The nearest of the `known` outlines, by default those of the world's shapes, to the median over the half of the frames where the
    subject is largest."""
    largest = sorted(blobs, key=lambda blob: -blob.hull_area)[: max(1, (len(blobs) + 1) // 2)]
    seen = np.median([outline(blob.mask) for blob in largest], axis=0)
    outlines = known or ideals()
    return min(outlines, key=lambda shape: float(np.abs(outlines[shape] - seen).sum()))


# --- motion ----------------------------------------------------------------------------------


def read_motion(blobs: list[Blob], height: int) -> str:
    """Decide from the tracks of centre, size and mark; "still" when nothing of it moves enough."""
    x = np.array([blob.x for blob in blobs]) / height
    y = np.array([blob.y for blob in blobs]) / height
    size = np.sqrt([blob.hull_area for blob in blobs])
    k = max(1, len(blobs) // 8)
    growth = size[-k:].mean() / size[:k].mean()
    dx, dy = x[-k:].mean() - x[:k].mean(), y[-k:].mean() - y[:k].mean()
    if growth > 1.22:
        return "grows"
    if growth < 1 / 1.22:
        return "shrinks"
    travel = np.ptp(y)
    if travel > 0.16 and abs(dy) < 0.5 * travel and np.ptp(x) < travel:
        return "bounces"
    if max(abs(dx), abs(dy)) > 0.12:
        if abs(dx) > abs(dy):
            return "left to right" if dx > 0 else "right to left"
        return "falls" if dy > 0 else "rises"
    return "spins" if _turned(blobs) > 90 else "still"


def _turned(blobs: list[Blob]) -> float:
    """Degrees the mark went round its subject, either way."""
    tilts = np.array([blob.tilt for blob in blobs])
    clear = np.abs(tilts) > 0.015
    if clear.sum() < 3:
        return 0.0
    turn = np.unwrap(np.angle(tilts[clear]))
    return float(np.degrees(abs(turn[-1] - turn[0]) if len(turn) else 0.0))
