"""The devices picker among the folded settings: which ways over several devices there are here; and below it, folded, each device with
its load and memory, and the switch between one job for all and one job for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from app.links import with_link
from app.parallel_view import devices_words, page_choices
from app.settings import Settings
from app.ui.html.devices import DevicesView, devices_html
from app.ui.parts import Changes
from engine.errors import SprocketError
from engine.hardware import Hardware, detect
from engine.spec import ModelSpec

if TYPE_CHECKING:
    from app.ui.actions import Click

FRESH_SECONDS = 5


def build(spec: ModelSpec | None) -> Component:
    return gr.Dropdown(label="Devices", elem_id="field-parallel", filterable=False, **show(None, spec))


def read(_name: str, value: Any) -> Any:
    return value or None


def show(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    """A way that this machine does not offer is shown all the same: a restored clip says how it was made, and the plan judges."""
    machine = _machine(int(time.monotonic()) // FRESH_SECONDS)
    choices = page_choices(spec, machine)
    if value and value not in {known for _, known in choices}:
        choices.append((str(value), value))
    return {"value": value or "", "choices": choices, "info": devices_words(machine)}


@lru_cache(maxsize=1)
def _machine(_moment: int) -> Hardware:
    """This computer; asked anew every few seconds at most."""
    return with_link(detect(), Settings().data_dir)


def devices(click: Click) -> Changes:
    """The fold was opened, or shall look again."""
    return _drawn(click)


def share_devices(click: Click) -> Changes:
    """One job for all GPUs, or one for each."""
    try:
        click.studio.set_devices(click.text("mode"))
    except SprocketError as error:
        return _drawn(click, str(error))
    return _drawn(click)


def _drawn(click: Click, problem: str = "") -> Changes:
    view = DevicesView(click.studio.hardware(), click.studio.devices(), problem)
    return {click.parts.devices: devices_html(view)}


DEVICE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (devices, share_devices)
