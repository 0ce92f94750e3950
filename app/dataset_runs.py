"""Which training runs still need a set of clips. No torch."""

from __future__ import annotations

from app.training import RunCard, Trainings
from training.data.records import Dataset
from training.data.shelf import DATASET_FACT
from training.lora.config import POCKET_WORLD

OVER = ("done", "stopped", "failed")
"""States of a run that reads no clips any more."""


def unfinished(trainings: Trainings, dataset: Dataset) -> tuple[str, ...]:
    """In words, the runs of its owner that work on the set, wait to, or would go on with it. A run in a folder of its own (`--out`) is not
    known here."""
    return tuple(f"{card.config.name!r} ({card.id}, {card.state.state})" for card in trainings.cards(owner=dataset.owner)
                 if (card.active or card.state.state not in OVER) and _reads(card, dataset))


def _reads(card: RunCard, dataset: Dataset) -> bool:
    """By the id in its facts; a run that began before there was one by what it was asked for."""
    known = card.facts.get(DATASET_FACT)
    return known == dataset.id if known else card.config.dataset != POCKET_WORLD and card.config.dataset in (dataset.id, dataset.name)
