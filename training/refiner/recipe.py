"""Training and export of the pocket refiner: `assets/pocket-refiner`. Part of `make pocket`; minutes on one core.

Deterministic (every batch is a pure function of the seed and the step) and resumable, as all stages of the pocket recipe.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.refine.words import MAX_WORDS
from training.pocket import captions, world
from training.pocket.trainer import Curve, Schedule, TrainState, load_average, train

from .model import Shape, WishReader, batch_of, reading_loss
from .wishes import FIRST, QUESTIONS, WIDER, wish_at

CHECKPOINT = "refiner.safetensors"


@dataclass(frozen=True)
class RefinerRecipe:
    """Everything that decides the weights."""

    seed: int = 0
    shape: Shape = field(default_factory=Shape)
    steps: int = 2200
    batch: int = 160
    lr: float = 3e-3
    wider_steps: int = 650
    """Of the second phase, with more words (`more.py`)."""
    wider_lr: float = 1.5e-3


def run_refiner(recipe: RefinerRecipe, folder: Path, *, save_every: float = 90.0, until: int | None = None) -> WishReader:
    """Trains to the end (or to step `until`) from wherever `folder` says training stopped; returns the model of that step."""
    model = build_reader(recipe)
    state = TrainState(model, folder / CHECKPOINT, ("embed", "place", "query", "answer", "outside"))

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        lexicon = FIRST if step < recipe.steps else WIDER
        wishes = [wish_at(recipe.seed, step * recipe.batch + number, lexicon) for number in range(recipe.batch)]
        return reading_loss(model, batch_of(wishes, recipe.shape.buckets))

    curve = Curve(folder / "refiner.jsonl", every=50)
    total = recipe.steps + recipe.wider_steps
    for schedule in (Schedule(recipe.steps, recipe.lr, warmup=100, cooldown=0.6, ema=0.995),
                     Schedule(total, recipe.wider_lr, warmup=30, cooldown=0.8, ema=0.99, begin=recipe.steps)):
        for progress in train(state, schedule, loss_at, save_every=save_every, until=until):
            curve.add(progress)
    return model


def make_refiner(work: Path, out: Path, save_every: float = 90.0, recipe: RefinerRecipe | None = None) -> None:
    """Trains what is left to train and writes `assets/pocket-refiner`: the last stage of `make pocket`."""
    recipe = recipe or RefinerRecipe()
    run_refiner(recipe, work, save_every=save_every)
    export_refiner(recipe, work, out)


def build_reader(recipe: RefinerRecipe) -> WishReader:
    """Random weights, the same every time."""
    torch.manual_seed(recipe.seed + 11)
    return WishReader(recipe.shape)


def export_refiner(recipe: RefinerRecipe, folder: Path, out: Path) -> None:
    """Writes the averaged weights in fp16, with what the reader and the writer need to know of the world, to `out`."""
    model = build_reader(recipe)
    steps = load_average(model, folder / CHECKPOINT)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors")
    config = {"format": "sprocket-pocket-refiner", "version": 1, "steps": steps, **asdict(recipe.shape), "max_words": MAX_WORDS,
              "questions": [[name, list(options)] for name, options in QUESTIONS]}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "world.json").write_text(json.dumps(world_words(), indent=1) + "\n")


def world_words() -> dict:
    """The phrases a caption may be written with: by fact, the most usual first; and every word the world's model knows."""
    usual = lambda table: {fact: list(dict.fromkeys(phrases)) for fact, phrases in table.items()}  # noqa: E731
    return {
        "shape": usual(captions.NOUNS),
        "colour": usual(captions.HUES),
        "background": usual(captions.PLACES),
        "motion": {motion: [list(forms) for forms in dict.fromkeys(captions.MOVES[motion])] for motion in world.MOTIONS},
        "pace": usual(captions.PACES),
        "vocabulary": captions.vocabulary(),
    }
