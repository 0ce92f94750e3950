"""Fill between two clips: which one follows, how many frames come between, and what makes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.history.records import Clip
from app.ui.html.common import esc, poster_url, short
from app.ui.html.interpolate import GENERATED, LABEL, model_of
from engine.interpolate.filling import SAME_RATE
from engine.models.catalogue import embedded

BETWEEN = (1, 3, 7, 15, 31)
"""Frames; what rounds of a model can make, and flow as well."""
CHOSEN = 7
SUMMARY = '<summary class="btn small">Fill between this clip and another…</summary>'
MOST = 24
"""Clips to choose from."""
FEW = 6
"""Up to so many nobody needs to search."""


def followers(clip: Clip, clips: Iterable[Clip]) -> list[Clip]:
    """Of `clips` those that can be one clip with it: others of its size and rate."""
    return [other for other in clips
            if other.id != clip.id and not other.missing and other.sha256 != clip.sha256
            and (other.width, other.height) == (clip.width, clip.height) and abs(other.fps - clip.fps) < SAME_RATE][:MOST]


def fill_html(clip: Clip, others: Sequence[Clip], *, many: bool = False, words: str | None = None) -> str:
    """Folded, until `words` of a search say otherwise. `others`: from `followers`; `many`: there are more than were looked through."""
    if not others and words is None:
        return (f'<details class="fill">{SUMMARY}<p class="quiet">There is no other clip of {clip.width} × {clip.height} at {clip.fps:g} '
                "fps here to go on to. Make one, then fill between the two.</p></details>")
    search = _search(clip, words or "") if words is not None or many or len(others) > FEW else ""
    opened = '<details class="fill">' if words is None else '<details class="fill" open>'
    if not others:
        return f'{opened}{SUMMARY}{search}<p class="quiet">No other clip of this size and rate has these words. Try fewer.</p></details>'
    choices = "".join(_choice(other) for other in others)
    counts = "".join(f'<option value="{count}"{" selected" if count == CHOSEN else ""}>{count} ({count / clip.fps:.1f} s)</option>'
                     for count in BETWEEN)
    ways = f'<option value="flow">{LABEL}</option>'
    if model_of(clip) in embedded():
        ways += f'<option value="generate">{GENERATED}</option>'
    return (
        f'{opened}{SUMMARY}{search}<form data-act="fill" data-clip="{clip.id}" data-view="create">'
        f'<fieldset><legend>After this clip comes</legend><ul class="grid mini">{choices}</ul></fieldset>'
        f'<div class="fill-row"><label><span>Frames between</span><select name="between">{counts}</select></label>'
        f'<label><span>Made by</span><select name="method">{ways}</select></label>'
        '<button class="btn primary" type="submit">Fill between</button></div></form></details>'
    )


def _search(clip: Clip, words: str) -> str:
    return (f'<form class="fill-row fill-search" role="search" data-act="fill_search" data-clip="{clip.id}" data-stay="1">'
            f'<label><span>Search prompts and names</span><input type="search" name="words" value="{esc(words)}" maxlength="200" '
            'autocomplete="off"></label><button class="btn small" type="submit">Search</button></form>')


def _choice(other: Clip) -> str:
    return (
        f'<li><label class="pick"><input type="radio" name="then" value="{other.id}" required><span class="poster">'
        f'<img src="{poster_url(other.id)}" alt="" loading="lazy" width="{other.width}" height="{other.height}">'
        f'<span class="length">{other.frames / other.fps:.1f} s</span></span>'
        f'<span class="card-name">{esc(short(other.name or other.prompt, 40))}</span></label></li>'
    )
