"""The Train page: what it shows for an address, and what its buttons do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi import APIRouter
from fastapi.responses import Response

from app.errors import NotAllowed, NotFound
from app.training import PRESETS, Forecast, RunCard, Trainings
from app.ui.address import Address
from app.ui.dataset import train_html, train_token
from app.ui.html.common import empty, link
from app.ui.html.curves import smoothed
from app.ui.html.dataset import steps_html
from app.ui.html.status import notice_html
from app.ui.html.train import chosen_of, new_html, run_html, runs_html
from app.ui.html.train_use import comparisons_token, use_html
from app.ui.media import FOREVER, file_response
from app.ui.parts import OWNER, Changes
from app.ui.train_use import comparisons, first_prompt, last_said, train_use
from engine.errors import InvalidRequest, SprocketError
from training.data.buckets import SHAPES
from training.data.shelf import DATASET_FACT
from training.lora.config import FIELDS, POCKET_WORLD, TrainConfig, from_mapping

if TYPE_CHECKING:
    from app.ui.actions import Click

CURVE_EVENTS = 20_000
"""Steps that a run's page draws."""

RUNS = "all"
"""`run` of the address of the list of runs; without one the page is that of datasets."""


def panel(studio: Any, at: Address, said: str = "") -> str:
    """The whole view: datasets and captions (`app.ui.dataset`), or settings and runs; why not, for a visitor who may not see them."""
    try:
        return _panel(studio, at, said)
    except NotAllowed as error:
        return empty("Training is not open to you", str(error))


def _panel(studio: Any, at: Address, said: str, chosen: dict[str, Any] | None = None) -> str:
    if at.run:
        return page(studio, at, said, chosen)
    if at.set and at.step == "settings":
        return steps_html(at) + page(studio, replace(at, run="new"), said, chosen)
    ways = f'<p class="crumbs">{link("Training runs", Address(view="train", run=RUNS).href(), kind="inline")}</p>' if not at.set else ""
    return ways + train_html(studio, at, said)


def page(studio: Any, at: Address, said: str = "", chosen: dict[str, Any] | None = None) -> str:
    """The panel for `at`: all runs, one run, or the form of a new one."""
    trainings: Trainings = studio.training
    if at.run == "new":
        return _new(studio, at, said, chosen)
    if at.run and at.run != RUNS:
        try:
            card = trainings.card(at.run, owner=OWNER)
        except (NotFound, InvalidRequest):
            return empty("No such run", "It was deleted, or was never here.", action=link("All runs", "/?view=train&run=all"))
        compared = comparisons(studio, card.id)
        typed = dict(chosen or {}) or last_said(compared)  # the poll draws it again without what was typed
        used = use_html(card, typed.pop("prompt", "") or first_prompt(card), compared, **typed)
        return run_html(card, fewer_steps(trainings.run(card.id).events()), said, used)
    cards = trainings.cards(owner=OWNER)
    curves = {card.id: smoothed([event["loss"] for event in trainings.run(card.id).events()
                                 if event.get("kind") == "step" and event.get("loss") is not None]) for card in cards[:40]}
    return runs_html(cards, curves, said)


def fewer_steps(events: Sequence[dict[str, Any]], most: int = CURVE_EVENTS) -> list[dict[str, Any]]:
    """All events of a run, save that of its steps only about `most` are kept, evenly, the first and the last among them."""
    steps = [at for at, event in enumerate(events) if event.get("kind") == "step"]
    kept = {*steps[::max(1, -(-len(steps) // most))], *steps[-1:]}
    return [event for at, event in enumerate(events) if event.get("kind") != "step" or at in kept]


def token(studio: Any, at: Address) -> str:
    """Changes when the page does. The form of a new run does not change by itself."""
    try:
        return _token(studio, at)
    except NotAllowed:
        return "closed"


def _token(studio: Any, at: Address) -> str:
    if not at.run and at.step != "settings":
        return train_token(studio)
    if at.run in ("", "new"):
        return "new"
    trainings: Trainings = studio.training
    try:
        cards = (trainings.card(at.run, owner=OWNER),) if at.run != RUNS else trainings.cards(owner=OWNER)
    except (NotFound, InvalidRequest):
        return "none"
    compared = "" if at.run == RUNS else comparisons_token(comparisons(studio, at.run))
    return "|".join(_card_token(trainings, card) for card in cards) + compared


def _card_token(trainings: Trainings, card: RunCard) -> str:
    path = trainings.run(card.id).events_file
    length = path.stat().st_size if path.is_file() else 0
    return f"{card.id}:{card.state.state}:{card.state.step}:{card.state.message}:{length}:{card.active}"


def _new(studio: Any, at: Address, said: str, chosen: dict[str, Any] | None) -> str:
    values = dict(chosen or {})
    if not values and at.origin:
        try:
            card = studio.training.card(at.origin, owner=OWNER)
            values = chosen_of(card.config, str(card.facts.get(DATASET_FACT) or ""))
        except (NotFound, InvalidRequest):
            values = {}
    models = [spec.name for spec in studio.models()]
    if at.set:
        values.setdefault("dataset", at.set)
    if chosen is None and at.set and at.shapes in SHAPES:
        values["shapes"] = at.shapes  # as the set was looked at
    values.setdefault("model", "pocket" if "pocket" in models else next(iter(models), ""))
    return new_html(models, datasets(studio), values, _forecasts(studio, values), said)


def datasets(studio: Any) -> dict[str, str]:
    """Id -> name of the sets to train on: those of this studio, and the embedded model's own world to try it with."""
    own = {each.id: f"{each.name} ({len(each.used)} clips)" for each in studio.datasets.list(owner=OWNER)}
    return own | {POCKET_WORLD: "the pocket's own world, to try it"}


def _forecasts(studio: Any, values: dict[str, Any]) -> dict[str, Forecast | str]:
    found: dict[str, Forecast | str] = {}
    sizes = {"shapes": values["shapes"]} if values.get("shapes") else {}
    for key, (_title, _what, settings) in PRESETS.items():
        try:
            config = from_mapping(settings | sizes | {"model": values["model"], "dataset": "any", "name": "any"})
            found[key] = studio.training.forecast(config)
        except SprocketError as error:
            found[key] = str(error)
    return found


# ---- buttons


def train_start(click: Click) -> Changes:
    """The form was sent: a run begins, or what it would cost is said. What is refused is said above the form, which stays as it was."""
    said = {name: click.text(name).strip() for name in (*FIELDS, "preset", "only")}
    said["dataset"] = click.text("clips").strip()  # a field called `dataset` would hide the form's own
    try:
        config = _config(said)
        if said["only"] == "forecast":
            found = click.studio.training.forecast(config)
            basis = "" if found.measured else ", a guess until this machine has trained this model"
            words = f"{found.choice.bytes / 2**30:.2f} GiB of memory ({found.choice.words}), about {found.seconds / 60:.0f} min{basis}."
            return _form_again(click, words, said)
        card = click.studio.training.start(config, owner=OWNER)
    except SprocketError as error:
        return _form_again(click, str(error), said)
    return _at_run(click, card.id)


def _form_again(click: Click, words: str, said: dict[str, str]) -> Changes:
    """The form where it was, with what was typed. The poll is told that it is drawn already: it knows nothing of what was typed."""
    at = click.at if click.at.run == "new" or click.at.set else Address(view="train", run="new")
    return {click.parts.train: _panel(click.studio, at, words, _kept(said)), click.parts.at: at.href(),
            click.parts.seen: {"train": token(click.studio, at), "train said": words}}


def _config(said: dict[str, str]) -> TrainConfig:
    preset = PRESETS.get(said.get("preset") or "standard", PRESETS["standard"])[2]
    values: dict[str, Any] = {name: value for name, value in said.items() if value and name in FIELDS}
    for name, parts in (("preview_prompts", str.splitlines), ("trackers", lambda text: text.replace(",", ";").split(";"))):
        if name in values:
            values[name] = [part.strip() for part in parts(str(values[name])) if part.strip()]
    return from_mapping(preset | values)


def _kept(said: dict[str, str]) -> dict[str, Any]:
    """What the form shows again. It stays unfolded: something in it was wrong, or is being tried."""
    return {name: value for name, value in said.items() if value} | {"unfolded": True}


def train_save(click: Click) -> Changes:
    return _asked(click, "save")


def train_preview(click: Click) -> Changes:
    return _asked(click, "preview")


def train_pause(click: Click) -> Changes:
    return _asked(click, "pause")


def train_stop(click: Click) -> Changes:
    return _asked(click, "stop")


def train_resume(click: Click) -> Changes:
    return _done(click, lambda trainings, run: trainings.resume(run, owner=OWNER))


def train_delete(click: Click) -> Changes:
    click.studio.training.delete(click.text("run"), owner=OWNER)
    at = Address(view="train", run=RUNS)
    return {click.parts.train: page(click.studio, at), click.parts.at: at.href()}


def _asked(click: Click, wish: str) -> Changes:
    return _done(click, lambda trainings, run: trainings.ask(run, wish, owner=OWNER))


def _done(click: Click, wish: Callable[[Trainings, str], object]) -> Changes:
    said = ""
    try:
        wish(click.studio.training, click.text("run"))
    except SprocketError as error:
        said = str(error)
    at = Address(view="train", run=RUNS if click.at.run == RUNS else click.text("run"))
    drawn = token(click.studio, at)  # before the page: what changes in between is drawn by the next poll
    return {click.parts.train: page(click.studio, at, said), click.parts.at: at.href(), click.parts.timer: gr.Timer(active=True),
            click.parts.seen: {"train": drawn, "train said": said}}


def _at_run(click: Click, run_id: str) -> Changes:
    at = Address(view="train", run=run_id)
    return {click.parts.train: page(click.studio, at), click.parts.at: at.href(), click.parts.timer: gr.Timer(active=True),
            click.parts.notice: notice_html("")}


TRAIN_ACTIONS: tuple[Callable[[Click], Changes], ...] = (train_start, train_save, train_preview, train_pause, train_stop, train_resume,
                                                         train_delete, train_use)


def training_routes(studio: Any) -> APIRouter:
    """GET /media/training/{run}/{step}/{number}.mp4 | .webp: a run's preview clips."""
    router = APIRouter(prefix="/media/training")

    @router.api_route("/{run}/{step}/{number}.{kind}", methods=["GET", "HEAD"])
    def clip(run: str, step: int, number: int, kind: str) -> Response:
        try:
            found = studio.training.preview_path(run, step, number, kind)
        except SprocketError:
            found = None
        return file_response(found, "video/mp4" if kind == "mp4" else "image/webp", FOREVER, None)

    return router
