"""The planner's choices on Create: what the three words and every other way would cost, for what the form says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui import views
from app.ui.form import read_form
from app.ui.html.choices import ChoicesView, choices_html, words_html
from app.ui.length import lengthened
from app.ui.parts import OWNER, Changes
from app.ui.source import settled, waits_for
from engine.errors import SprocketError
from engine.request import PROFILES, GenerationRequest

if TYPE_CHECKING:
    from app.ui.actions import Click


def words_markup(studio: Any, request: GenerationRequest | None) -> str:
    """Under the three words; '' for a request that cannot be planned, which the line under Generate says already."""
    try:
        single = request is not None and not request.hierarchical
        return words_html(studio.in_words(request, owner=OWNER)) if single else ""
    except SprocketError:
        return ""


def request_of(studio: Any, values: Mapping[str, Any], kept: object) -> GenerationRequest | None:
    """The request that the form means, with any words where it has none; None while an image or video is waited for.

    Raises InvalidRequest.
    """
    spec = views.spec_of(studio, values.get("model"))
    said = settled(kept, spec)
    if waits_for(said):
        return None
    wish, beside = lengthened(values, said, spec)
    return read_form({**wish, "prompt": values.get("prompt") or "a video"}, beside)


def choices(click: Click) -> Changes:
    """The fold was opened, or the settings changed while it was."""
    try:
        request = request_of(click.studio, click.values, click.kept)
        if request is None:
            view = ChoicesView(problem="Choose what to start from first.")
        elif request.hierarchical:
            view = ChoicesView(problem="This video is made in several runs, from key frames on; the line under Generate says what they "
                                       "take. The choices are shown for a single run.")
        else:
            view = _view(click.studio, request)
    except SprocketError as error:
        view = ChoicesView(problem=str(error))
    return {click.parts.choices: choices_html(view)}


def profile(click: Click) -> Changes:
    """One of the words was taken by its cost."""
    word = click.text("word")
    return {click.parts.form["profile"]: gr.update(value=word)} if word in PROFILES else {}


def _view(studio: Any, request: GenerationRequest) -> ChoicesView:
    spec, found = views.spec_of(studio, request.model), studio.alternatives(request, owner=OWNER)
    frames, width, height = (getattr(request, name) or getattr(spec, f"native_{name}") for name in ("frames", "width", "height"))
    return ChoicesView(f"{frames} frames of {width} × {height} with {request.model}", found.every)


CHOICE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (choices, profile)
