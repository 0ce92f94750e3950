"""A chat model's answer as a refinement: asked, cleaned, judged, cut to what the video model reads. One way for every chat model.

What is wrong with the *answer* (a refusal, another subject, instructions that came through) gives the user's text back with a
note. What is wrong with the *server* is raised: whether a job may then run with the user's own text is the user's choice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from engine.refine.clean import MAX_ANSWER_CHARS, cleaned, count_of, fitted_with_kept, unusable
from engine.refine.prompts import system_prompt
from engine.refine.result import Ask, OnText, Refinement, RefinerFailed


class ChatModel(Protocol):
    """`endpoint.Endpoint` and `local.LocalModel`."""

    def answer(self, ask: Ask, stop: threading.Event | None = None) -> Iterator[str]: ...


def refine_by_chat(ask: Ask, model: ChatModel, backend: str, *, on_text: OnText | None = None, stop: threading.Event | None = None,
                   secret: str = "") -> Refinement:
    """The refinement of `ask` by a chat model. `secret`: what must never come back in an answer.

    Raises RefinerFailed where no answer came, and what `answer` raises.
    """
    answer = ""
    pieces = model.answer(ask, stop)
    try:
        for piece in pieces:
            answer += piece
            if on_text is not None and not (secret and secret in answer):
                on_text(answer[:MAX_ANSWER_CHARS])
            if len(answer) > MAX_ANSWER_CHARS:
                break
    finally:
        _close(pieces)
    return judged(ask, answer, backend, secret=secret)


def judged(ask: Ask, answer: str, backend: str, *, secret: str = "") -> Refinement:
    """What becomes of a whole answer. Pure."""
    text = cleaned(answer)
    reason = unusable(text, ask, system=system_prompt(ask), secret=secret)
    if reason:
        return _fallback(ask, backend, f"The answer was not used: {reason}. Your own words are kept.")
    text, cut, kept = fitted_with_kept(text, ask)
    return Refinement(text=text, original=ask.text, notes=tuple(note for note in (cut, kept, _guess(ask)) if note), backend=backend,
                      tokens=count_of(text, ask), max_tokens=ask.max_tokens)


def _fallback(ask: Ask, backend: str, note: str) -> Refinement:
    return Refinement(text=ask.text, original=ask.text, notes=(note,), backend=backend, tokens=count_of(ask.text, ask),
                      max_tokens=ask.max_tokens, fallback=True)


def _guess(ask: Ask) -> str:
    return "" if ask.count else "The number of tokens is an estimate: this model's tokenizer cannot be read before it is loaded."


def _close(pieces: object) -> None:
    close: Callable[[], None] | None = getattr(pieces, "close", None)
    if close is not None:
        close()


def describe(frames: tuple[bytes, ...], prompt: str, model: ChatModel, *, max_tokens: int = 226, count: Callable[[str], int] | None = None,
             stop: threading.Event | None = None, secret: str = "") -> str:
    """What a vision model sees in a picture, or in up to 16 frames of a clip in order, as a caption for training.

    frames: JPEG, PNG or WebP files. prompt: a note for the model, such as words the caption should use; may be ''.
    secret: what must never come back as a caption.
    Raises InvalidRequest (no frames, too many), RefinerFailed, also where the answer is no description.
    """
    if not frames:
        raise RefinerFailed("There is no picture to describe. Give one image, or up to 16 frames of a clip.")
    ask = Ask(text=prompt.strip() or "Describe what is shown.", purpose="caption", images=frames, max_tokens=max_tokens, count=count)
    found = refine_by_chat(ask, model, "endpoint", stop=stop, secret=secret)
    if found.fallback:
        raise RefinerFailed(found.notes[0].replace("Your own words are kept.", "Write the caption yourself, or try again."))
    return found.text
