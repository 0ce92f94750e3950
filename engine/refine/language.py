"""Which language a wish is in, as far as its letters and small words show it. Pure, no model: a hint for people and checks."""

from __future__ import annotations

import re
import unicodedata

SCRIPTS = (
    ("HIRAGANA", "Japanese"), ("KATAKANA", "Japanese"), ("HANGUL", "Korean"), ("CJK", "Chinese"), ("ARABIC", "Arabic"),
    ("CYRILLIC", "a language in Cyrillic letters"), ("GREEK", "Greek"), ("HEBREW", "Hebrew"), ("DEVANAGARI", "Hindi"), ("THAI", "Thai"),
)  # fmt: skip
SMALL_WORDS = {
    "English": "a an the of in on at with and is are to from over under it its into through by while as up down very",
    "German": "der die das ein eine einer einem einen und im in auf mit von ist über unter dem den zu wie durch",
    "French": "le la les un une des et dans sur avec de du est au aux sous vers qui en pour",
    "Spanish": "el la los las un una y en con de del es al sobre bajo que por hacia se",
    "Italian": "il lo la gli un una e nel nella con di del su è che per sotto verso al",
    "Portuguese": "o a os as um uma e em no na com de do da é que sobre para ao pelo",
}
_SETS = {language: frozenset(words.split()) for language, words in SMALL_WORDS.items()}
ENGLISH = "English"


def language_of(text: str) -> str:
    """'English', 'Chinese', 'German', ...; '' where nothing tells (a few bare nouns). Names are for people."""
    found: dict[str, int] = {}
    letters = [char for char in text if char.isalpha()]
    for char in letters:
        name = unicodedata.name(char, "")
        for script, language in SCRIPTS:
            if name.startswith(script):
                found[language] = found.get(language, 0) + 1
                break
    if "Japanese" in found:  # kana beside Chinese characters
        return "Japanese"
    if found and sum(found.values()) * 3 >= len(letters):
        return max(found, key=lambda language: found[language])
    words = re.findall(r"[^\W\d_]+", text.casefold())
    hits = {language: sum(word in small for word in words) for language, small in _SETS.items()}
    best = max(hits.values(), default=0)
    winners = [language for language, count in hits.items() if count == best and best]
    return ENGLISH if ENGLISH in winners else winners[0] if winners else ""
