"""The devices picker among the folded settings: which ways over several devices there are here, with load and memory."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import gradio as gr
from gradio.components import Component

from app.parallel_view import devices_words, page_choices
from engine.hardware import Hardware, detect
from engine.spec import ModelSpec

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
    return detect()
