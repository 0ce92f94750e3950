"""What the buttons of the Models page do. Names come from a browser and are checked where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr

from app.ui import views
from app.ui.form import show_model
from app.ui.html.status import notice_html
from app.ui.parts import Changes

if TYPE_CHECKING:
    from app.ui.actions import Click


def model_download(click: Click) -> Changes:
    """Fetch it, or go on fetching it."""
    click.studio.hub.ask(click.text("name"))
    return _shown(click)


def model_add(click: Click) -> Changes:
    """What was typed: a hub id to fetch, or a folder to list."""
    click.studio.hub.add(click.text("model"))
    return _shown(click)


def model_cancel(click: Click) -> Changes:
    click.studio.hub.cancel(click.text("name"))
    return _shown(click)


def model_discard(click: Click) -> Changes:
    click.studio.hub.discard(click.text("name"))
    return _shown(click)


def model_delete(click: Click) -> Changes:
    click.studio.hub.delete(click.text("name"))
    return _shown(click) | {click.parts.form["model"]: gr.update(choices=views.model_names(click.studio))}


def model_use(click: Click) -> Changes:
    """Create, with this model chosen and its own recommendations. Raises ModelNotFound, ModelInvalid."""
    parts, name = click.parts, click.text("name")
    spec = click.studio.spec(name)
    changes: Changes = {parts.form[field]: update for field, update in show_model(spec).items()}
    return changes | {parts.form["model"]: gr.update(choices=views.model_names(click.studio), value=name),
                      parts.notice: notice_html(f"{name} is chosen, with its own size and steps.", act="unremix", label="Dismiss")}


def _shown(click: Click) -> Changes:
    """The page as it is now, and the poll running."""
    parts = click.parts
    return {parts.models: views.models(click.studio), parts.at: click.at.href(view="models"), parts.timer: gr.Timer(active=True)}


MODEL_ACTIONS: tuple[Callable[[Click], Changes], ...] = (
    model_download,
    model_add,
    model_cancel,
    model_discard,
    model_delete,
    model_use,
)
