"""The pocket refiner: any wish -> a full caption of the pocket's world. Reads with a small trained network, writes by grammar.

What the wish says stays. What it leaves open is chosen, the same for the same words and version, and said in a note. What the
world has not is left out, and said in a note: the embedded model could not draw it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelInvalid
from engine.refine.clean import count_of, with_kept
from engine.refine.reader import Facts, load_reader
from engine.refine.result import Ask, Refinement, RefinerFailed

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "pocket-refiner"
ONE = (
    "{thing} {does} {pace} {place}",
    "{place}, {thing} {does} {pace}",
    "{thing} is {doing} {pace} {place}",
    "a video of {thing} {doing} {pace} {place}",
    "{thing} {place} {does} {pace}",
)
TWO = (
    "{thing} and {other} {do} {pace} {place}",
    "{place}, {thing} and {other} {do} {pace}",
    "{thing} and {other} are {doing} {pace} {place}",
    "a video of {thing} and {other} {doing} {pace} {place}",
    "{thing} next to {other} {do} {pace} {place}",
)
NAMES = {"shape": "the shape", "colour": "the colour", "second_shape": "the second shape", "second_colour": "the second colour",
         "background": "the place", "motion": "the motion", "pace": "the speed"}  # fmt: skip
MOST_NAMED = 6


def refine_pocket(ask: Ask, folder: Path = FOLDER) -> Refinement:
    """The caption for `ask`. Raises RefinerFailed (a purpose it has not learned), ModelNotFound, ModelInvalid."""
    if ask.purpose == "caption":
        raise RefinerFailed("The pocket refiner reads words and cannot look at pictures. Set up an endpoint with a vision model, see "
                            "docs/refine.md.")
    reading = load_reader(folder).read(_without(ask.text, ask.keep))
    facts, chosen = filled(reading.facts, seed_of(ask.text, ask.version))
    text = written(facts, words_of_world(folder), ask.version)
    text, kept = with_kept(text, ask)
    tokens = count_of(text, ask)
    if tokens > ask.max_tokens:
        raise RefinerFailed(f"The model reads {ask.max_tokens} tokens, and a caption with all facts has {tokens}. Choose another model.")
    notes = [*_notes(reading.outside, reading.unread, facts, chosen), *([kept] if kept else [])]
    return Refinement(text=text, original=ask.text, notes=tuple(notes), backend="pocket", tokens=tokens, max_tokens=ask.max_tokens)


def _without(text: str, words: tuple[str, ...]) -> str:
    """The wish without a LoRA's trigger words, which mean nothing to the reader."""
    for word in words:
        text = re.sub(re.escape(word), " ", text, flags=re.IGNORECASE)
    return text


def seed_of(text: str, version: int) -> int:
    """Of the choices for a text: the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{version}|{' '.join(text.split()).casefold()}".encode()).digest()[:8], "big")


def filled(facts: Facts, seed: int, world: dict[str, Any] | None = None) -> tuple[Facts, tuple[str, ...]]:
    """(facts with nothing open but a second subject that was not asked for, names of the facts that were chosen)."""
    known = world or words_of_world(FOLDER)
    rng = np.random.default_rng(seed)
    pick = lambda options: options[int(rng.integers(len(options)))]  # noqa: E731
    said, chosen = dataclasses.asdict(facts), []
    pair = bool(facts.second_shape or facts.second_colour)
    for name in ("shape", "colour", *(("second_shape", "second_colour") if pair else ()), "background", "motion", "pace"):
        kind = name.removeprefix("second_")
        # Two subjects differ in shape and in colour, as they do in the pocket's world.
        twin = said["shape" if name == "second_shape" else "colour"] if name.startswith("second_") else said.get(f"second_{kind}", "")
        option = pick([fact for fact in known[kind] if fact != twin])  # drawn even where it is not needed: versions differ alike
        if not said[name]:
            said[name] = option
            chosen.append(name)
    return Facts(**said), tuple(chosen)


def written(facts: Facts, world: dict[str, Any], version: int = 0) -> str:
    """The caption that says `facts`, none of them open. Version 0 is said with the most usual words, others with rarer ones."""
    rng = np.random.default_rng((len(facts.shape), version, 5))
    pick = lambda options: options[int(rng.integers(min(len(options), 1 if version == 0 else 4)))]  # noqa: E731
    thing = lambda shape, colour: _article(f"{pick(world['colour'][colour])} {pick(world['shape'][shape])}")  # noqa: E731
    does, doing, do = pick(world["motion"][facts.motion])
    parts = {"thing": thing(facts.shape, facts.colour), "does": does, "doing": doing, "do": do, "pace": pick(world["pace"][facts.pace]),
             "place": pick(world["background"][facts.background])}
    if facts.second_shape:
        parts["other"] = thing(facts.second_shape, facts.second_colour)
    forms = TWO if facts.second_shape else ONE
    return forms[version % len(forms)].format(**parts)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@lru_cache(maxsize=2)
def words_of_world(folder: Path) -> dict[str, Any]:
    """Phrases by fact, and `vocabulary`: all words the embedded model knows. Raises ModelInvalid."""
    try:
        return json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"The pocket refiner in {folder.name} cannot be read ({str(error)[:120]}). `make pocket` makes it "
                           "again.") from error


def _notes(outside: tuple[str, ...], unread: int, facts: Facts, chosen: tuple[str, ...]) -> list[str]:
    notes = []
    if chosen:
        picked = ", ".join(f"{NAMES[name]} ({getattr(facts, name)})" for name in chosen)
        notes.append(f"Not said, so chosen for you: {picked}.")
    strange = list(dict.fromkeys(outside))
    if strange:
        shown = ", ".join(strange[:MOST_NAMED]) + (f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else "")
        notes.append(f"Left out, because the pocket model cannot draw it: {shown}.")
    if unread:
        notes.append(f"The last {unread} words were not read: the pocket refiner reads short wishes.")
    return notes
