"""`sprocket loras`, and `--lora FILE[:weight]` of `sprocket generate`.

    sprocket loras list [--json]                 what is here, and which models each one fits
    sprocket loras add FILE... | delete NAME
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, print_list, say
from app.loras import LoraCard
from app.paths import is_file
from engine.errors import InvalidRequest
from engine.request import LORA_NAME

if TYPE_CHECKING:
    from app.studio import Studio

loras_app = typer.Typer(no_args_is_help=True, help="LoRAs: list, add, delete.")


@loras_app.command("list")
def loras_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """LoRAs of this studio, newest first."""
    with opened(data_dir) as studio:
        models = studio.models()
        rows = [card.to_json() | {"fits": [spec.name for spec in models if card.fits(spec)]} for card in studio.loras.cards()]
    print_list("loras", rows, as_json, _line, empty="No LoRAs yet. `sprocket loras add FILE` takes one in.")


@loras_app.command("add")
def loras_add(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="LoRAs as .safetensors.")],
              data_dir: DataDir = None, as_json: Json = False) -> None:
    """Look at LoRA files and keep copies. A file that cannot be used is refused, and those before it stay."""
    with opened(data_dir) as studio:
        cards = [studio.loras.add(file) for file in files]
        _say_notes(cards, studio)
    if as_json:
        print(json.dumps({"loras": [card.to_json() for card in cards]}))
        return
    for card in cards:
        print(card.name)


@loras_app.command("delete")
def loras_delete(name: Annotated[str, typer.Argument(help="Its name, the first 8 digits of it, or what its file was called.")],
                 data_dir: DataDir = None, as_json: Json = False) -> None:
    """Remove a LoRA. Clips that were made with it stay."""
    with opened(data_dir) as studio:
        card = studio.loras.delete(name)
    print(json.dumps({"deleted": card.name})) if as_json else say(f"{card.file or card.name} was deleted.")


def split_weight(text: str) -> tuple[str, float]:
    """('C:\\loras\\fox.safetensors', 0.8) of 'C:\\loras\\fox.safetensors:0.8'; weight 1 where none is said.

    A file of that whole name wins. Raises `InvalidRequest` where what is behind the last colon should be a weight and is none.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or is_file(text):
        return text, 1.0
    drive = len(head) == 1 and head.isalpha() and tail[:1] in ("\\", "/")
    if drive or "/" in tail or "\\" in tail or tail.lower().endswith(".safetensors"):
        return text, 1.0
    try:
        return head, float(tail)
    except ValueError:
        raise InvalidRequest("loras", f"{text[-80:]!r} ends in {tail[:40]!r}, which is no weight. Write FILE:0.8, or FILE alone for weight "
                                      "1.") from None


def stand_ins(options: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    """The LoRAs of a request as it can be checked before any file is copied."""
    return tuple((f"{number:064x}.safetensors", split_weight(text)[1]) for number, text in enumerate(options or ()))


def added(studio: Studio, options: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    """(name, weight) of each --lora. A file is copied into the studio's LoRAs; a name that is in the studio is one already."""
    pairs = [split_weight(text) for text in options or ()]
    cards = []
    for source, _weight in pairs:
        known = LORA_NAME.fullmatch(source) is not None and not Path(source).exists()
        card = None if known else studio.loras.add(Path(source))
        cards.append(card)
    _say_notes([card for card in cards if card is not None], studio)
    return tuple((card.name if card else source, weight) for card, (source, weight) in zip(cards, pairs, strict=True))


def _say_notes(cards: Sequence[LoraCard], studio: Studio) -> None:
    for card in cards:
        for note in card.notes:
            say(f"{card.file}: {note}")


def _line(row: dict[str, Any]) -> str:
    fits = ", ".join(row["fits"]) or f"no model here ({row['blocks']} blocks, width {row['width']})"
    trigger = f"  {row['trigger']!r}" if row["trigger"] else ""
    return f"{row['name'][:12]}  {row['file'][:40]:<40}  rank {row['rank']:<4} fits {fits}{trigger}"
