"""The pocket tokenizer: whole words of the grammar, and single characters for all else.

A stock `T5Tokenizer` cannot fold case (it rebuilds its backend on load and drops a
normalizer), so every word and letter also exists in Title and UPPER case, and `fold_table`
says which row each one shares. Training uses the folded rows; export copies them.
"""

from __future__ import annotations

import string

import numpy as np
from transformers import T5Tokenizer

from .captions import vocabulary

_SPECIAL = ("<pad>", "</s>", "<unk>")
_SPACE = "\u2581"
_OTHER_CHARACTERS = "".join(chr(c) for c in range(0xA1, 0x100) if c != 0xAD) + "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"


def entries() -> list[str]:
    """All tokens, in id order."""
    tokens = [*_SPECIAL, _SPACE]
    words = vocabulary()
    for form in (str, str.capitalize, str.upper):
        tokens += [_SPACE + form(word) for word in words]
    # Words may follow a hyphen, without a space ("three-sided").
    tokens += [word for word in words if len(word) > 2]
    tokens += [c for c in string.printable if not c.isspace()]
    tokens += list(_OTHER_CHARACTERS)
    return list(dict.fromkeys(tokens))


def build_tokenizer() -> T5Tokenizer:
    """A whole word always wins over its characters: the cost of a token is its place below."""
    scored = []
    for token in entries():
        if token in _SPECIAL:
            score = 0.0
        elif token == _SPACE:
            score = -8.0
        elif len(token) == 1:
            score = -10.0
        else:
            score = -2.0 if token.startswith(_SPACE) else -4.0
        scored.append((token, score))
    return T5Tokenizer(vocab=scored, extra_ids=0)


def fold_table() -> np.ndarray:
    """int64 (vocabulary,): id -> id of its lower-case twin (itself where there is none)."""
    tokens = entries()
    ids = {token: i for i, token in enumerate(tokens)}
    return np.array([ids.get(token.lower(), i) if i > 2 else i for i, token in enumerate(tokens)], np.int64)
