"""The Models page: what is here, what is on its way, what could be fetched, and a field for anything else.

A card's facts are what one chooses by: what it does, how large its videos are, what it costs in disk and memory, its licence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.hub.records import Download, Phase
from app.hub.shelf import Card
from app.hub.words import amount
from app.ui.html.common import button, esc, left

PHASE_WORDS = {
    Phase.WAITING: "Waiting",
    Phase.ASKING: "Asking the hub",
    Phase.FETCHING: "Downloading",
    Phase.RETRYING: "Waiting for the network",
    Phase.CHECKING: "Checking",
    Phase.STOPPING: "Stopping",
    Phase.STOPPED: "Stopped",
    Phase.FAILED: "Did not work",
}


def models_html(cards: Sequence[Card], *, folder: str, free_bytes: int | None, offline: bool, said: str = "") -> str:
    """The whole page. `folder`: where models lie; `free_bytes`: of its disk, None if not known; `said`: why the last wish was refused."""
    here = [card for card in cards if card.folder is not None]
    coming = [card for card in cards if card.folder is None and card.download is not None]
    rest = [card for card in cards if card.folder is None and card.download is None]
    free = f" · {amount(free_bytes)} free on the disk" if free_bytes is not None else ""
    refused = f'<p class="banner bad model-said" role="alert">{esc(said)}</p>' if said else ""
    head = f'<h1 class="page-title">Models</h1><span class="quiet">{len(here)} on this machine{esc(free)}</span>'
    return (
        f'<header class="page-head">{head}</header>'
        f"{_offline(folder) if offline else ''}{_add_form(offline)}{refused}"
        f"{_group('On its way', coming, offline)}{_group('On this machine', here, offline) if here else _none_here()}"
        f"{_group('Published models', rest, offline)}"
        f'<p class="models-foot quiet">Downloads lie in <code>{esc(folder)}</code>. Only configs, tokenizers and safetensors are fetched, '
        "each checked against the hub's checksum; never code, never pickles.</p>"
    )


def _offline(folder: str) -> str:
    return (
        '<p class="banner" role="status"><b>Offline.</b> HF_HUB_OFFLINE is set, so nothing can be downloaded. Unset it and start Sprocket '
        f"again; or copy a model's folder into <code>{esc(folder)}</code>, or give its path below. What is here works as always.</p>"
    )


def _add_form(offline: bool) -> str:
    what = "A model's folder on this machine" if offline else "hub owner/name, or a folder here"
    return (
        '<form class="filters model-add" data-act="model_add"><label class="search"><span class="sr">Add a model: its id on the hub, or '
        f'a folder on this machine</span><input name="model" placeholder="{esc(what)}" maxlength="1000" required autocomplete="off" '
        'spellcheck="false" autocapitalize="off"></label><button class="btn" type="submit">Add model</button></form>'
    )


def _none_here() -> str:
    return (
        '<section class="models"><h2>On this machine</h2><p class="all-done">None: the embedded model is missing from this copy of '
        "Sprocket. Download one below, or add a folder.</p></section>"
    )


def _group(title: str, cards: Sequence[Card], offline: bool) -> str:
    if not cards:
        return ""
    rows = "".join(_card(card, offline) for card in cards)
    return f'<section class="models"><h2>{esc(title)}</h2><ul>{rows}</ul></section>'


def _card(card: Card, offline: bool) -> str:
    task = f'<span class="model-task">{esc(card.task)}</span>' if card.task else ""
    name = f'<p class="model-name">{esc(card.name)}</p>' if card.name != card.title else ""
    about = f'<p class="model-about">{esc(card.about)}</p>' if card.about else ""
    body = _progress(card.download) if card.download is not None else ""
    problem = f'<p class="model-problem">{esc(card.problem)}</p>' if card.problem and card.download is None else ""
    return (
        f'<li class="model model-{card.state}" data-model="{esc(card.name)}" data-state="{card.state}">'
        f'<div class="model-head"><h3>{esc(card.title)}</h3>{task}</div>{name}{about}{_facts(card)}{problem}{body}'
        f'<div class="model-actions">{_actions(card, offline)}</div></li>'
    )


def _facts(card: Card) -> str:
    rows = []
    if card.width and card.height and card.frames and card.fps:
        length = f"{card.frames} frames at {card.fps:g} fps ({card.frames / card.fps:.1f} s)"
        rows.append(("Video", f"{card.width} × {card.height}, {length}"))
    if card.size_bytes is not None:
        rows.append(("Disk", amount(card.size_bytes)))
    elif card.download_bytes is not None:
        exact = card.download is not None and card.download.progress.total_bytes is not None
        rows.append(("Download", amount(card.download_bytes) if exact else f"about {amount(card.download_bytes)}"))
    if card.memory:
        rows.append(("Memory", card.memory))
    cells = "".join(f"<div><dt>{word}</dt><dd>{esc(tied(value))}</dd></div>" for word, value in rows)
    if card.licence:
        shown = esc(card.licence)
        if card.licence_url:
            shown = f'<a class="inline" href="{esc(card.licence_url)}" target="_blank" rel="noopener noreferrer">{shown}</a>'
        cells += f"<div><dt>Licence</dt><dd>{shown}</dd></div>"
    if card.revision:
        cells += f'<div><dt>Commit</dt><dd><code title="{esc(card.revision)}">{esc(card.revision[:12])}</code></dd></div>'
    return f'<dl class="model-facts">{cells}</dl>' if cells else ""


def _progress(download: Download) -> str:
    progress, share = download.progress, download.share
    words = [PHASE_WORDS[download.phase]]
    if progress.total_bytes:
        kept = " kept" if download.phase.ended else ""
        words.append(f"{amount(progress.done_bytes)} of {amount(progress.total_bytes)}{kept}")
    if progress.bytes_per_second:
        words.append(f"{amount(progress.bytes_per_second)}/s")
    if progress.eta_seconds is not None:
        words.append(left(progress.eta_seconds))
    note = progress.error or progress.note or ""
    tone = "model-problem" if progress.error else "model-note"
    said = f'<p class="{tone}"{" role=alert" if progress.error else ""}>{esc(note)}</p>' if note else ""
    bar = (
        '<div class="bar" role="progressbar" aria-label="Downloaded" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'
    )
    return f'<div class="model-progress">{bar}<p class="job-line">{esc(" · ".join(tied(word) for word in words if word))}</p>{said}</div>'


def _actions(card: Card, offline: bool) -> str:
    name, download = card.name, card.download
    actions = ""
    if card.ready:
        actions = button("Use it", "model_use", kind="small primary", title=f"Make a video with {name}", name=name, view="create")
    if download is not None:
        return actions + _download_actions(name, download, offline)
    if card.folder is None:
        return _download_button("Download", name, offline)
    if card.state == "damaged" and card.origin == "hub":
        actions += _download_button("Download again", name, offline)
    if card.origin == "embedded":
        return actions + '<span class="quiet">comes with Sprocket</span>'
    return actions + _confirmed(card)


def _download_button(label: str, name: str, offline: bool) -> str:
    return "" if offline else button(label, "model_download", kind="small strong", title=f"{label}: {name}", name=name, busy="Starting…")


def _download_actions(name: str, download: Download, offline: bool) -> str:
    if download.phase is Phase.STOPPING:
        return '<span class="quiet">Stopping…</span>'
    if not download.phase.ended:
        return button("Cancel", "model_cancel", kind="small", title=f"Cancel the download of {name}", name=name, busy="Stopping…")
    again = "Try again" if download.phase is Phase.FAILED else "Go on"
    throw = button("Throw away", "model_discard", kind="small quiet-bad", title=f"Throw away what has come of {name}", name=name)
    return _download_button(again, name, offline) + throw


def _confirmed(card: Card) -> str:
    """Asks a second time (`studio.js`), because a model is hours of downloading."""
    word, what = (("Remove", "Only the entry goes; the folder stays where it is.") if card.origin == "linked"
                  else ("Delete", f"{amount(card.size_bytes or 0)} will be gone from the disk."))
    return button(f"{word}…", "model_delete", kind="small quiet-bad model-delete", title=f"{word} {card.name}", name=card.name,
                  sure=f"{word} {card.title}?", why=tied(what), yes=f"{word} it")


def tied(text: str) -> str:
    """A number and its unit stay on one line."""
    return re.sub(r"(?<=\d) (?=(?:GB|MB|kB|B|fps|s|min|h)\b)", "\u00a0", text)
