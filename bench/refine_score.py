"""Reads a caption of the pocket's world back by the grammar's own tables, strictly: what it says, and any word that is foreign."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.refine_wishes import Asked
from training.pocket import captions

SUBJECTS = ("shape", "colour", "second shape", "second colour")
_MOVES = {motion: tuple(form for forms in captions.MOVES[motion] for form in forms) for motion in captions.MOVES}
_TABLES = (("background", captions.PLACES), ("motion", _MOVES), ("pace", captions.PACES))
_VOCABULARY = frozenset(captions.vocabulary())


@dataclass(frozen=True)
class Verdict:
    """lost: stated facts that the caption does not say. foreign: words no caption of the world has, or the strange thing itself."""

    lost: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return not self.lost and not self.foreign


def facts_of(caption: str) -> dict[str, list[str]]:
    """Facts in a caption by name, in the order of the words. Longer phrases win; a place's words are no subject's."""
    left, found = f" {caption} ", {}
    for name, table in _TABLES:
        hits = []
        for phrase, fact in sorted(((p, fact) for fact, ps in table.items() for p in ps), key=lambda pair: -len(pair[0])):
            pattern = rf"(?<![a-z]){re.escape(phrase)}(?![a-z])"
            if re.search(pattern, left):
                hits.append(fact)
                left = re.sub(pattern, " | ", left)
        found[name] = list(dict.fromkeys(hits))
    for name, table in (("shape", captions.NOUNS), ("colour", captions.HUES)):
        spots: list[tuple[int, str]] = []
        for phrase, fact in sorted(((p, fact) for fact, ps in table.items() for p in ps), key=lambda pair: -len(pair[0])):
            for match in re.finditer(rf"(?<![a-z]){re.escape(phrase)}(?![a-z])", left):
                spots.append((match.start(), fact))
            left = re.sub(rf"(?<![a-z]){re.escape(phrase)}(?![a-z])", lambda m: "~" * len(m.group()), left)
        found[name] = [fact for _, fact in sorted(spots)]
    return found


def judge(asked: Asked, caption: str) -> Verdict:
    """Whether `caption` keeps every fact of the wish and names nothing outside the world."""
    said = facts_of(caption)
    lost = []
    for name, fact in asked.facts.items():
        place = 1 if name.startswith("second ") else 0
        there = said[name.removeprefix("second ")]
        ok = len(there) > place and there[place] == fact if name in SUBJECTS else there == [fact]
        if not ok:
            lost.append(name)
    foreign = [word for word in re.findall(r"[^\W_]+", caption.lower()) if word not in _VOCABULARY]
    foreign += [word for word in asked.strange.split() if word in caption.lower().split()]
    if len(said["shape"]) > (2 if any(name.startswith("second") for name in asked.facts) else 1):
        foreign.append("a second subject")
    return Verdict(tuple(lost), tuple(foreign))
