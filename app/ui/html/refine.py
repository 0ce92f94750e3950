"""The panel below the prompt: refine it, see what was changed, take it back, choose among versions.

    refine_html(view)     markup for one of: nothing yet, at work, done, several versions, failed
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.ui.html.common import button, esc

BY = {"pocket": "Pocket refiner", "endpoint": "Chat server", "local": "Local chat model"}
ABOUT = {
    "pocket": "embedded; knows the pocket model's small world",
    "endpoint": "your words go to the server this studio is set up with",
    "local": "runs on this machine, for a moment",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineView:
    """All that the panel says. No text in it is trusted."""

    state: str = "idle"
    """'idle', 'running', 'done', 'choose' or 'failed'."""
    backends: Sequence[str] = ("pocket",)
    backend: str = "pocket"
    """The one that will be asked; '' if none is set up for the model."""
    key: str = ""
    """Of the refinement on its way."""
    wish: str = ""
    text: str = ""
    """The prompt as it was refined; while running: the answer so far."""
    by: str = ""
    """What wrote it."""
    notes: Sequence[str] = ()
    tokens: str = ""
    versions: Sequence[str] = ()
    language: str = ""
    """Of the user's words, if it is not English."""
    problem: str = ""
    then: str = ""
    """'generate' where Generate waits for it."""
    fetched: bool = False
    """The answer is there and the form does not say it yet: the page asks for it."""


def refine_html(view: RefineView) -> str:
    """The panel's markup."""
    body = {"running": _running, "done": _done, "choose": _choose, "failed": _failed}.get(view.state, lambda _: "")(view)
    ready = f' data-refined="{esc(view.key)}"' if view.fetched else ""
    press = f' data-press="{esc(view.key)}"' if view.then == "generate" and view.state in ("done", "idle") and view.key else ""
    return f'<div class="refine" data-state="{esc(view.state)}"{ready}{press}>{_bar(view)}{body}</div>'


def _bar(view: RefineView) -> str:
    if view.state == "running":
        return ""
    again = view.state in ("done", "choose")
    first = button("Another version", "refine_another", kind="small") if again else button("Refine", "refine", kind="small", title=(
        "Turns a short wish into the description that the model was trained on"))
    several = button("3 versions", "refine_three", kind="small ghost")
    return f'<div class="refine-bar">{first}{several}{_choice(view)}</div>'


def _choice(view: RefineView) -> str:
    if not view.backend:
        return '<span class="quiet">no refiner is set up for this model</span>'
    if len(view.backends) < 2:
        return f'<span class="quiet" title="{esc(ABOUT[view.backend])}">by the {esc(BY[view.backend].lower())}</span>'
    buttons = "".join(button(BY[name], "refine_by", kind="chip-btn", by=name, title=ABOUT[name]).replace(
        "<button ", f'<button aria-pressed="{"true" if name == view.backend else "false"}" ', 1) for name in view.backends)
    return f'<div class="refine-by" role="group" aria-label="Refine with">{buttons}</div>'


def _running(view: RefineView) -> str:
    who = BY.get(view.by or view.backend, "refiner")
    text = f'<p class="refine-stream">{esc(view.text)}<span class="caret" aria-hidden="true"></span></p>' if view.text else ""
    waits = " Generate follows." if view.then == "generate" else ""
    stop = button("Stop", "refine_stop", kind="small", key=view.key, busy="Stopping…")
    return (f'<div class="refine-live" role="status"><span class="spinner" aria-hidden="true"></span>'
            f'<span>The {esc(who.lower())} is writing…{waits}</span>{stop}</div>{text}')


def _done(view: RefineView) -> str:
    before, after = marked(view.wish, view.text)
    language = f'<p class="quiet refine-language">{esc(view.language)}</p>' if view.language else ""
    notes = "".join(f"<li>{esc(note)}</li>" for note in view.notes)
    notes = f'<ul class="refine-notes">{notes}</ul>' if notes else ""
    return (f'<div class="refine-pair"><section><h4>Your words</h4><p lang="">{before}</p></section>'
            f'<section><h4>Refined <span class="quiet">{esc(view.tokens)}</span></h4><p>{after}</p></section></div>'
            f'{language}{notes}<div class="refine-ways">{button("Undo", "refine_undo", kind="small ghost", title="Back to your own words")}'
            f'<span class="quiet">Change the prompt above as you like. Both texts are kept with the clip.</span></div>')


def _choose(view: RefineView) -> str:
    cards = "".join(f'<li><p>{marked(view.wish, text)[1]}</p>{button("Use this", "refine_use", kind="small", index=number)}</li>'
                    for number, text in enumerate(view.versions))
    notes = "".join(f"<li>{esc(note)}</li>" for note in view.notes)
    return (f'<ol class="refine-versions">{cards}</ol>' + (f'<ul class="refine-notes">{notes}</ul>' if notes else "")
            + f'<div class="refine-ways">{button("Keep my words", "refine_undo", kind="small ghost")}</div>')


def _failed(view: RefineView) -> str:
    skip = button("Generate with my words", "refine_skip", kind="small") if view.then == "generate" else ""
    return (f'<div class="refine-failed" role="alert"><p>{esc(view.problem)}</p><div class="refine-ways">{skip}'
            f'{button("Dismiss", "refine_hush", kind="small ghost")}</div></div>')


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as markup: words that only the first has in <del>, words that only the second has in <ins>. Case is no difference."""
    old, new = _words(before), _words(after)
    bare = lambda words: [word.casefold().strip(".,;:!?") for word in words]  # noqa: E731
    match = difflib.SequenceMatcher(None, bare(old), bare(new), autojunk=False)
    left, right = [], []
    for kind, a0, a1, b0, b1 in match.get_opcodes():
        gone, come = esc(" ".join(old[a0:a1])), esc(" ".join(new[b0:b1]))
        if gone:
            left.append(gone if kind == "equal" else f"<del>{gone}</del>")
        if come:
            right.append(come if kind == "equal" else f"<ins>{come}</ins>")
    return " ".join(left), " ".join(right)


def _words(text: str) -> list[str]:
    """At white space; Chinese and Japanese, which have none, letter by letter."""
    return re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\s\u3040-\u30ff\u4e00-\u9fff]+", text)
