"""Curves as SVG: drawn on the server from a run's log, so a page shows them without a script. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.ui.html.common import esc

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 560, 220, 58, 18, 24, 8
MOST_POINTS = 400


def smoothed(values: Sequence[float], weight: float = 0.97) -> list[float]:
    """Exponential running mean, corrected for its start."""
    found, total, share = [], 0.0, 0.0
    for value in values:
        total, share = weight * total + (1 - weight) * value, weight * share + (1 - weight)
        found.append(total / share)
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def curve_svg(lines: Mapping[str, Points], most_x: float, title: str) -> str:
    """Lines by class (`line-<name>` in the style sheet) over steps 0..`most_x`; '' where there is nothing to draw."""
    values = [y for points in lines.values() for _, y in points if math.isfinite(y)]
    if not values:
        return ""
    low, high = _range(lines, values)
    across, up = (WIDTH - LEFT - RIGHT) / max(1.0, most_x), (HEIGHT - BOTTOM - TOP) / (high - low)

    def at(x: float, y: float) -> str:
        return f"{LEFT + x * across:.1f},{TOP + (high - min(max(y, low), high)) * up:.1f}"

    drawn = "".join(f'<polyline class="line-{esc(name)}" points="{" ".join(at(x, y) for x, y in thinned(points))}"/>'
                    for name, points in lines.items() if points)
    ticks = "".join(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" '
                    f'text-anchor="end">'
                    f"{_number(value)}</text>" for value, y in ((value, TOP + (high - value) * up) for value in _ticks(low, high)))
    steps = "".join(f'<text x="{LEFT + x * across:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{x:.0f}</text>'
                    for x in _ticks(0, most_x) if x == int(x))
    frame = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{esc(title)}">'
    return f'{frame}<g class="axis">{ticks}{steps}</g>{drawn}</svg>'


def spark_svg(values: Sequence[float]) -> str:
    """A small curve without axes."""
    if len(values) < 2:
        return '<svg class="curve mini" viewBox="0 0 96 64" aria-hidden="true"></svg>'
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    points = thinned([(number, value) for number, value in enumerate(values)], 60)
    text = " ".join(f"{4 + 88 * x / (len(values) - 1):.1f},{6 + 52 * (high - y) / spread:.1f}" for x, y in points)
    return f'<svg class="curve mini" viewBox="0 0 96 64" aria-hidden="true"><polyline class="line-smooth" points="{text}"/></svg>'


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about `most` of them, first and last among them; those that are not finite are left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    stride = max(1, len(finite) // most)
    kept = finite[::stride]
    return kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]]


def _number(value: float) -> str:
    """Three digits, and no long row of zeros: '0.075', '2.5e-4'."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    power = math.floor(math.log10(abs(value)))
    return f"{value / 10**power:.3g}e{power}"


def _range(lines: Mapping[str, Points], values: Sequence[float]) -> tuple[float, float]:
    """All of the drawn values, but raw losses only up to where 98 % of them lie: single outliers would flatten everything."""
    calm = sorted(values)
    low, high = calm[0], calm[max(0, math.ceil(len(calm) * 0.98) - 1)] if "raw" in lines else calm[-1]
    return (low, high) if high > low else (low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    if raw <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(raw))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= raw * 0.999)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, first + 7) if number * step <= high * (1 + 1e-9)]
