"""From a language model's answer to plain prose for a video model, or to the reason why it is not used. Pure.

    cleaned(answer)            quotes, prefixes, markdown, headings and chatter away
    unusable(text, ask, ...)   why an answer is no description of what was asked for: '' if it is one
    fitted(text, ask)          cut at a sentence below the video model's limit
"""

from __future__ import annotations

import re
import unicodedata

from engine.refine.language import ENGLISH, language_of
from engine.refine.result import Ask
from engine.request import MAX_PROMPT_CHARS

MAX_ANSWER_CHARS = 16_000
"""More than this of an answer is never looked at."""
TOKENS_A_WORD = 1.6
"""Of T5 on English prose, on the safe side; only where the checkpoint's tokenizer cannot be read."""
_QUOTES = "\"'“”‘’«»„`"
_LABEL = re.compile(r"^(?:\W*)(?:here(?:['’]s| is| are)\b[^:\n]{0,80}\b(?:prompt|description|caption|version|translation|output|answer|"
                    r"response|text|refined|rewritten|improved|enhanced|expanded)s?\b[^:\n]{0,60}:|"
                    r"(?:refined|improved|enhanced|detailed|final|english|video|new)?\s*"
                    r"(?:prompt|description|caption|version|translation|output|answer|response)\s*:|"
                    r"(?:sure|certainly|of course|okay)\b(?!-)"
                    r"(?:\s*[!.:]|[,\s]+(?:so\s+)?(?:thing|here|i|let|this|below)\b[^:\n.!]{0,80}[:.!]|\s*,))\s*", re.IGNORECASE)
"""Beginnings that are chatter. A sentence that only begins with one of these words ("Here is where the river ends") is none."""
_SHOWS = re.compile(r"^(?:in\s+(?:this|the)\s+(?:short\s+)?(?:video|clip|scene|image|picture)\s*,\s*(?:we\s+(?:can\s+)?see\s+)?|"
                    r"(?:this|the)\s+(?:short\s+)?(?:video|clip|scene|footage|image|picture|animation)\s+"
                    r"(?:shows?|depicts?|features?|captures?|displays?|presents?|portrays?|opens\s+(?:with|on)|begins\s+with)\s+(?:us\s+)?|"
                    r"(?:the\s+)?(?:video|scene)\s*:\s*|we\s+(?:can\s+)?see\s+)", re.IGNORECASE)
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able|afraid|an ai|just an ai)|i (?:can(?:'t|not| not)|won't|will not|must decline)|"
    r"as an? (?:ai|language model|assistant)|i do(?:n't| not) (?:have|feel comfortable)|cannot (?:assist|help|comply|fulfil)|"
    r"can't (?:assist|help|comply)|unable to (?:assist|help|comply|fulfil|generate)|against (?:my|our) (?:policy|guidelines))",
    re.IGNORECASE)
_TALKS = re.compile(r"\b(?:system prompt|my instructions|previous instructions|api[ _-]?key|let me know if|would you like|how can i help|"
                    r"feel free to|happy to help|do you want me|please provide|could you (?:please )?(?:clarify|provide))\b", re.IGNORECASE)
_CODE = re.compile(
    r"https?://|www\.|<\s*/?\s*(?:script|img|iframe|a|div|html|svg|style|body|object|embed)\b|javascript:|\{\{|\bimport os\b|"
    r"\bcurl\s+(?:-|https?:|www\.)|[{}\[\]]\s*[\"']\w+[\"']\s*:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’)]*\s+")


def cleaned(answer: str) -> str:
    """One line of prose. Idempotent; loses no word of a description that was plain before."""
    text = unicodedata.normalize("NFC", answer[:MAX_ANSWER_CHARS])
    text = _THINKING.sub(" ", text)
    text = "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Cf", "Co", "Cn"))
    before = None
    while before != text:
        before = text
        text = _plain(text)
    return text


def _plain(text: str) -> str:
    lines = []
    for line in text.strip().splitlines():
        line = re.sub(r"^\s*(?:#{1,6}\s+|>\s*|[-*+•]\s+|\d{1,2}[.)]\s+|```\w*\s*$|-{3,}\s*$|\*{3,}\s*$)", "", line)
        lines.append(line.strip())
    text = " ".join(line for line in lines if line)
    text = re.sub(r"(\*\*|__|~~)(.+?)\1", r"\2", text)
    text = re.sub(r"(?<!\w)[*_](?=\S)(.+?)(?<=\S)[*_](?!\w)", r"\1", text)
    text = re.sub(r"`([^`]*)`", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = _LABEL.sub("", text, count=1)
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES and not any(q in text[1:-1] for q in "\"“”«»"):
        text = text[1:-1].strip()
    shorter = _SHOWS.sub("", text, count=1)
    if shorter != text and shorter:
        text = shorter[0].upper() + shorter[1:]
    return text.strip()


def unusable(text: str, ask: Ask, *, system: str = "", secret: str = "") -> str:
    """Why `text`, a cleaned answer, cannot stand in for the wish: part of a sentence; '' when it can.

    `system`: the instructions the model was given, which have no business in its answer. `secret`: likewise.
    """
    if not text or not any(char.isalnum() for char in text):
        return "it was empty"
    if secret and secret in text:
        return "it held what is not its business"
    if _REFUSAL.search(text[:400]):
        return "the model refused"
    if _CODE.search(text):
        return "it held a link, markup or code"
    if _TALKS.search(text) or _quotes_instructions(text, system):
        return "it spoke about itself or its instructions instead of a video"
    if language_of(text) not in (ENGLISH, ""):
        return f"it is in {language_of(text)}, and the video model understands English only"
    if ask.purpose != "caption" and _off_topic(text, ask.text):
        return "it describes something else"
    return ""


def _quotes_instructions(text: str, system: str, run: int = 9) -> bool:
    """`run` words in a row of the instructions stand in the answer."""
    words, told = re.findall(r"\w+", text.casefold()), re.findall(r"\w+", system.casefold())
    runs = {tuple(told[at : at + run]) for at in range(len(told) - run + 1)}
    return any(tuple(words[at : at + run]) in runs for at in range(len(words) - run + 1))


_SMALL = frozenset(re.findall(r"\w+", """
    about above after again along also another around away back been before behind being below beside between both camera close clip
    does down each every fast from gentle gently goes going have here into its just like little look make moves moving much near nice
    off onto over past please quick quickly really scene show shot side slow slowly some something still such than that their them
    then there these they thing this those through toward towards under until very video view want wants what when where which while
    with would your moving motion animation"""))
"""Words that say nothing about what is to be seen."""


def _off_topic(text: str, wish: str) -> bool:
    """Of an English wish's own words (four letters and more), not one stem comes back. Other languages are not judged."""
    if language_of(wish) != ENGLISH:
        return False
    own = {word for word in re.findall(r"[a-z]{4,}", wish.casefold()) if word not in _SMALL}
    answer = {word[:4] for word in re.findall(r"[a-z]{4,}", text.casefold())}
    return bool(own) and not any(word[:4] in answer for word in own)


def count_of(text: str, ask: Ask) -> int:
    """Tokens of `text`: exact where the tokenizer is at hand, else a safe estimate."""
    return ask.count(text) if ask.count else int(len(re.findall(r"\w+|[^\w\s]", text)) * TOKENS_A_WORD) + 1


def fitted(text: str, ask: Ask, before: str = "") -> tuple[str, str]:
    """(text of at most `ask.max_tokens` tokens and 2,000 characters, note about what was cut or '').

    Whole sentences where one fits, else whole words. `before`: what will be put in front of it, and takes its share of both.
    """
    fits = lambda part: len(before + part) <= MAX_PROMPT_CHARS and count_of(before + part, ask) <= ask.max_tokens  # noqa: E731
    if fits(text):
        return text, ""
    sentences = _SENTENCE_END.split(text)
    kept = _most(sentences, fits)
    words = text.split(" ")
    if kept:
        lost = len(sentences) - len(kept)
        said = f"the last {lost} of {len(sentences)} sentences were" if lost > 1 else "the last sentence was"
        return " ".join(kept), f"The answer was longer than the {ask.max_tokens} tokens the model reads; {said} cut off."
    kept = _most(words, fits)
    shown = " ".join(kept).rstrip(",;:") or text[:40]
    return shown, (f"The answer was one sentence longer than the {ask.max_tokens} tokens the model reads; it was cut after {len(kept)} "
                   "words.")


def _most(parts: list[str], fits) -> list[str]:
    """The longest beginning of `parts` that fits, by halving: more parts never take fewer tokens."""
    low, high = 0, len(parts)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(" ".join(parts[:middle])) else (low, middle - 1)
    return parts[:low]


def with_kept(text: str, ask: Ask) -> tuple[str, str]:
    """(text with every word of `ask.keep` in it, note or ''). Missing ones go to the front, as they stand in LoRA captions."""
    missing = [word for word in ask.keep if word.casefold() not in text.casefold()]
    if not missing:
        return text, ""
    named = ", ".join(missing)
    return f"{named}, {text}", f"Kept for your LoRA: {named}."


def fitted_with_kept(text: str, ask: Ask) -> tuple[str, str, str]:
    """(text that fits with every word of `ask.keep` in it, note about what was cut or '', note about what was put back or '').

    What is put in front takes room, for which more may be cut, and another of those words with it: so until nothing more is lost.
    """
    before = ""
    for _ in range(len(ask.keep) + 1):
        part, cut = fitted(text, ask, before)
        whole, kept = with_kept(part, ask)
        if whole == before + part:
            break
        before = whole.removesuffix(part)
    whole, again = fitted(whole, ask)  # where not even one word had room
    return whole, cut or again, kept
