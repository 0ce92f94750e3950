"""A wish as words, and a word as the pieces it is made of: what the pocket refiner's reader sees. No torch.

A word is the set of its runs of two to four letters, ends marked, and itself, each hashed into one of `buckets` rows (after
Bojanowski et al. 2017, "Enriching word vectors with subword information"): a typo changes some pieces and leaves the rest.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache

MAX_WORDS = 48
"""Words of a wish that are read; the rest is said to be unread."""
MAX_LETTERS = 24
_WORD = re.compile(r"<3|->|[\u4e00-\u9fff]|[^\W_]+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Lower-case words, numbers, single Chinese characters and punctuation marks, accents removed, all of them."""
    flat = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(char for char in flat if not unicodedata.combining(char)))


@lru_cache(maxsize=65_536)
def pieces(word: str, buckets: int) -> tuple[int, ...]:
    """Rows of the embedding that make up `word`, each in [0, buckets); never empty."""
    marked = f"<{word[:MAX_LETTERS]}>"
    grams = {marked, *(marked[at : at + size] for size in (2, 3, 4) for at in range(len(marked) - size + 1))}
    return tuple(sorted({zlib.crc32(gram.encode()) % buckets for gram in grams}))
