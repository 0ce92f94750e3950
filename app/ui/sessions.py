"""Gradio's work for each page and event, without what this page has no use for.

- It describes every component of the page anew for each session, and again those that an event has changed, so that "deep links" can
  bring a page back as it was: 10 ms of each opening. Our addresses do what deep links do.
- It copies its lists of all components and events for each session, and keeps ten thousand sessions: 60 KiB for each call of the API.
- It keeps a set for each session that ever waited for an event: 0.3 KiB for each call of the API, for ever.
- It keeps ten thousand events as records, and after each one makes a table of them all with pandas, for a page of statistics that is
  off: 26 ms of processor time for each event, and memory of Arrow's that is never given back.
- It makes each output of an event anew, also those that the event says nothing about: half a millisecond for each of forty.
"""

from __future__ import annotations

import datetime
import math
from collections import ChainMap
from collections.abc import Sequence
from copy import copy
from itertools import islice
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.state_holder import SessionState, StateHolder
from starlette.applications import Starlette
from starlette.routing import Mount

MOST_SESSIONS, MOST_MESSAGES = 2000, 500
"""Pages, and calls of the API, each of which is a session; sessions with messages nobody has fetched. The oldest are forgotten."""
MOST_IDLE, LOOKED_AT = 100, 20
"""From so many sessions on, the oldest are looked at when one comes, and those that hold nothing go."""


class LeanState(SessionState):
    """One page's values, with nothing described."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        # Read through to the page as it was built; what an event has changed lies on top.
        self.blocks_config.blocks = ChainMap({}, blocks.default_config.blocks)
        self.blocks_config.fns = blocks.default_config.fns  # no session has events of its own
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        # Gradio takes a connection that broke off once for a closed page, though the page goes on asking.
        self.STATE_TTL_WHEN_CLOSED = math.inf  # MOST_SESSIONS bounds them

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, gr.State):
            self._state_ttl[key] = (block.time_to_live, datetime.datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    @property
    def idle(self) -> bool:
        """Nothing in it differs from a new one."""
        changed = self.blocks_config.blocks
        return not self.state_data and isinstance(changed, ChainMap) and not changed.maps[0]

    def _update_config(self, key: int) -> None:
        """Nothing is described."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing is described."""


class LeanHolder(StateHolder):
    """The values of all pages."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self._forget_idle()
            self.session_data[session_id] = LeanState(self.blocks)
        return super().__getitem__(session_id)

    def _forget_idle(self) -> None:
        """A call of the API leaves a session behind in which nothing is kept, and an empty set of what it waits for."""
        forget_waits(self.blocks._queue)
        if len(self.session_data) > MOST_IDLE:
            for session_id, session in list(islice(self.session_data.items(), LOOKED_AT)):
                if isinstance(session, LeanState) and session.idle:
                    self.session_data.pop(session_id, None)
                    self.time_last_used.pop(session_id, None)


def forget_waits(queue: Any) -> None:
    """Of the oldest sessions, those that wait for no event and to which no message can come any more: gradio keeps them for ever."""
    waits: dict[str, set[str]] = queue.pending_event_ids_session
    if len(waits) > MOST_MESSAGES:
        for session_id, events in list(islice(waits.items(), LOOKED_AT)):
            if not events and session_id not in queue.pending_messages_per_session:
                waits.pop(session_id, None)


def keep_no_records(queue: Any) -> None:
    """No statistics of past events: `/metrics` has ours. Gradio looks a running event up by name and does without where there is none."""
    queue.ANALYTICS_MAX_EVENTS = 0  # and without records there is no table


class Events(dict[int, Any]):
    """The page's events by number; a number that is none is answered, where gradio breaks off with HTTP 500."""

    def __missing__(self, number: int) -> Any:
        raise HTTPException(404, f"The page has no event {str(number)[:40]}. Reload it.")


class LeanBlocks(gr.Blocks):
    """A page whose events leave alone what they say nothing about."""

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: SessionState | None) -> list[Any]:
        said = spoken(predictions, block_fn.outputs)
        if said is None or len(said) == len(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        done: dict[int, Any] = {}
        if said:
            few = copy(block_fn)
            few.outputs = [block for block in block_fn.outputs if block._id in said]
            values = [said[block._id] for block in few.outputs]
            made = await super().postprocess_data(few, values if len(values) > 1 else values[0], state)
            done = {block._id: value for block, value in zip(few.outputs, made, strict=True)}
        return [done[block._id] if block._id in done else None if block.stateful else dict(gr.skip()) for block in block_fn.outputs]


def spoken(predictions: Any, outputs: Sequence[Any]) -> dict[int, Any] | None:
    """What an event says, by the component's number. None where it does not answer with a mapping of its own outputs."""
    if not isinstance(predictions, dict) or len(outputs) < 2:
        return None
    if predictions == gr.skip():
        return {}
    known = {block._id for block in outputs}
    said: dict[int, Any] = {getattr(block, "_id", -1): value for block, value in predictions.items()}
    return said if said and said.keys() <= known else None


def keep_lean(app: Starlette) -> None:
    """Gradio, mounted in `app`, keeps lean sessions from now on. Call before it has any."""
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(getattr(route.app, "state_holder", None), StateHolder):
            gradio_app: Any = route.app
            blocks = gradio_app.get_blocks()
            blocks.default_config.fns = Events(blocks.default_config.fns)
            holder = LeanHolder()
            holder.set_blocks(blocks)
            holder.capacity = MOST_SESSIONS
            blocks._queue.pending_messages_per_session.max_size = MOST_MESSAGES
            keep_no_records(blocks._queue)
            gradio_app.state_holder = holder
            return
    raise RuntimeError("gradio is not mounted here")
