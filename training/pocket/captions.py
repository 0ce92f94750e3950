"""The language of the pocket world: a grammar from scenes to English, and its vocabulary.

`caption(scene, rng)` says one scene in one of many ways: word order, synonyms, tense, extra
words. Training draws a fresh caption each time it visits a clip, so a clip is never tied to
one sentence. Captions are lower case; the tokenizer folds case (see `tokenizer.py`).
Nothing here knows pixels or torch.
"""

from __future__ import annotations

import re

import numpy as np

from .world import Scene

NOUNS = {
    "ball": ("ball", "ball", "circle", "sphere", "disc", "disk", "round ball", "orb"),
    "square": ("square", "square", "box", "block", "cube", "square block"),
    "triangle": ("triangle", "triangle", "pyramid", "three-sided shape", "cone"),
    "star": ("star", "star", "five-pointed star", "star shape"),
    "heart": ("heart", "heart", "heart shape", "love heart"),
    "ring": ("ring", "ring", "hoop", "donut", "circle outline", "doughnut"),
}
HUES = {
    "red": ("red", "red", "red", "bright red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "orange", "bright orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "bright yellow", "golden", "lemon"),
    "green": ("green", "green", "green", "dark green", "emerald"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise", "aqua", "light blue"),
    "blue": ("blue", "blue", "blue", "deep blue", "royal blue", "dark blue"),
    "purple": ("purple", "purple", "purple", "violet", "deep purple"),
    "pink": ("pink", "pink", "pink", "hot pink", "rosy", "magenta"),
}
PLACES = {
    "night sky": (
        "in the night sky",
        "at night",
        "against a starry sky",
        "under the stars",
        "on a starry night",
        "in front of a dark sky full of stars",
        "in the dark starry sky",
        "against the night sky",
        "in a night sky",
        "in outer space",
        "with a night sky behind",
    ),
    "meadow": (
        "in a meadow",
        "over a meadow",
        "in a green meadow",
        "in a grassy field",
        "above green hills",
        "on the grass",
        "in the meadow",
        "over grassy hills",
        "in a field of grass",
        "in the countryside",
        "with a meadow behind",
    ),
    "sea": (
        "over the sea",
        "at sea",
        "by the sea",
        "above the ocean",
        "over the waves",
        "above the water",
        "at the ocean",
        "over blue water",
        "in front of the sea",
        "by the ocean",
        "with the sea behind",
        "at the seaside",
    ),
    "desert": (
        "in the desert",
        "in a desert",
        "over sand dunes",
        "over the desert",
        "among the dunes",
        "in a sandy desert",
        "above the sand",
        "in front of sand dunes",
        "with a desert behind",
        "on the sand",
    ),
    "snow": (
        "in the snow",
        "over snow",
        "on a snowy field",
        "in a snowy landscape",
        "above snowy hills",
        "over the snow",
        "in winter",
        "on white snow",
        "in a winter landscape",
        "with snow behind",
        "over snowy ground",
    ),
    "plain studio": (
        "in a plain studio",
        "in a studio",
        "against a plain background",
        "in an empty studio",
        "against a plain grey background",
        "on a plain grey backdrop",
        "in a plain gray room",
        "in the studio",
        "with a plain studio behind",
        "in a simple studio",
    ),
}
# Each motion: (third person, participle, plain form), so that one table serves all sentences.
MOVES = {
    "left to right": (
        ("moves from left to right", "moving from left to right", "move from left to right"),
        ("goes from left to right", "going from left to right", "go from left to right"),
        ("slides to the right", "sliding to the right", "slide to the right"),
        ("travels left to right", "travelling left to right", "travel left to right"),
        ("moves to the right", "moving to the right", "move to the right"),
        ("glides rightward", "gliding rightward", "glide rightward"),
        ("moves right", "moving right", "move right"),
        ("crosses from left to right", "crossing from left to right", "cross from left to right"),
        ("drifts from the left to the right", "drifting from the left to the right", "drift from the left to the right"),
        ("rolls towards the right", "rolling towards the right", "roll towards the right"),
        ("flies from left to right", "flying from left to right", "fly from left to right"),
    ),
    "right to left": (
        ("moves from right to left", "moving from right to left", "move from right to left"),
        ("goes from right to left", "going from right to left", "go from right to left"),
        ("slides to the left", "sliding to the left", "slide to the left"),
        ("travels right to left", "travelling right to left", "travel right to left"),
        ("moves to the left", "moving to the left", "move to the left"),
        ("glides leftward", "gliding leftward", "glide leftward"),
        ("moves left", "moving left", "move left"),
        ("crosses from right to left", "crossing from right to left", "cross from right to left"),
        ("drifts from the right to the left", "drifting from the right to the left", "drift from the right to the left"),
        ("rolls towards the left", "rolling towards the left", "roll towards the left"),
        ("flies from right to left", "flying from right to left", "fly from right to left"),
    ),
    "rises": (
        ("rises", "rising", "rise"),
        ("rises", "rising", "rise"),
        ("rises up", "rising up", "rise up"),
        ("floats up", "floating up", "float up"),
        ("goes up", "going up", "go up"),
        ("moves up", "moving up", "move up"),
        ("moves upward", "moving upward", "move upward"),
        ("floats upwards", "floating upwards", "float upwards"),
        ("climbs", "climbing", "climb"),
        ("ascends", "ascending", "ascend"),
        ("flies up", "flying up", "fly up"),
        ("lifts into the air", "lifting into the air", "lift into the air"),
    ),
    "falls": (
        ("falls", "falling", "fall"),
        ("falls", "falling", "fall"),
        ("falls down", "falling down", "fall down"),
        ("drops", "dropping", "drop"),
        ("drops down", "dropping down", "drop down"),
        ("sinks", "sinking", "sink"),
        ("goes down", "going down", "go down"),
        ("moves down", "moving down", "move down"),
        ("moves downward", "moving downward", "move downward"),
        ("descends", "descending", "descend"),
        ("floats down", "floating down", "float down"),
    ),
    "bounces": (
        ("bounces", "bouncing", "bounce"),
        ("bounces", "bouncing", "bounce"),
        ("bounces up and down", "bouncing up and down", "bounce up and down"),
        ("hops", "hopping", "hop"),
        ("jumps", "jumping", "jump"),
        ("jumps up and down", "jumping up and down", "jump up and down"),
        ("hops up and down", "hopping up and down", "hop up and down"),
    ),
    "grows": (
        ("grows", "growing", "grow"),
        ("grows", "growing", "grow"),
        ("grows bigger", "growing bigger", "grow bigger"),
        ("gets bigger", "getting bigger", "get bigger"),
        ("gets larger", "getting larger", "get larger"),
        ("expands", "expanding", "expand"),
        ("becomes bigger", "becoming bigger", "become bigger"),
        ("swells", "swelling", "swell"),
        ("enlarges", "enlarging", "enlarge"),
        ("grows in size", "growing in size", "grow in size"),
    ),
    "shrinks": (
        ("shrinks", "shrinking", "shrink"),
        ("shrinks", "shrinking", "shrink"),
        ("gets smaller", "getting smaller", "get smaller"),
        ("becomes smaller", "becoming smaller", "become smaller"),
        ("shrinks away", "shrinking away", "shrink away"),
        ("shrinks down", "shrinking down", "shrink down"),
        ("contracts", "contracting", "contract"),
        ("shrinks in size", "shrinking in size", "shrink in size"),
        ("gets tiny", "getting tiny", "get tiny"),
    ),
    "spins": (
        ("spins", "spinning", "spin"),
        ("spins", "spinning", "spin"),
        ("rotates", "rotating", "rotate"),
        ("turns", "turning", "turn"),
        ("spins around", "spinning around", "spin around"),
        ("turns around", "turning around", "turn around"),
        ("twirls", "twirling", "twirl"),
        ("rotates in place", "rotating in place", "rotate in place"),
        ("spins in place", "spinning in place", "spin in place"),
        ("whirls", "whirling", "whirl"),
    ),
}
PACES = {
    "slowly": ("slowly", "slowly", "slowly", "gently", "at a slow pace", "lazily", "very slowly", "calmly"),
    "quickly": ("quickly", "quickly", "quickly", "fast", "rapidly", "at high speed", "very fast", "swiftly"),
}
OPENINGS = ("a video of", "a clip of", "an animation of", "there is", "we see", "a scene with", "footage of", "a short film of")
JOINS = ("and", "and", "next to", "beside", "together with", "with")
EXTRAS = ("small", "large", "big", "shiny", "simple", "cute", "little", "flat")

_SINGLE = (
    "{thing} {does} {pace} {place}",
    "{thing} {does} {pace} {place}",
    "{thing} {does} {place} {pace}",
    "{thing} {pace} {does} {place}",
    "{thing} {doing} {pace} {place}",
    "{thing} {pace} {doing} {place}",
    "{thing} {place} {does} {pace}",
    "{thing} {place}, {doing} {pace}",
    "{place}, {thing} {does} {pace}",
    "{place}, {thing} {pace} {does}",
    "{place} {thing} is {doing} {pace}",
    "{pace}, {thing} {does} {place}",
    "{thing} is {doing} {pace} {place}",
    "{thing} that {does} {pace} {place}",
    "{opening} {thing} {doing} {pace} {place}",
    "{opening} {thing} that {does} {pace} {place}",
    "{opening} {thing} {place} {doing} {pace}",
    "{thing}, {doing} {pace}, {place}",
    "{doing} {pace}, {thing} {place}",
)
_PAIR = (
    "{things} {do} {pace} {place}",
    "{things} {do} {place} {pace}",
    "{things} {pace} {do} {place}",
    "{things} {doing} {pace} {place}",
    "{things} {place} {do} {pace}",
    "{place}, {things} {do} {pace}",
    "{things} are {doing} {pace} {place}",
    "{opening} {things} {doing} {pace} {place}",
    "{pace}, {things} {do} {place}",
)
NO_PACE_SHARE = 0.1
EXTRA_SHARE = 0.06
TELEGRAM_SHARE = 0.05


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence for the scene, lower case, possibly with a full stop; every attribute is named.

    The pace is left out in a tenth of the captions, since people often do.
    """
    move = _pick(rng, MOVES[scene.motion])
    words = {
        "does": move[0],
        "doing": move[1],
        "do": move[2],
        "place": _pick(rng, PLACES[scene.background]),
        "pace": "" if rng.random() < NO_PACE_SHARE else _pick(rng, PACES[scene.speed]),
        "opening": _pick(rng, OPENINGS),
    }
    things = [_thing(rng, s.shape, s.colour) for s in scene.subjects]
    if len(things) == 1 and rng.random() < TELEGRAM_SHARE:
        return _telegram(rng, scene)
    if len(things) == 1:
        text = _pick(rng, _SINGLE).format(thing=things[0], **words)
    else:
        text = _pick(rng, _PAIR).format(things=f" {_pick(rng, JOINS)} ".join(things), **words)
    return _tidy(text) + ("." if rng.random() < 0.3 else "")


def _pick(rng: np.random.Generator, options: tuple):
    return options[rng.integers(len(options))]


def _thing(rng: np.random.Generator, shape: str, colour: str) -> str:
    """Noun phrase with its article."""
    extra = _pick(rng, EXTRAS) + " " if rng.random() < EXTRA_SHARE else ""
    phrase = f"{extra}{_pick(rng, HUES[colour])} {_pick(rng, NOUNS[shape])}"
    draw = rng.random()
    if draw < 0.1:
        return "the " + phrase
    if draw < 0.15:
        return "one " + phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _telegram(rng: np.random.Generator, scene: Scene) -> str:
    """Key words with commas, in any order after the subject, as hurried people write."""
    subject = scene.subjects[0]
    parts = [
        scene.background if rng.random() < 0.5 else _pick(rng, PLACES[scene.background]),
        _pick(rng, MOVES[scene.motion])[rng.integers(2)],
        _pick(rng, PACES[scene.speed]),
    ]
    order = rng.permutation(3)
    head = f"{_pick(rng, HUES[subject.colour])} {_pick(rng, NOUNS[subject.shape])}"
    return ", ".join([head, *(parts[i] for i in order)])


def _tidy(text: str) -> str:
    """Remove the traces of an empty pace: doubled spaces, orphaned commas."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+,", ",", text)
    text = re.sub(r",+", ",", text)
    return text.strip(", ")


def vocabulary() -> list[str]:
    """Every word the grammar can say, lower case, sorted."""
    tables = [*NOUNS.values(), *HUES.values(), *PLACES.values(), *PACES.values(), OPENINGS, JOINS, EXTRAS]
    phrases = [p for table in tables for p in table]
    phrases += [form for forms in MOVES.values() for move in forms for form in move]
    phrases += [*PLACES, *_SINGLE, *_PAIR, "a an the one"]
    words: set[str] = set()
    for phrase in phrases:
        words |= set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", phrase)))
    return sorted(words)
