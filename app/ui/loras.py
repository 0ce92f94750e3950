"""The LoRA panel of Create: from what the form keeps to what it shows, and what its buttons do.

The stack is kept beside the form as the request has it, `kept['loras'] = [[name, weight], ...]`, so that restoring a clip, remixing
it or dropping its file brings the stack back like any other setting. All of it comes from a browser and is checked where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.hub.words import amount
from app.loras import LoraCard
from app.ui import views
from app.ui.html.loras import LoraRow, LorasView, loras_html
from app.ui.html.status import notice_html
from app.ui.parts import Changes
from engine.errors import InvalidRequest, SprocketError
from engine.request import MAX_LORA_WEIGHT, MAX_LORAS

if TYPE_CHECKING:
    from app.ui.actions import Click

Stack = list[list[Any]]


def stack_of(kept: object) -> Stack:
    """The (name, weight) pairs that are kept; what is none is left out."""
    pairs = kept.get("loras") if isinstance(kept, Mapping) else None
    return [[pair[0], float(pair[1])] for pair in pairs or () if isinstance(pair, (list, tuple)) and len(pair) == 2
            and isinstance(pair[0], str) and isinstance(pair[1], (int, float))]


def lora_panel(studio: Any, model: object, kept: object, problem: str = "") -> str:
    """The panel's markup for the model and the stack that the form says."""
    spec, cards = views.spec_of(studio, model), {card.name: card for card in studio.loras.cards()}
    stack = stack_of(kept)
    rows = [_row(cards[name], spec, weight) if name in cards else _gone(name, weight) for name, weight in stack]
    used = {name for name, _ in stack}
    rows += [_row(card, spec, None) for card in cards.values() if card.name not in used]
    return loras_html(LorasView(rows, spec.name if spec else "", problem))


def fitting(studio: Any, spec: Any, stack: Stack) -> tuple[tuple[str, float], ...]:
    """Of a stack those that are here and fit the model."""
    cards = {card.name: card for card in studio.loras.cards()}
    return tuple((name, weight) for name, weight in stack if name in cards and cards[name].fits(spec))


def lora_on(click: Click) -> Changes:
    """Into the next video, at the strength it was trained at."""
    stack, name = stack_of(click.kept), click.text("name")
    if len(stack) >= MAX_LORAS:
        return _drawn(click, stack, f"There are {MAX_LORAS} in it already, and that is the most. Leave one out first.")
    if name in (used for used, _ in stack) or name not in (card.name for card in click.studio.loras.cards()):
        return _drawn(click, stack)
    return _drawn(click, [*stack, [name, 1.0]])


def lora_off(click: Click) -> Changes:
    return _drawn(click, [pair for pair in stack_of(click.kept) if pair[0] != click.text("name")])


def lora_weight(click: Click) -> Changes:
    """A slider was let go."""
    try:
        weight = round(float(click.text("value")), 3)
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_LORA_WEIGHT:
        raise InvalidRequest("loras", f"the weight must be {-MAX_LORA_WEIGHT:g} to {MAX_LORA_WEIGHT:g}.")
    name = click.text("name")
    return _drawn(click, [[each, weight if each == name else before] for each, before in stack_of(click.kept)])


def lora_delete(click: Click) -> Changes:
    """Gone from this machine; refused while a job needs it."""
    stack, name, problem = stack_of(click.kept), click.text("name"), ""
    try:
        click.studio.loras.delete(name)
        stack = [pair for pair in stack if pair[0] != name]
    except SprocketError as error:
        problem = str(error)
    return _drawn(click, stack, problem)


def take_lora(click: Click, path: Path) -> Changes:
    """A file has come in as a LoRA: kept, and used at once where it fits. What it was called is the browser's word."""
    stack, called = stack_of(click.kept), click.text("called")
    try:
        card = click.studio.loras.add(path, called=called or None)
    except SprocketError as error:
        return untaken_lora(click, error.message if isinstance(error, InvalidRequest) else str(error))
    spec = views.spec_of(click.studio, click.values.get("model"))
    misfit = card.misfit(spec) if spec else ""
    if misfit:
        said = f"{card.file or 'The LoRA'} was added. {misfit}"
    elif len(stack) >= MAX_LORAS and card.name not in (name for name, _ in stack):
        said = f"{card.file or 'The LoRA'} was added, and {MAX_LORAS} are in use already."
    else:
        stack = stack if card.name in (name for name, _ in stack) else [*stack, [card.name, 1.0]]
        said = f"{card.file or 'The LoRA'} is used in the next video with weight 1; More settings has its slider."
    return {**_drawn(click, stack), click.parts.notice: notice_html(" ".join([said, *card.notes]), act="hush", label="Dismiss")}


def untaken_lora(click: Click, words: str) -> Changes:
    """A file is no LoRA that can be used: said in the panel, and above the prompt where it was dropped."""
    words = words[:1].upper() + words[1:]
    return {**_drawn(click, stack_of(click.kept), words), click.parts.notice: notice_html(words, act="hush", label="Dismiss")}


def _drawn(click: Click, stack: Stack, problem: str = "") -> Changes:
    from app.ui import create  # which fills this panel itself

    kept = {**click.kept, "loras": stack} if stack else {name: value for name, value in click.kept.items() if name != "loras"}
    return {click.parts.kept: kept, click.parts.loras: lora_panel(click.studio, click.values.get("model"), kept, problem),
            **create.costs(click.studio, click.parts, click.values, kept)}


def _row(card: LoraCard, spec: Any, weight: float | None) -> LoraRow:
    words = [f"rank {card.rank}", amount(card.size)] + ([f"say “{card.trigger}” in the prompt"] if card.trigger else [])
    return LoraRow(name=card.name, title=card.file or f"{card.name[:12]}…", line=" · ".join(words), weight=weight,
                   problem=card.misfit(spec) if spec else "")


def _gone(name: str, weight: float) -> LoraRow:
    return LoraRow(name=name, title=f"{name[:12]}…", weight=weight, here=False,
                   problem="Its file is not on this machine. Add it again (the same file gets the same name), or leave it out.")


LORA_ACTIONS: tuple[Callable[[Click], Changes], ...] = (lora_on, lora_off, lora_weight, lora_delete)
