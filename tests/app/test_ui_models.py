"""The Models page as markup: what each state shows, and that nothing a repository says becomes markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.hub.records import Download, Phase, Progress
from app.hub.shelf import Card
from app.hub.words import amount
from app.ui.html.models import models_html, tied

GB = 10**9
EVIL = '<img src=x onerror="alert(1)">'


def card(**fields: Any) -> Card:
    usual = {"name": "me/model", "title": "me/model", "about": "", "origin": "hub", "task": "text to video", "state": "absent"}
    return Card(**usual | fields)


def going(phase: Phase, **fields: Any) -> Card:
    said = Progress(phase=phase, **{"done_bytes": 3 * GB, "total_bytes": 12 * GB} | fields)
    return card(state=phase.value, download=Download(repo="me/model", revision="a" * 40, progress=said, asked_at=1.0))


def page(*cards: Card, offline: bool = False, said: str = "") -> str:
    return models_html(cards, folder="/data/models", free_bytes=70 * GB, offline=offline, said=said)


def buttons(html: str) -> list[str]:
    return re.findall(r'data-act="(model_\w+)"', html.partition('<section class="models">')[2])


@pytest.mark.parametrize(("made", "acts", "words"), [
    (card(download_bytes=20 * GB), ["model_download"], ["about 20.0\u00a0GB"]),
    (card(state="ready", folder=Path("/data/models/me--model"), size_bytes=20 * GB), ["model_use", "model_delete"],
     ["20.0\u00a0GB will be gone"]),
    (card(state="ready", origin="linked", folder=Path("/own"), about="/own", size_bytes=5), ["model_use", "model_delete"],
     ["the folder stays where it is"]),
    (card(state="ready", origin="embedded", folder=Path("/p"), size_bytes=5), ["model_use"], ["comes with Sprocket"]),
    (card(state="damaged", folder=Path("/x"), size_bytes=5, problem="it was cut off"), ["model_download", "model_delete"],
     ["it was cut off"]),
    (going(Phase.WAITING), ["model_cancel"], ["Waiting"]),
    (going(Phase.FETCHING, bytes_per_second=25e6, eta_seconds=400.0), ["model_cancel"],
     ["Downloading · 3.0\u00a0GB of 12.0\u00a0GB · 25\u00a0MB/s · about 7\u00a0min left", 'aria-valuenow="25"']),
    (going(Phase.RETRYING, note="the hub answered 503. Asking again."), ["model_cancel"], ["Waiting for the network", "answered 503"]),
    (going(Phase.STOPPING), [], ["Stopping…"]),
    (going(Phase.STOPPED), ["model_download", "model_discard"], ["Go on", "3.0\u00a0GB of 12.0\u00a0GB kept"]),
    (going(Phase.FAILED, error="it is gated"), ["model_download", "model_discard"], ["Try again", 'role=alert>it is gated']),
])
def test_each_state_says_what_it_is_and_what_can_be_done(made: Card, acts: list[str], words: list[str]) -> None:
    html = page(made)
    assert buttons(html) == acts
    for word in words:
        assert word in html


def test_offline_there_is_no_download_button_and_the_way_out_is_named() -> None:
    html = page(card(), going(Phase.STOPPED), card(state="damaged", folder=Path("/x"), size_bytes=1), offline=True)
    assert "model_download" not in html and "HF_HUB_OFFLINE is set" in html and "/data/models" in html


def test_an_empty_shelf_says_what_to_do() -> None:
    assert "Download one below" in page(card()) and "On its way" not in page(card())


def test_markup_is_text_everywhere() -> None:
    said = card(name=EVIL, title=EVIL, about=EVIL, task=EVIL, licence=EVIL, licence_url=EVIL, memory=EVIL, problem=EVIL, revision=EVIL,
                folder=Path(EVIL), size_bytes=1, state="damaged")
    html = page(said, going(Phase.FAILED, error=EVIL, note=EVIL), said=EVIL)
    assert "<img" not in html and 'onerror="' not in html


def test_amounts() -> None:
    sizes = {0: "0 B", 999: "999 B", 1024: "1 kB", 999_900: "1 MB", 22 * 2**20: "23 MB", 13_780_000_000: "13.8 GB",
             999_960_000_000: "1000.0 GB", 10**16: "10,000,000 GB"}
    assert {count: amount(count) for count in sizes} == sizes
    assert tied("49 frames at 8 fps (6.1 s)") == "49 frames at 8\u00a0fps (6.1\u00a0s)"
