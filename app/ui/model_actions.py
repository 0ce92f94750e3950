"""What the buttons of the Models page do. Names come from a browser and are checked where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui import views
from app.ui.form import show_model
from app.ui.html.status import notice_html
from app.ui.loras import lora_panel
from app.ui.parts import Changes
from app.ui.source import panel
from engine.errors import SprocketError

if TYPE_CHECKING:
    from app.ui.actions import Click


def model_download(click: Click) -> Changes:
    """Fetch it, or go on fetching it."""
    return _done(click, lambda hub: hub.ask(click.text("name"), again=True))


def model_add(click: Click) -> Changes:
    """What was typed: a hub id to fetch, or a folder to list."""
    return _done(click, lambda hub: hub.add(click.text("model")))


def model_cancel(click: Click) -> Changes:
    return _done(click, lambda hub: hub.cancel(click.text("name")))


def model_discard(click: Click) -> Changes:
    return _done(click, lambda hub: hub.discard(click.text("name")))


def model_delete(click: Click) -> Changes:
    changes = _done(click, lambda hub: hub.delete(click.text("name")))
    return changes | {click.parts.form["model"]: gr.update(choices=views.model_names(click.studio))}


def model_use(click: Click) -> Changes:
    """Create, with this model chosen and its own recommendations."""
    parts, name = click.parts, click.text("name")
    try:
        spec = click.studio.spec(name)
    except SprocketError as error:
        return {parts.notice: notice_html(str(error), act="hush", label="Dismiss")}
    changes: Changes = {parts.form[field]: update for field, update in show_model(spec).items()}
    changes[parts.source] = panel(click.studio, {"model": name, "fit": click.values.get("fit")}, click.kept)
    changes[parts.loras] = lora_panel(click.studio, name, click.kept)
    return changes | {parts.form["model"]: gr.update(choices=views.model_names(click.studio), value=name),
                      parts.notice: notice_html(f"{name} is chosen, with its own size and steps.", act="hush", label="Dismiss")}


def _done(click: Click, wish: Callable[[Any], object]) -> Changes:
    """Does it, and shows the page as it is then, with the poll running. What is refused is said on the page, and stays there
    until something else is clicked: a model's message is long, and a toast is gone before it is read."""
    parts, said = click.parts, ""
    try:
        wish(click.studio.hub)
    except SprocketError as error:
        said = str(error)
    token = click.studio.hub.token()  # before the page is drawn: what changes in between is drawn by the next poll
    return {parts.models: views.models(click.studio, said), parts.at: click.at.href(view="models"), parts.timer: gr.Timer(active=True),
            parts.seen: {"said": said, "models": token}}


MODEL_ACTIONS: tuple[Callable[[Click], Changes], ...] = (
    model_download,
    model_add,
    model_cancel,
    model_discard,
    model_delete,
    model_use,
)
