"""How a picture of one shape goes into another without being stretched. Pure arithmetic, no pixels."""

from __future__ import annotations

from typing import Literal, get_args

from engine.errors import InvalidRequest

Fit = Literal["crop", "pad"]
"""'crop': fill the frame, the middle stays and what hangs over is cut. 'pad': all of the picture, with bars around it."""

BAR = (0, 0, 0)
"""Colour of the bars: black, as in cinema."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on paper."""


def check_frame(width: int, height: int, fit: str) -> None:
    """Raises `InvalidRequest` (field 'fit', 'width' or 'height') for what no frame can be."""
    if fit not in get_args(Fit):
        raise InvalidRequest("fit", f"is {fit!r}; it can be 'crop' (fill the frame, cut what hangs over) or 'pad' (all of "
                                    "the picture, with black bars).", suggestion="crop")
    for name, value in (("width", width), ("height", height)):
        if value < 1:
            raise InvalidRequest(name, f"is {value}; it must be at least 1 pixel.")


def crop_box(source: tuple[float, float], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred part of `source` (width, height) with the shape of `target`: left, top, right, bottom."""
    width, height = source
    scale = max(target[0] / width, target[1] / height)
    inner_width, inner_height = min(width, target[0] / scale), min(height, target[1] / scale)
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return left, top, left + inner_width, top + inner_height


def scaled_size(source: tuple[float, float], target: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """`source` scaled until it covers `target` ('crop') or lies inside it ('pad'), in whole pixels, at least 1 each.

    For 'crop' one that is at most one pixel too large stays as it is, and keeps its pixels: an odd line is cut off, nothing scaled."""
    if fit == "crop" and all(0 <= side - limit <= 1 and limit > 1 for side, limit in zip(source, target, strict=True)):
        return round(source[0]), round(source[1])
    choose, bound = (max, max) if fit == "crop" else (min, min)
    scale = choose(target[0] / source[0], target[1] / source[1])
    width, height = (bound(round(side * scale), limit) for side, limit in zip(source, target, strict=True))
    return max(1, width), max(1, height)


def centred(inner: int, outer: int) -> int:
    """Where something `inner` long begins in the middle of something `outer` long; negative where it hangs over."""
    return (outer - inner) // 2
