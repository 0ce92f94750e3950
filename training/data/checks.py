"""What is wrong with a set, clip by clip and as a whole. Flags only: leaving out is for people. Pure but for counting tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.models.tokens import count_tokens
from engine.spec import ModelSpec
from training.data.buckets import Left, Placed, Row, Rules, place, table
from training.data.likeness import first_alike
from training.data.records import Clip, Dataset

STATIC_SHARE = 0.3
"""A clip with so large a share of still steps does not move (Vchitect-2.0, section IV)."""
FEW, GOOD = 10, 25
"""Fewer clips than `FEW` are learned by heart; from `GOOD` on a concept is learned (diffusers' CogVideoX guide)."""
BAD, WARN = "bad", "warn"
LEADS = ("the video shows", "this video shows", "the video features", "the video captures", "the video depicts", "in this video",
         "the clip shows", "a video of")
"""How describing models begin."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one clip."""

    kind: str
    """'caption', 'tokens', 'static', 'cuts', 'twin', 'short', 'words', 'prefix'."""
    text: str
    level: str = WARN
    """'bad': it will not be trained on as it is; 'warn': worth a look."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found, against one model."""

    model: str
    token_limit: int
    tokens: dict[str, int]
    """Clip id -> T5 tokens of what is trained on, end mark included; empty where the model has no tokenizer.json."""
    problems: dict[str, tuple[Problem, ...]]
    placed: tuple[Placed, ...]
    left: tuple[Left, ...]
    rows: tuple[Row, ...]
    splits: dict[str, str]
    messages: tuple[tuple[str, str], ...]
    """(level, words) about the set as a whole."""

    @property
    def trainable(self) -> int:
        """Clips that would be trained on."""
        found = {each.clip.id for each in self.placed}
        return sum(self.splits.get(clip) == "train" and not self.stopped(clip) for clip in found)

    def stopped(self, clip_id: str) -> bool:
        """Whether something keeps the clip from being used."""
        return any(problem.level == BAD for problem in self.problems.get(clip_id, ()))


def check(dataset: Dataset, spec: ModelSpec, rules: Rules) -> Report:
    """Looks at every clip in use. Raises `ModelInvalid` for a broken tokenizer."""
    placed, left = place(dataset, rules)
    splits = dataset.splits()
    tokens = {clip.id: count for clip in dataset.used if (count := count_tokens(spec, dataset.text(clip))) is not None}
    twins = twins_of(dataset.used)
    reasons = {each.clip.id: each.reason for each in left}
    problems: dict[str, tuple[Problem, ...]] = {}
    for clip in dataset.used:
        found = [*_of_words(clip, dataset, tokens.get(clip.id), spec), *_of_looks(clip)]
        if clip.id in twins:
            found.append(Problem("twin", f"looks the same as {twins[clip.id].origin}. One of the two is enough."))
        if clip.id in reasons:
            found.append(Problem("short", reasons[clip.id], BAD))
        if found:
            problems[clip.id] = tuple(found)
    usable = tuple(each for each in placed if not any(problem.level == BAD for problem in problems.get(each.clip.id, ())))
    return Report(spec.name, spec.max_text_tokens, tokens, problems, placed, left, table(usable, splits, rules.fps), splits,
                  tuple(_of_set(dataset, usable, splits)))


def _of_words(clip: Clip, dataset: Dataset, tokens: int | None, spec: ModelSpec) -> list[Problem]:
    found = []
    if not clip.caption:
        found.append(Problem("caption", "has no caption. Write what it shows.", BAD))
    elif tokens is not None and tokens > spec.max_text_tokens:
        found.append(Problem("tokens", f"its caption has {tokens} tokens; {spec.name} reads {spec.max_text_tokens}. Shorten it by "
                                       f"{tokens - spec.max_text_tokens}.", BAD))
    if dataset.prefix and clip.caption.startswith(dataset.prefix):
        found.append(Problem("prefix", f"its caption begins with {dataset.prefix!r} already, so it would be there twice."))
    lead = next((each for each in LEADS if clip.caption.lower().startswith(each)), None)
    if lead:
        found.append(Problem("words", f"its caption begins with {clip.caption[:len(lead)]!r}, which says nothing of what is seen."))
    return found


def _of_looks(clip: Clip) -> list[Problem]:
    if clip.looks is None:
        return []
    found = []
    if clip.looks.still >= STATIC_SHARE:
        found.append(Problem("static", f"hardly moves: {100 * clip.looks.still:.0f} % of its steps change nothing."))
    if clip.looks.cuts:
        many = len(clip.looks.cuts) + 1
        found.append(Problem("cuts", f"has {many} scenes. A model that learns from it learns to cut; split it into its scenes."))
    return found


def twins_of(clips: tuple[Clip, ...]) -> dict[str, Clip]:
    """Clip id -> an earlier clip that looks the same (`likeness`)."""
    seen = [(clip, clip.looks) for clip in clips if clip.looks is not None]
    return {seen[index][0].id: seen[twin][0] for index, twin in first_alike([looks for _, looks in seen]).items()}


def _of_set(dataset: Dataset, usable: tuple[Placed, ...], splits: dict[str, str]) -> list[tuple[str, str]]:
    ids = {each.clip.id for each in usable}
    train = sum(splits[clip] == "train" for clip in ids)
    count: Callable[[int], str] = lambda number: f"{number} clip{'' if number == 1 else 's'}"  # noqa: E731
    if not dataset.clips:
        return [(BAD, "The set is empty: nothing in it could be used. The list of what was refused says why.")]
    if train == 0:
        return [(BAD, f"None of its {count(len(dataset.clips))} can be trained on as they are.")]
    said = []
    whole = len(ids)
    if train == 1:
        said.append((BAD, "One clip only: a model learns it by heart and nothing else. Add more, or split a long one into scenes."))
    elif whole < FEW:
        said.append((WARN, f"{count(whole)}: they are likely learned by heart. {GOOD} or more teach a concept."))
    elif whole < GOOD:
        said.append((WARN, f"{count(whole)}; {GOOD} or more teach a concept better."))
    if whole == train and dataset.held_out > 0 and train > 1:
        said.append((WARN, "No clip that can be used is held out, so nothing will tell learning from learning by heart."))
    return said
