"""500 wishes that the pocket refiner has never seen, with the facts in them: held-out combinations, in words of their own.

Nothing here comes from the training's lexicon or grammar (`training.refiner`): other sentences, other slips of the fingers.
The odd words in this file were looked at while the refiner was made ("development"). What is reported is "final": phrases of
`refine_final.py`, written when the lexicon was closed. Some of its plain words are in the lexicon too, as they must be; the bench
says what share of its wishes holds a word that training never saw.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from bench import refine_final
from training.pocket import world

SEED = 4711
SHAPES = {
    "ball": "ball|beachball|a bouncing ball|round ball|sphere|orb|disc|kickball|marble|bubble|circle|pinball|dodge ball|ballon",
    "square": "square|block|cube|box|building block|tetris square|quad|four-cornered block|crate|sqaure|cardboard cube|big block",
    "triangle": "triangle|pyramid|three-sided thing|cone|road cone|triangel|nacho|three-pointed shape|triangular sign|trianglular tile",
    "star": "star|starshape|golden-star shape|5-point star|pointy star thing|sparkle star|sherrif star|little star|star sticker|xmas star",
    "heart": "heart|love-heart|valentine's heart|heart thingy|heartshape|emoji heart|cute heart|paper heart|haert|candy heart|big heart",
    "ring": "ring|hoop|donut|doughnut|hula-hoop|tire|wheel with a hole|bagel thing|life saver ring|finger ring|rubber hoop|swim ring",
}
COLOURS = {
    "red": "red|crimson|scarlet|ruby red|cherry-red|bright red|reddish|very red|fiery red|rd|tomato-red|devil red",
    "orange": "orange|tangerine|amber|pumpkin coloured|carroty|vivid orange|ornage|fanta orange|orange-ish|bright orange|carrot orange",
    "yellow": "yellow|golden|lemon|sunny yellow|canary yellow|yelow|post-it yellow|bright yellow|banana coloured|yellowy|taxi yellow",
    "green": "green|emerald|lime green|grass-green|bright green|geen|forest green|leafy green|frog green|greenish|clover green",
    "cyan": "cyan|turquoise|aqua|teal|sky blue|light blue|cyan blue|tourquoise|swimming-pool turquoise|pale cyan|aqua coloured",
    "blue": "blue|navy|royal blue|dark blue|cobalt|deep blue|sapphire blue|bule|ultramarine blue|smurf blue|bluish|jeans blue",
    "purple": "purple|violet|lilac|plum|grape purple|lavender|purpel|deep violet|bright purple|prince purple|purplish|aubergine purple",
    "pink": "pink|magenta|hot pink|rosy|fuchsia|bubble-gum pink|pnk|salmon pink|baby pink|pinkish|flamingo coloured|bright pink",
}
PLACES = {
    "night sky": "at night|in the night sky|among stars|in space|under a starry sky|in the middle of the night|night time|up in the stars|"
                 "space background|in front of a galaxy|starry night|outer space|nightsky|in a dark sky with stars|in the milky way",
    "meadow": "in a meadow|on grass|over a green field|in the fields|on the lawn|in the countryside|meadow|grassy hills|in the green hills|"
              "on a football field|park|over some grass|medow|in my garden|on a grassy hillside",
    "sea": "at the beach|over the sea|by the ocean|above the waves|at the seaside|on the ocean|beach|ocean|sea|near the water|"
           "on the open sea|over the bay|beech with waves|ocean view|at the shore",
    "desert": "in the desert|over dunes|in the sahara|on sand dunes|desert|sandy desert|in a dry desert|on hot sand|dessert with dunes|"
              "among sand dunes|sahara desert|over the sandy hills|on the dunes|in an empty desert",
    "snow": "in the snow|on ice|in winter|snowy field|snow|on a snowy hill|at the north pole|in a frozen landscape|winter scene|"
            "over white snow|in deep snow|snowy|in the arctic snow|sonw|on a glacier",
    "plain studio": "in a studio|plain background|in an empty room|grey background|gray backdrop|in front of a plain wall|studio|"
                    "against nothing but grey|blank backdrop|simple studio|in a bare grey room|stuido|neutral backdrop|plain grey wall",
}
MOTIONS = {
    "left to right": "moves to the right|left to right|from left to right|goes right|slides right|rolling to the right|flies to the right|"
                     "travels from the left to the right|heading to the right side|drifts rightwards|moving rigth|"
                     "crosses left to right|L to R",
    "right to left": "moves to the left|right to left|from right to left|goes left|slides left|rolling to the left|flies to the left|"
                     "travels from the right to the left|heading to the left side|drifts leftwards|moving letf|"
                     "crosses right to left|R to L",
    "rises": "rises|goes up|going up|floats up|moves upward|flies up|climbing|ascending slowly upward|shoots up|"
             "lifts off|rises into the air|"
             "going upwrads|soars|levitates|up up up|floating upward",
    "falls": "falls|goes down|dropping|sinks|moves downward|falling down|descends|drops to the ground|comes down|plunges|faling|"
             "going downward|tumbles down|sinking down|down down down|falls to the bottom",
    "bounces": "bounces|bouncing|hops|jumps|jumping up and down|bounces up and down|hopping along|bouncy bouncy|jumps repeatedly|boings|"
               "buonces|goes boing boing|hopping up and down|bounce",
    "grows": "grows|gets bigger|getting larger|expands|inflates|becomes huge|growing|swells up|gets bigger and bigger|enlarging|"
             "is growing bigger|turning bigger|growns|gets really big|comes closer",
    "shrinks": "shrinks|gets smaller|becoming tiny|contracts|shrinking|gets smaller and smaller|deflates|dwindles|becomes smaller|"
               "shriking|is getting tiny|turning smaller|shrinks down to nothing|gets really small",
    "spins": "spins|rotates|turning around|twirls|spinning|rotating in place|whirls around|spins like a top|goes round and round|"
             "spining|does spins|turning round|revolves around itself|rotates on the spot",
}
PACES = {
    "slowly": "slowly|slow|in slow motion|gently|very slowly|calmly|lazily|at a slow pace|slooowly|nice and slow|"
              "without any hurry|super slow|slowley",
    "quickly": "fast|quickly|rapidly|very fast|at high speed|swiftly|super quick|fasst|as quick as it can|speedy|"
               "in a rush|really quickly|quikly",
}
BEINGS = ("elephant", "dachshund", "violinist", "ferris wheel", "giraffe", "tractor", "lighthouse", "kangaroo", "snowman", "trumpet")
"""Instead of a shape: no fact is stated with them, and none of them may come back."""
ONE = (
    "{thing} {move} {pace} {place}", "{thing} {move}, {place}", "{thing}, {move} {pace}, {place}", "{place} {thing} {move}",
    "i'd love to see {thing} {move} {place} {pace}", "{move} {pace}: {thing}, {place}", "{thing} {place}", "{thing} {move}",
    "{pace} {move} {thing}", "could you do {thing} that {move} {place}?", "{thing}... {place}... {move}... {pace}",
    "{place}: {thing} {move} {pace}",
    "just {thing}", "{thing} / {place} / {move}", "a nice clip where {thing} {move} {pace} {place}",
    "so there's {thing} and it {move} {place}",
)  # fmt: skip
TWO = ("{thing} and {other} {move} {place}", "{thing} + {other}, {move} {pace}, {place}", "{thing} with {other} {place} {move}",
       "{place}, both {thing} and {other}, {move}", "{thing} next to {other}")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A wish and what it states, by fact name; two subjects in the order they are named. `strange`: what the world has not."""

    text: str
    facts: dict[str, str]
    strange: str = ""


def wishes(count: int = 500, part: str = "final") -> list[Asked]:
    """`count` wishes, the same each time. part: 'final', or 'development' for looking at."""
    if part not in PARTS:
        raise ValueError(f"part {part!r} is not 'final' or 'development'")
    rng = random.Random(f"{SEED}{part}")
    keys = world.combinations("held-out")
    return [_wish(rng, PARTS[part], *rng.choice(keys)) for _ in range(count)]


PARTS: dict[str, Any] = {
    "final": refine_final,
    "development": SimpleNamespace(SHAPES=SHAPES, COLOURS=COLOURS, PLACES=PLACES, MOTIONS=MOTIONS, PACES=PACES, BEINGS=BEINGS, ONE=ONE,
                                   TWO=TWO),
}


def _wish(rng: random.Random, said: Any, shape: str, colour: str, background: str, motion: str) -> Asked:
    facts: dict[str, str] = {}
    strange = rng.choice(said.BEINGS) if rng.random() < 0.1 else ""
    two = not strange and rng.random() < 0.15
    form = rng.choice(said.TWO if two else said.ONE)
    words = {"thing": _thing(rng, said, facts, shape, colour, strange)}
    if two:
        kinds = [(s, c) for s in world.SHAPES for c in world.COLOURS if s != shape and c != colour]
        words["other"] = _thing(rng, said, facts, *rng.choice(kinds), "", second=True)
    for slot, name, table, fact in (("move", "motion", said.MOTIONS, motion), ("place", "background", said.PLACES, background),
                                    ("pace", "pace", said.PACES, rng.choice(world.SPEEDS))):
        there = f"{{{slot}}}" in form and rng.random() < 0.85
        words[slot] = rng.choice(table[fact].split("|")) if there else ""
        if there:
            facts[name] = fact
    if "slowly" in words["move"]:  # a motion's own phrase states a pace; a second one beside it would be another wish
        words["pace"], facts["pace"] = "", "slowly"
    text = " ".join(form.format(**words).split())
    if rng.random() < 0.25:
        text = _slip(rng, text)
    return Asked(text.upper() if rng.random() < 0.05 else text, facts, strange)


def _thing(rng: random.Random, said: Any, facts: dict[str, str], shape: str, colour: str, strange: str, *, second: bool = False) -> str:
    prefix = "second " if second else ""
    noun = strange or rng.choice(said.SHAPES[shape].split("|"))
    if not strange:
        facts[f"{prefix}shape"] = shape
    article = "" if noun.startswith("a ") else rng.choice(("a ", "the ", "", "some ", "one "))
    if rng.random() < 0.35:
        return article + noun
    facts[f"{prefix}colour"] = colour
    hue = rng.choice(said.COLOURS[colour].split("|"))
    return f"{noun} ({hue})" if rng.random() < 0.1 else f"{article}{hue} {noun.removeprefix('a ')}"


def _slip(rng: random.Random, text: str) -> str:
    """One letter of one longer word is lost, doubled, or swapped with the next."""
    spots = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 2].isalpha() and text[i - 1 : i + 3].isalpha()]
    longer = [i for i in spots if len(_around(text, i)) >= 5]
    if not longer:
        return text
    at = rng.choice(longer)
    return rng.choice((text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:], text[:at] + text[at + 1] + text[at] + text[at + 2 :]))


def _around(text: str, at: int) -> str:
    begin, end = at, at
    while begin and text[begin - 1].isalpha():
        begin -= 1
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[begin:end]
