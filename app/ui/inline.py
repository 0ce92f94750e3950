"""Where no worker may run jobs (ZeroGPU), the visitor's own event runs them: as soon as a page sees that one of theirs waits, and
again when somebody comes back to one that was left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.history.records import JobState
from app.ui.parts import OWNER, said
from engine.errors import SprocketError

LOOK_SECONDS = 2.0
AGAIN_SECONDS = 60.0
"""A job whose call was refused (no quota left, no GPU free) is tried again so often while its page is open."""
MOST_TOLD = 20


def waits(studio: Any, now: float) -> str:
    """The visitor's waiting jobs and the minute, '' without any. A change of it is what begins an event that may take long."""
    jobs = studio.jobs(owner=OWNER, active_only=True) if studio.visitor else ()
    queued = [job.id for job in jobs if job.state is JobState.QUEUED]
    return f"{' '.join(queued[:MOST_TOLD])} {now // AGAIN_SECONDS:.0f}" if queued else ""


def wire(studio: Any) -> None:
    """Nothing, unless this studio runs jobs inline. One event at a time: each has the GPU for itself."""
    if getattr(studio, "inline", None) is None:
        return
    waiting = gr.Textbox("", visible="hidden", elem_id="inline-waiting")
    turn = gr.State(0)

    def look() -> str:
        return waits(studio, time.time())

    def drive(wanted: Any) -> Iterator[int]:
        visitor = studio.visitor
        if visitor is None or not wanted:
            return
        try:
            for number, _id in enumerate(studio.inline.drive(visitor.owner)):
                yield number  # between calls gradio notices when the visitor has left, and closes this
        except SprocketError as error:  # `parts.guarded` would hide from gradio that this is a generator
            raise gr.Error(said(error), title="That did not work", print_exception=False) from error

    gr.Timer(LOOK_SECONDS).tick(look, None, [waiting], queue=False, show_progress="hidden", api_visibility="private")
    waiting.change(drive, [waiting], [turn], queue=True, concurrency_limit=1, concurrency_id="gpu", show_progress="hidden",
                   api_visibility="private")
