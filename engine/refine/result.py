"""What goes into a refinement and what comes out: frozen values that every backend shares. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest, SprocketError
from engine.request import MAX_PROMPT_CHARS, REFINERS

PURPOSES = ("text-to-video", "image-to-video", "caption", "translate")
"""Each has a system prompt of its own in `prompts/`."""
BACKENDS = REFINERS
MAX_VERSION = 10_000
MAX_IMAGES = 16
"""Frames of a clip that a vision model is shown (as for CogVideoX's own captions: Yang et al. 2024, section 4.2)."""


class RefinerFailed(SprocketError):
    """A backend gave no answer: not set up, not reachable, too slow, refused. The message says which and what to do.

    Nothing of a key is ever in it.
    """

    code = "refiner_failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One text to refine. Raises InvalidRequest on construction."""

    text: str
    """The user's own words, 1 to 2,000 characters, any language."""
    purpose: str = "text-to-video"
    """Of PURPOSES."""
    max_tokens: int = 226
    """What the video model reads, in its own tokens."""
    count: Callable[[str], int] | None = None
    """The video model's tokenizer: text -> tokens. None: tokens are estimated, and a note says so where it matters."""
    keep: tuple[str, ...] = ()
    """Words that must come through unchanged: trigger words of LoRAs. Those not in `text` are left out."""
    version: int = 0
    """0 the first answer, 1 another, ...: the same version of the same text is the same answer where a backend can promise it."""
    images: tuple[bytes, ...] = ()
    """JPEG, PNG or WebP files a vision model is shown: a start image, or up to 16 frames in order."""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidRequest("text", "is empty. Say in a few words what the video should show, then refine it.")
        if len(self.text) > MAX_PROMPT_CHARS:
            raise InvalidRequest("text", f"has {len(self.text):,} characters; at most {MAX_PROMPT_CHARS:,} are refined. Shorten it.")
        if self.purpose not in PURPOSES:
            raise InvalidRequest("purpose", f"{str(self.purpose)[:40]!r} is not known. Use one of {', '.join(PURPOSES)}.")
        if isinstance(self.version, bool) or not isinstance(self.version, int) or not 0 <= self.version <= MAX_VERSION:
            raise InvalidRequest("version", f"is {str(self.version)[:20]}; use 0 to {MAX_VERSION:,}.")
        if len(self.images) > MAX_IMAGES:
            raise InvalidRequest("images", f"are {len(self.images)}; at most {MAX_IMAGES} are shown to a model. Take fewer frames.")
        low = self.text.casefold()
        object.__setattr__(self, "keep", tuple(dict.fromkeys(word for word in self.keep if word and word.casefold() in low)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Refinement:
    """A refined text, or the user's own with the reason why."""

    text: str
    """What goes to the video model."""
    original: str
    """The user's words, unchanged."""
    notes: tuple[str, ...] = ()
    """What a person should know, whole sentences: what was filled in, cut, left out or refused."""
    backend: str
    """Of BACKENDS."""
    tokens: int
    """Of `text`, as the video model counts."""
    max_tokens: int
    fallback: bool = False
    """The answer could not be used: `text` is `original`."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"notes": list(self.notes)}


OnText = Callable[[str], None]
"""Told the raw answer so far, each time it has grown."""
