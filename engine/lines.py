"""What somebody typed, or a file is called, as one line that can be shown."""

from __future__ import annotations

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Not printable by themselves, but within Persian words, Indic ones and emoji of several parts."""


def one_line(text: str) -> str:
    """`text` with a space for all that cannot be shown, and never two of them. What it returns it leaves as it is."""
    return " ".join("".join(char if _shown(text, at) else " " for at, char in enumerate(text)).split())


def is_shown(text: str) -> bool:
    """Is all of it printable?"""
    return all(_shown(text, at) for at in range(len(text)))


def _shown(text: str, at: int) -> bool:
    if text[at] not in JOINERS:
        return text[at].isprintable()
    beside = text[at - 1:at] + text[at + 1:at + 2]
    return len(beside) == 2 and beside.isprintable() and " " not in beside
