"""The Use step of a run: its LoRA into Create at a strength, or two jobs of one prompt and seed, without it and with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.training import RunCard, Trainings
from app.ui import create, views
from app.ui.address import Address
from app.ui.html.common import short
from app.ui.html.train_use import PROMPT_CHARS, Comparison
from app.ui.parts import OWNER, Changes
from engine.errors import InvalidRequest, SprocketError
from engine.request import MAX_LORA_WEIGHT, GenerationRequest

if TYPE_CHECKING:
    from app.ui.actions import Click

SHOWN = 4
"""Comparisons on the page, newest first."""


def first_prompt(card: RunCard, typed: object = "") -> str:
    """What the LoRA is tried with unless something else is said: the run's own preview, its trigger, or what stands in Create."""
    prompts = (*card.config.preview_prompts, card.config.trigger, typed, card.config.name)
    return next(text for text in prompts if isinstance(text, str) and text.strip())


def comparisons(studio: Any, run_id: str) -> tuple[Comparison, ...]:
    """Those of a run, newest first, as far as they are shown."""
    told = [event for event in studio.training.run(run_id).events() if event.get("kind") == "compared"][:-SHOWN - 1:-1]
    return tuple(Comparison(str(event["prompt"]), int(event["seed"]), float(event["weight"]),
                            *(views.find_job(studio, str(job)) for job in event["jobs"][:2])) for event in told)


def last_said(compared: tuple[Comparison, ...]) -> dict[str, str]:
    """What the form says after a comparison: the same again."""
    newest = compared[0] if compared else None
    return {"prompt": newest.prompt, "weight": f"{newest.weight:g}", "seed": str(newest.seed)} if newest else {}


def train_use(click: Click) -> Changes:
    """From the form of the run's page, or from the list of runs, where nothing but the run is said."""
    trainings: Trainings = click.studio.training
    card = trainings.card(click.text("run"), owner=OWNER)
    try:
        prompt, weight, seed = _said(click, card)
        request = _request(trainings, card, prompt, seed, weight)
        if click.text("how") == "compare":
            return _compare(click, card, request, weight)
    except SprocketError as error:
        if click.text("how") != "compare":
            raise  # Create is on the screen already, and says it there
        return _at_run(click, card, str(error))
    if card.config.method != "lora":
        how = " Ask for key frames, and it makes those between." if card.config.method == "stage-two" else ""
        notice = f"{short(card.config.name, 40)} is a model of its own, and chosen.{how}"
        return create.fill(click.studio, click.parts, request, notice) | {click.parts.at: Address(view="create").href()}
    strength = "the strength it was trained at" if weight == 1 else f"strength {weight:g}"
    notice = f"{short(card.config.name, 40)} is used, at {strength}."
    return create.fill(click.studio, click.parts, request, notice) | {click.parts.at: Address(view="create").href()}


def _request(trainings: Trainings, card: RunCard, prompt: str, seed: int | None, weight: float) -> GenerationRequest:
    """With what was trained: a LoRA beside its base, or a model."""
    if card.config.method != "lora":
        return GenerationRequest(prompt=prompt, model=trainings.use_model(card.id, owner=OWNER), seed=seed)
    lora = trainings.use(card.id, owner=OWNER)
    return GenerationRequest(prompt=prompt, model=card.config.model, seed=seed, loras=((lora.name, weight),))


def _said(click: Click, card: RunCard) -> tuple[str, float, int | None]:
    """(prompt, strength, seed) of the form. Raises `InvalidRequest`."""
    prompt = click.text("prompt").strip() or first_prompt(card, click.values.get("prompt"))
    if len(prompt) > PROMPT_CHARS:
        raise InvalidRequest("prompt", f"has {len(prompt):,} characters; at most {PROMPT_CHARS:,} are read here.")
    try:
        weight = float(click.text("weight") or 1.0)
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_LORA_WEIGHT:
        raise InvalidRequest("weight", f"must be {-MAX_LORA_WEIGHT:g} to {MAX_LORA_WEIGHT:g}.", suggestion=1)
    text = click.text("seed").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidRequest("seed", f"is {text[:30]!r}; it is a whole number, or empty for any.", suggestion=card.config.preview_seed)
    return prompt, weight, int(text) if text else None


def _compare(click: Click, card: RunCard, request: GenerationRequest, weight: float) -> Changes:
    """Both jobs or none; the run's own log keeps which they are, so they are found again after a reload."""
    seed = card.config.preview_seed if request.seed is None else request.seed
    having = request.to_json() | {"seed": seed}
    both = [having | {"loras": [], "model": card.config.model}, having]
    jobs = click.studio.submit_batch(both, owner=OWNER)
    click.studio.training.run(card.id).tell("compared", prompt=request.prompt, seed=seed, weight=weight, jobs=[job.id for job in jobs])
    return _at_run(click, card, "")


def _at_run(click: Click, card: RunCard, said: str) -> Changes:
    from app.ui.train import page, token  # which show this step themselves

    at = Address(view="train", run=card.id)
    drawn = token(click.studio, at)
    typed = {"prompt": click.text("prompt"), "weight": click.text("weight") or "1", "seed": click.text("seed")}
    return {click.parts.train: page(click.studio, at, said, typed), click.parts.at: at.href(), click.parts.timer: gr.Timer(active=True),
            click.parts.seen: {"train": drawn, "train said": said}}
