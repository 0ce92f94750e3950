"""Captions by a model that sees: the seam between a dataset and whatever describes pictures.

    Describer.describe(frames, prompt) -> text        `engine.refine` has one over a vision endpoint; by hand needs none

The prompt is Vchitect-2.0's (section IV), in `caption_prompt.txt`; 16 pictures, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.errors import InvalidRequest
from engine.lines import one_line
from training.data.checks import LEADS
from training.data.looks import sampled, webp
from training.data.records import MAX_CAPTION_CHARS, Clip

PROMPT_FILE = Path(__file__).with_name("caption_prompt.txt")
PICTURES = 16
LONGEST_SIDE = 512


class Describer(Protocol):
    """A model that sees."""

    @property
    def name(self) -> str:
        """What a caption says it is from."""

    def describe(self, frames: np.ndarray, prompt: str) -> str:
        """Words about uint8 `frames` (n, height, width, 3). Raises a `SprocketError` that says what went wrong."""


@dataclass(frozen=True, slots=True)
class ByFiles:
    """A `Describer` over something that takes picture files, as `engine.refine.chat.describe` does."""

    name: str
    ask: Callable[[tuple[bytes, ...], str], str]
    """(WebP files in order, prompt) -> words."""

    def describe(self, frames: np.ndarray, prompt: str) -> str:
        return self.ask(tuple(webp(frame) for frame in frames), prompt)


def default_prompt() -> str:
    return PROMPT_FILE.read_text(encoding="utf-8").strip()


def description(describer: Describer, clip: Clip, path: Path, prompt: str | None = None) -> str:
    """The caption of one clip. Raises InvalidRequest (field 'caption') for an empty answer, and what the describer raises."""
    frames = np.stack(list(sampled(clip, path, PICTURES, LONGEST_SIDE)))
    words = trimmed(describer.describe(frames, prompt or default_prompt()))
    if not words:
        raise InvalidRequest("caption", f"{describer.name} answered nothing. Try again, or write it by hand.")
    return words


def trimmed(answer: str) -> str:
    """The answer as a caption: one line, without 'The video shows' at its beginning, at most `MAX_CAPTION_CHARS`."""
    words = one_line(answer).strip("\"' ")
    lead = next((each for each in LEADS if words.lower().startswith(each + " ")), None)
    if lead:
        words = words[len(lead):].strip(" ,:")
        words = words[:1].upper() + words[1:]
    return words[:MAX_CAPTION_CHARS]
