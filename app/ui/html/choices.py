"""What the planner can choose from, on Create: the three words with their cost, and folded, every way and what lossy options cost.

    words_html(words)         Fast, Balanced, Tiny: predicted peak memory and time of each
    choices_html(view)        the fold; empty until it is opened, for weighing every way takes a second
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.hub.words import amount
from app.ui.html.common import button, duration, esc
from engine.alternatives import Alternative
from engine.cache.measured import NAMES, measured
from engine.memory.placement import Home, Placement
from engine.precision import measured as measured_precisions

QUALITY_WORDS = {"lossless": "Lossless", "near-lossless": "Near-lossless", "fast": "Lossy"}
MOST = 12
"""Ways shown of each quality."""


@dataclass(frozen=True, slots=True)
class ChoicesView:
    """All that the fold says."""

    clip: str = ""
    """What the figures are for, in words."""
    every: Sequence[Alternative] = ()
    problem: str = ""
    """Why nothing can be said."""


def words_html(words: Sequence[Alternative]) -> str:
    """One line under the choice of a word. Empty where nothing is known."""
    if not words:
        return ""
    items = "".join(
        f'<li{_current(one)}><button type="button" data-act="profile" data-word="{one.word.lower()}" title="Choose {one.word}">'
        f"<b>{one.word}</b> <span>{esc(amount(one.peak_bytes))}</span> <span>{esc(_time(one))}</span></button></li>"
        for one in words
    )
    return f'<ul class="words" aria-label="Predicted memory and time">{items}</ul>'


def choices_html(view: ChoicesView | None) -> str:
    """The fold. None: not opened yet. No text in it is trusted."""
    if view is None:
        body = '<p class="quiet">Working it out…</p>'
    elif view.problem:
        body = f'<p class="source-problem" role="alert">{esc(view.problem)}</p>'
    else:
        body = _ways(view) + _lossy()
    return f'<details class="choices" data-open="choices"><summary>Every choice, with its cost</summary>{body}</details>'


def home_words(placement: Placement) -> str:
    """'transformer in INT8, block by block from memory; text encoder ...': what differs from all resident, decoded whole."""
    said = [words for part, home in placement.homes.items() if (words := _home(part.replace("_", " "), home))]
    if placement.passes == 2:
        said.append("guidance in two passes")
    if placement.feed_forward == "chunked":
        said.append("blocks in chunks")
    tile = f"{placement.tile[1]} × {placement.tile[0]}"
    said.append({"whole": "decoded whole", "banded": "decoded in bands", "tiled": f"decoded in tiles of {tile}",
                 "by-tile": f"decoded tile by tile, {tile}"}[placement.decode])
    return ", ".join(said)


def _home(name: str, home: Home) -> str:
    source = "memory" if home.source == "ram" else "disk"
    where = {"resident": "", "staged": f"brought from {source} when it works", "streamed": f"block by block from {source}"}[home.residency]
    return f"{name} {where}" if where else ""


def _time(one: Alternative) -> str:
    return f"{one.times:.2f}× time" if one.seconds is None else duration(one.seconds)


def _current(one: Alternative) -> str:
    return ' aria-current="true"' if one.chosen else ""


def _ways(view: ChoicesView) -> str:
    rows = []
    for quality, title in QUALITY_WORDS.items():
        alike = [one for one in view.every if one.quality == quality]
        shown = _worth_showing(alike)
        if shown:
            more = f" <span class='quiet'>{len(shown)} of {len(alike)}</span>" if len(alike) > len(shown) else ""
            rows.append(f'<tr class="choices-group"><th colspan="4" scope="rowgroup">{title}{more}</th></tr>{"".join(map(_way, shown))}')
    head = '<tr><th scope="col">How</th><th scope="col">Weights</th><th scope="col">Peak</th><th scope="col">Time</th></tr>'
    again = button("Work out again", "choices", kind="link small")
    about = f'<p class="quiet">{esc(view.clip)}. Where nothing was measured here, time is compared with the chosen way.</p>'
    return (
        f'<div class="choices-head">{about}{again}</div><div class="choices-scroll" tabindex="0" role="region" '
        f'aria-label="Every way to make it"><table><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _worth_showing(ways: Sequence[Alternative]) -> list[Alternative]:
    """Those that take less memory than any faster one, the chosen and the named ones, evenly thinned to MOST."""
    shown: list[Alternative] = []
    least = float("inf")
    for one in ways:  # the fastest first
        if one.peak_bytes < least or one.chosen or one.word:
            shown.append(one)
            least = min(least, one.peak_bytes)
    if len(shown) <= MOST:
        return shown
    marked = {id(one) for one in shown if one.chosen or one.word}
    kept = {id(shown[round(i * (len(shown) - 1) / (MOST - 1))]) for i in range(MOST)}
    return [one for one in shown if id(one) in marked | kept]


def _way(one: Alternative) -> str:
    marks = [one.word] if one.word else []
    marks += ["chosen"] if one.chosen else []
    marks += [] if one.fits else ["does not fit"]
    marks += [] if one.permitted else ["not allowed by Quality"]
    mark = f' <span class="choices-mark">{esc(", ".join(marks))}</span>' if marks else ""
    dim = "" if one.fits and one.permitted else ' class="dim"'
    text, body = one.placement.text_encoder.precision, one.placement.transformer.precision
    weights = body.upper() if text == body else f"{body.upper()}, text {text.upper()}"
    return (
        f"<tr{dim}{_current(one)}><td>{esc(home_words(one.placement))}{mark}</td><td>{esc(weights)}</td><td>{esc(amount(one.peak_bytes))}</td>"
        f"<td>{esc(_time(one))}</td></tr>"
    )


def _lossy() -> str:
    """What each lossy option was measured to cost: its speed or size, and its quality."""
    rows = [
        (f"{NAMES[row.cache]}{f', gate {row.cfg_gate:g}' if row.cfg_gate < 1 else ''}" if row.cache != "off" else
         f"{row.cfg_gate:.0%} of the steps guided", f"{row.flops_ratio:.1f}× less arithmetic", row.psnr, row.psnr_least)
        for row in measured().rows
    ]
    rows += [
        ("Decoding in tiles", "less memory", row.psnr, row.psnr_least) if row.name == "tiles" else
        (f"Transformer in {row.name.upper()}", f"weights × {row.bytes_share:.2f}", row.psnr, row.psnr_least)
        for row in measured_precisions()
    ]
    body = "".join(f"<tr><td>{esc(name)}</td><td>{esc(gain)}</td><td>{mean:.0f} dB</td><td>{least:.0f} dB</td></tr>"
                   for name, gain, mean, least in rows)
    head = '<tr><th scope="col">Lossy option</th><th scope="col">Saves</th><th scope="col">Quality</th><th scope="col">Worst clip</th></tr>'
    return (
        '<details class="choices-lossy"><summary>What lossy options cost in quality</summary><div class="choices-scroll" tabindex="0" '
        f'role="region" aria-label="Quality of lossy options"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        '<p class="quiet">PSNR of the frames to the exact clip’s, measured on the pocket model: 30 dB is close, 40 dB can hardly be '
        "told apart.</p></details>"
    )
