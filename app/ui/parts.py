"""What handlers share: the components of the one page, the errors' way out, and who is asking."""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from app.errors import HistoryDamaged
from engine.errors import SprocketError

OWNER = "local"
"""One owner per installation; ids of anyone else are 'not found'."""

MOST_REMEMBERED = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Every component a handler may change. Handlers return `{component: value}`; what is not named stays as it is."""

    header: Component
    notice: Component
    forecast: Component
    stage: Component
    queue: Component
    gallery: Component
    models: Component
    train: Component
    form: Mapping[str, Component]
    """Request field -> component."""
    many: Mapping[str, Component]
    """'how_many' and 'per_line': how many requests one press of Generate makes (`batch.py`); 'always_refine': `refine.py`."""
    source: Component
    """What the clip starts from."""
    words: Component
    """What Fast, Balanced and Tiny would take."""
    choices: Component
    """Every other way, in a fold."""
    devices: Component
    """Load and memory of each device, in a fold (`devices.py`)."""
    loras: Component
    """The LoRAs, in the folded settings."""
    timeline: Component
    """Images the clip passes through (`length.py`)."""
    refine: Component
    """The prompt refined (`refine.py`)."""
    batch: Component
    """The videos of one press, below the screen."""
    timer: gr.Timer
    job: gr.State
    """Id of the job on the Create page's screen, '' for none."""
    seen: gr.State
    """What the poll has already drawn: {'stage': token, 'queue': token, 'header': token}."""
    at: gr.State
    """Address of this tab."""
    made_from: gr.State
    """Clip that is being remixed, '' for none."""
    kept: gr.State
    """Request fields that have no component (`form.KEPT`) but belong to what the form says, and what is started from (`form.START`)."""
    ticket: gr.State
    """Idempotency key of the next press of Generate."""
    memory: gr.BrowserState
    """{'project': id, 'job': id, 'batch': [job id, ...]}: kept by the browser, untrusted."""

    def said(self) -> dict[str, Component]:
        """All that a person can set, by name, for `inputs_kwargs`."""
        return {**self.form, **self.many}

    def outputs(self) -> list[Component]:
        return [
            self.header,
            self.notice,
            self.forecast,
            self.stage,
            self.queue,
            self.gallery,
            self.models,
            self.train,
            *self.form.values(),
            self.source,
            self.words,
            self.choices,
            self.devices,
            self.loras,
            self.timeline,
            self.many["seconds"],
            self.refine,
            self.batch,
            self.timer,
            self.job,
            self.seen,
            self.at,
            self.made_from,
            self.kept,
            self.ticket,
            self.memory,
        ]


Changes = dict[Component, Any]


def remembered(memory: object, name: str) -> str:
    """One entry of the browser's memory; '' unless it is a plausible id."""
    value = memory.get(name) if isinstance(memory, dict) else None
    return value if isinstance(value, str) and len(value) <= 64 else ""


def remembered_batch(memory: object) -> tuple[str, ...]:
    """The jobs of the last press of Generate, as the browser remembers them: plausible ids only."""
    ids = memory.get("batch") if isinstance(memory, dict) else None
    return tuple(each for each in ids[:MOST_REMEMBERED] if isinstance(each, str) and len(each) <= 64) if isinstance(ids, list) else ()


def said(error: SprocketError) -> str:
    """An error as markup-free text that is safe where gradio renders HTML: between tags, so quotes may stay."""
    text = str(error)
    if isinstance(error, HistoryDamaged):  # only a server that starts may repair it
        text += " Stop Sprocket and start it again: it makes the history again from a copy and the clips' own files."
    return html.escape(text, quote=False)


def tell_end(event: Any, name: str) -> None:
    """Tells `studio.js` when an event has been answered, well or with an error, so that the next one may begin."""
    for ended, well in ((event.success, "true"), (event.failure, "false")):
        ended(None, js=f"() => window.sprocket.answered('{name}', {well})", queue=False, show_progress="hidden", api_visibility="private")


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The page handlers' one broad except: people get the message of our own errors, and never a traceback."""

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except SprocketError as error:
            raise gr.Error(said(error), title="That did not work", duration=8, print_exception=False) from error
        except Exception as error:
            log.exception("handler %s failed", handler.__name__)
            raise gr.Error(
                "Something went wrong inside Sprocket; the log says what. Nothing you made is lost.",
                title="That did not work",
                print_exception=False,
            ) from error

    return call


def telling(handler: Callable[..., Changes], place: Component, *, clears: bool = True) -> Callable[..., Changes]:
    """`guarded`, with the refusal as words at `place`, which a good answer empties where it `clears`. Gradio itself shows errors of queued
    events only, and ours are not: a refused click looked like a lost one."""
    guard, empty = guarded(handler), {place: ""} if clears else {}

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Changes:
        try:
            return {**empty, **guard(*args, **kwargs)}
        except gr.Error as error:
            return {place: f'<p class="banner bad" role="alert">{error.message}</p>'}

    return call
