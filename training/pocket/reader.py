"""Stage 3: the text encoder learns to read, before anything is drawn from its words.

Every output position, padding included, must tell what the whole sentence says: subjects, colours,
place, motion, pace. CogVideoX attends to every text position alike, so after this a video token
finds the sentence's meaning wherever it looks; trained on drawings alone, the words that weigh
least in the picture (shape, motion) were still at chance when colours and places were learned.
The heads that are asked are not released.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import world
from .captions import caption
from .world import Scene

_SHAPES = (*world.SHAPES, "none")
_COLOURS = (*world.COLOURS, "none")
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("shape", _SHAPES),
    ("colour", _COLOURS),
    ("second shape", _SHAPES),
    ("second colour", _COLOURS),
    ("background", world.BACKGROUNDS),
    ("motion", world.MOTIONS),
    ("pace", world.SPEEDS),
)
"""What is asked of a sentence, and the possible answers."""
ANSWERS = sum(len(options) for _, options in QUESTIONS)
TEXT_LENGTHS = (24, 32, 48, 64, 226)
TEXT_LENGTH_SHARES = (0.4, 0.3, 0.24, 0.05, 0.01)
UNREAD = -100
"""No answer is expected (an empty caption)."""


@dataclass(frozen=True)
class ReaderPhase:
    """The stage: `steps` of `batch` fresh captions."""

    steps: int
    batch: int


PHASE = ReaderPhase(700, 160)


def answers(scene: Scene) -> list[int]:
    """The number of the right answer to each question."""
    first, *rest = scene.subjects
    second = (rest[0].shape, rest[0].colour) if rest else ("none", "none")
    said = (first.shape, first.colour, *second, scene.background, scene.motion, scene.speed)
    return [options.index(value) for (_, options), value in zip(QUESTIONS, said, strict=True)]


def reading_loss(heads: nn.Module, states: Tensor, right: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of every question at every position, and the share answered right on the whole.

    states: (B, L, D) encoder outputs; right: int64 (B, questions), UNREAD where nothing is asked.
    """
    parts = heads(states).float().split([len(options) for _, options in QUESTIONS], dim=-1)
    loss, hits = states.new_zeros((), dtype=torch.float32), []
    for column, part in zip(right.T, parts, strict=True):
        asked = column != UNREAD
        count = asked.sum().clamp(min=1)
        wanted = column[:, None].expand(part.shape[:2])
        total = functional.cross_entropy(part.flatten(0, 1), wanted.flatten(), ignore_index=UNREAD, reduction="sum")
        loss = loss + total / (count * part.shape[1])
        hits.append(((part.mean(1).argmax(-1) == column) & asked).sum() / count)
    return loss / len(QUESTIONS), {"read": float(torch.stack(hits).mean())}


def draw_captions(tokenizer, phase: ReaderPhase, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """(ids (B, L), right answers (B, questions)), a pure function of (seed, step). No held-out combination."""
    rng = np.random.default_rng((seed, step))
    scenes = [world.scene_at(seed + 500, step * phase.batch + i) for i in range(phase.batch)]
    length = int(rng.choice(TEXT_LENGTHS, p=TEXT_LENGTH_SHARES))
    texts = [caption(scene, rng) for scene in scenes]
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return ids, torch.tensor([answers(scene) for scene in scenes])
