"""The six places of the pocket world: pale or dark, so that bright and saturated subjects stand out.

Drawn on the same canvas of 192x128 units as everything in `world.py`, scaled by height.
"""

from __future__ import annotations

import numpy as np

CANVAS_WIDTH, CANVAS_HEIGHT = 192, 128


def _blend(low, high, t: np.ndarray) -> np.ndarray:
    """Colours (..., 3) between two RGB triples, t in [0, 1]."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return low + (high - low) * np.clip(t, 0, 1)[..., None]


def _over(image: np.ndarray, colour: np.ndarray, distance: np.ndarray, pixel: float) -> np.ndarray:
    """Paint `colour` where the distance (canvas units) is negative, with an antialiased edge."""
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    return image + (colour - image) * cover


def paint_background(name: str, jitter: tuple[float, float, float], width: int, height: int) -> np.ndarray:
    """The empty stage, float32 (height, width, 3) in [0, 255]."""
    pixel = CANVAS_HEIGHT / height
    x, y = np.meshgrid((np.arange(width) + 0.5) * pixel, (np.arange(height) + 0.5) * pixel)
    x, y = x.astype(np.float32), y.astype(np.float32)
    shift = 3.0 * jitter[0]
    image = _SCENERY[name](x, y, shift, 8.0 * jitter[1], pixel)
    return np.clip(image * (1 + 0.03 * jitter[2]), 0, 255).astype(np.float32)


def _night(x, y, shift, slide, pixel):
    image = _blend((6, 8, 30), (30, 32, 72), y / CANVAS_HEIGHT)
    stars = np.random.default_rng(7).uniform((2, 4, 1.3, 90), (CANVAS_WIDTH - 2, CANVAS_HEIGHT - 4, 2.0, 170), (22, 4))
    for sx, sy, radius, light in stars:
        glow = np.exp(-((x - sx - slide / 4) ** 2 + (y - sy - shift) ** 2) / (2 * radius**2))
        image = image + glow[..., None] * np.array((light, light, light * 0.95), np.float32)
    return image


def _meadow(x, y, shift, slide, pixel):
    image = _blend((176, 208, 232), (224, 236, 240), y / 70)
    far = 66 + shift + 7 * np.sin((x + slide) / 31)
    near = 88 + shift + 6 * np.sin((x - slide) / 23 + 2)
    image = _over(image, np.array((160, 192, 132), np.float32), far - y, pixel)
    return _over(image, _blend((132, 172, 104), (112, 152, 88), (y - 84) / 44), near - y, pixel)


def _sea(x, y, shift, slide, pixel):
    image = _blend((158, 182, 200), (206, 216, 220), y / 44)
    water = _blend((74, 116, 138), (40, 76, 100), (y - 44) / 84)
    wave = np.sin((y - 44 - shift) / 3.4 + 1.6 * np.sin((x + slide) / 17))
    water = water + (7 * wave)[..., None]
    return _over(image, water, 44 + shift - y, pixel)


def _desert(x, y, shift, slide, pixel):
    image = _blend((244, 226, 204), (252, 240, 220), y / 60)
    far = 68 + shift + 9 * np.sin((x + slide) / 37 + 1)
    near = 96 + shift + 8 * np.sin((x + slide) / 29 + 4)
    image = _over(image, np.array((224, 196, 156), np.float32), far - y, pixel)
    return _over(image, np.array((202, 170, 128), np.float32), near - y, pixel)


def _snow(x, y, shift, slide, pixel):
    image = _blend((188, 202, 222), (214, 224, 238), y / 60)
    far = 62 + shift + 6 * np.sin((x + slide) / 27 + 3)
    near = 86 + shift + 5 * np.sin((x - slide) / 33)
    image = _over(image, np.array((228, 235, 246), np.float32), far - y, pixel)
    return _over(image, np.array((247, 249, 253), np.float32), near - y, pixel)


def _studio(x, y, shift, slide, pixel):
    wall = _blend((150, 150, 152), (172, 172, 174), y / 92)
    return _over(wall, _blend((136, 135, 136), (118, 117, 118), (y - 92) / 36), 92 + shift - y, pixel)


_SCENERY = {
    "night sky": _night,
    "meadow": _meadow,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
    "plain studio": _studio,
}
