"""Wishes as people type them, with what they say: endless, and a pure function of (seed, number).

A wish is pieces in any order (a subject, a place, a motion, a pace, things the world has not, small words), some of them left
out, said with the lexicon's phrases or a caption's own, with typing errors. Scenes are drawn as the captions' are, held-out
combinations excluded. Nothing here knows torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from engine.refine.words import MAX_WORDS, words_of
from training.pocket import world
from training.pocket.captions import caption

from . import more
from .lexicon import FILLERS, OUTSIDE, tables

NONE = "none"
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("shape", (*world.SHAPES, NONE)),
    ("colour", (*world.COLOURS, NONE)),
    ("second shape", (*world.SHAPES, NONE)),
    ("second colour", (*world.COLOURS, NONE)),
    ("background", (*world.BACKGROUNDS, NONE)),
    ("motion", (*world.MOTIONS, NONE)),
    ("pace", (*world.SPEEDS, NONE)),
)
"""What a wish may say, and that it may not."""
KEYS = "qwertyuiop asdfghjkl zxcvbnm"
Tables = dict[str, dict[str, tuple[str, ...]]]
FIRST = (tables(), OUTSIDE)
WIDER = (more.wider_tables(), (*OUTSIDE, *more.OUTSIDE))
"""What is said with: phrases by question and fact, and what the world has not."""
PREPOSITIONS = ("in the", "on the", "over the", "at the", "in a", "over a", "in", "on", "near the", "above the", "with", "")
STUFF = ("shape", "thing", "thingy", "figure", "sticker", "icon", "object", "toy", "symbol", "sign", "emoji", "model", "form", "cutout")
"""What people put behind a shape's name,"""
MADE = ("paper", "toy", "rubber", "plastic", "bouncy", "magic", "candy", "soft", "hard", "fat", "thin", "old", "new", "perfect", "lonely",
        "happy", "floating")
"""before it,"""
VERY = ("very", "super", "really", "bright", "vivid", "intense", "pure", "strong", "rich", "quite", "so", "totally")
"""and before a colour,"""
ENDINGS = ("ish", "-ish", "y", "-coloured", " colored", " coloured")
"""or behind it."""
JOINS = ("and", "and", "with", "plus", "&", "next to", "together with", "beside", ",", "+", "and also", "and one", "alongside")
CONTEXTS = {
    "wherever": ("background",),
    "motion": ("it {}", "which {}", "{}", "{}", "that {}", "while {}", "{}", "and it {}"),
}


@dataclass(frozen=True)
class Wish:
    """words: as `words_of` splits the text. facts: the answer to each question, in their order. outside: by word, is it something
    the world has not."""

    text: str
    words: tuple[str, ...]
    facts: tuple[str, ...]
    outside: tuple[bool, ...]


Part = tuple[str, bool]
"""Words, and whether they are of something the world has not."""


Lexicon = tuple[Tables, tuple[str, ...]]


def wish_at(seed: int, number: int, lexicon: Lexicon = FIRST) -> Wish:
    """Wish `number` of the endless sequence `seed`, said with the words of `lexicon`."""
    rng = np.random.default_rng((seed, number, 7))
    scene = world.scene_at(seed + 900, number, pair_share=0.22)
    if rng.random() < 0.12:
        return _captioned(scene, rng, lexicon)
    while True:
        parts, facts = _draw(scene, rng, lexicon)
        if parts:
            break
    if rng.random() < 0.55:
        parts = [(_typo(words, rng) if rng.random() < 0.45 else words, out) for words, out in parts]
    if rng.random() < 0.25:
        parts = [(_glued(words, rng) if rng.random() < 0.5 else words, out) for words, out in parts]
    text, marks = _joined(parts, rng)
    words = words_of(text)[:MAX_WORDS]
    return Wish(text, tuple(words), facts, marks[: len(words)])


def _captioned(scene: world.Scene, rng: np.random.Generator, lexicon: Lexicon) -> Wish:
    """A caption of the grammar as it stands; whether it says a pace is read off its words."""
    text = caption(scene, rng)
    first, *rest = scene.subjects
    second = (rest[0].shape, rest[0].colour) if rest else (NONE, NONE)
    paced = any(phrase in text for phrase in lexicon[0]["pace"][scene.speed])
    words = words_of(text)[:MAX_WORDS]
    facts = (first.shape, first.colour, *second, scene.background, scene.motion, scene.speed if paced else NONE)
    return Wish(text, tuple(words), facts, (False,) * len(words))


def _draw(scene: world.Scene, rng: np.random.Generator, lexicon: Lexicon) -> tuple[list[Part], tuple[str, ...]]:
    """The pieces in the order they will be said, and the facts in them."""
    said, strange = lexicon
    foreign = rng.random() < 0.22
    subject, facts = _subjects(scene, rng, foreign, lexicon)
    background = scene.background if rng.random() < 0.62 else NONE
    motion = scene.motion if rng.random() < 0.72 else NONE
    pace = scene.speed if rng.random() < 0.5 else NONE
    place: list[Part] = []
    if background != NONE:
        phrase = _pick(rng, said["background"][background])
        bare = not re.match(r"(in|on|over|at|by|with|against|under|above|among|between|during|up|out|into|near|after|across)\b", phrase)
        place = [(f"{_pick(rng, PREPOSITIONS)} {phrase}" if bare and rng.random() < 0.6 else phrase, False)]
    act: list[Part] = []
    if motion != NONE:
        act = [(_pick(rng, CONTEXTS["motion"]).format(_pick(rng, said["motion"][motion])), False)]
    elif foreign and rng.random() < 0.4:
        act = [(_pick(rng, strange), True)]
    speed: list[Part] = [(_pick(rng, said["pace"][pace]), False)] if pace != NONE else []
    groups = [group for group in (subject, place, [*act, *speed] if rng.random() < 0.6 else [*speed, *act]) if group]
    if rng.random() < 0.5:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    if foreign and rng.random() < 0.6:
        groups.insert(int(rng.integers(len(groups) + 1)), [(_pick(rng, strange) if rng.random() < 0.8 else _gibberish(rng), True)])
    if rng.random() < 0.45:
        at = 0 if rng.random() < 0.5 else int(rng.integers(len(groups) + 1))
        groups.insert(at, [(_pick(rng, FILLERS), False)])
    return [part for group in groups for part in group], (*facts, background, motion, pace)


def _subjects(scene: world.Scene, rng: np.random.Generator, foreign: bool,
              lexicon: Lexicon) -> tuple[list[Part], tuple[str, str, str, str]]:
    first, *rest = scene.subjects
    parts, shape, colour = _thing(rng, first.shape, first.colour, foreign and rng.random() < 0.5, lexicon)
    if not rest:
        return parts, (shape, colour, NONE, NONE)
    more, other, hue = _thing(rng, rest[0].shape, rest[0].colour, False, lexicon, whole=True)
    if shape == colour == NONE:
        return more, (other, hue, NONE, NONE)
    return [*parts, (_pick(rng, JOINS), False), *more], (shape, colour, other, hue)


def _thing(rng: np.random.Generator, shape: str, colour: str, foreign: bool, lexicon: Lexicon, *,
           whole: bool = False) -> tuple[list[Part], str, str]:
    """(pieces, shape or none, colour or none). `whole`: the shape is said. `foreign`: something else stands for the shape."""
    has_colour = rng.random() < 0.66
    has_shape = whole or rng.random() < 0.9
    noun = _pick(rng, lexicon[1]) if foreign else _pick(rng, lexicon[0]["shape"][shape]) if has_shape else ""
    if not noun:
        if not has_colour:
            return [], NONE, NONE
        noun = _pick(rng, ("one", "thing", "something", "object", "shape", ""))
    if has_shape and not foreign:
        noun = f"{noun} {_pick(rng, STUFF)}" if rng.random() < 0.12 else f"{_pick(rng, MADE)} {noun}" if rng.random() < 0.08 else noun
    hue = _pick(rng, lexicon[0]["colour"][colour]) if has_colour else ""
    if hue and rng.random() < 0.12:
        hue = f"{_pick(rng, VERY)} {hue}" if " " in hue or rng.random() < 0.6 else hue + _pick(rng, ENDINGS)
    article = _pick(rng, ("a ", "a ", "the ", "", "", "one ", "my ", "an "))
    extra = _pick(rng, ("small ", "big ", "little ", "cute ", "shiny ", "large ", "tiny ", "nice ")) if rng.random() < 0.1 else ""
    draw = rng.random()
    lead: list[Part] = [(article + extra, False)] if article + extra else []
    colour_part: list[Part] = [(hue, False)] if hue else []
    said = noun if foreign or has_shape else noun or "thing"
    noun_part: list[Part] = [(said, foreign)]
    if hue and draw < 0.03:
        parts = [*lead, *noun_part, (f"({hue})", False)]
    elif hue and draw < 0.08:
        parts = [*lead, *noun_part, (_pick(rng, ("in", "that is", "coloured", ",", "colored", "which is")), False), *colour_part]
    elif hue and draw < 0.14:
        parts = [*lead, *noun_part, *colour_part]
    else:
        parts = [*lead, *colour_part, *noun_part]
    return parts, (shape if has_shape and not foreign else NONE), (colour if has_colour else NONE)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _gibberish(rng: np.random.Generator) -> str:
    return "".join(_pick(rng, tuple("aeioubcdfghklmnprstvz")) for _ in range(int(rng.integers(3, 9))))


def _joined(parts: list[Part], rng: np.random.Generator) -> tuple[str, tuple[bool, ...]]:
    """The text, and for each of its words whether it is outside."""
    telegram, rule = rng.random() < 0.3, _pick(rng, (", ", " / ", "... ", " - ", "; ", " + ", ". ", " | "))
    text, marks = "", []
    for number, (words, outside) in enumerate(parts):
        gap = ""
        if number:
            gap = _pick(rng, (", ", " ", rule)) if telegram else _pick(rng, (" ", " ", " ", " ", " ", " ", " ", ", ", ": "))
        marks += [False] * len(words_of(gap))
        text += gap + words.strip()
        marks += [outside] * len(words_of(words))
    case = rng.random()
    text = text.upper() if case < 0.06 else text.capitalize() if case < 0.3 else text
    if rng.random() < 0.25:
        text += _pick(rng, (".", "!", "...", " !!", "."))
    return text, tuple(marks + [False] * (len(words_of(text)) - len(marks)))


def _glued(text: str, rng: np.random.Generator) -> str:
    """Two words written as one, or with a hyphen; a hyphen left out."""
    spots = [m.start() for m in re.finditer(r"(?<=\w)[ -](?=\w)", text)]
    if not spots:
        return text
    at = spots[rng.integers(len(spots))]
    return text[:at] + _pick(rng, ("", "-", " ")) + text[at + 1 :]


def _typo(text: str, rng: np.random.Generator) -> str:
    """One slip of the fingers inside a word of three letters or more: lost, doubled, swapped or neighbouring letters."""
    spots = [m.start() + int(rng.integers(1, len(m.group()) - 1)) for m in re.finditer(r"[a-z]{3,}", text)]
    if not spots:
        return text
    at = spots[rng.integers(len(spots))]
    kind = rng.integers(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    key = KEYS.find(text[at])
    near = [k for k in (KEYS[key - 1 : key] + KEYS[key + 1 : key + 2]) if k != " "]
    return text[:at] + (near[rng.integers(len(near))] if near else "e") + text[at + 1 :]
