"""Several jobs in this very process with one loaded model: what `sprocket generate --count 4` does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from app.errors import NotAllowed
from app.history.records import Job, JobState
from app.history.recovery import recover
from app.history.store import Store
from app.queue.door import Engine
from app.queue.executor import Workplace, perform
from app.queue.inline import go_on, run_one, terminable
from app.queue.process import this_process
from app.settings import Settings
from engine.errors import StorageBlocked
from engine.events import Event


def run_all(settings: Settings, store: Store, engine: Engine, job_ids: Sequence[str],
            on_event: Callable[[Event], None] | None = None) -> tuple[Job, ...]:
    """`run_one` for several jobs; returns them as they then stand. One that fails, or is taken elsewhere, does not stop the next.

    A job that was handed back unharmed is run once more, by itself. KeyboardInterrupt (Ctrl-C, SIGTERM) cancels them all.
    """
    with contextlib.suppress(StorageBlocked):  # then the job itself says so
        recover(settings, store)
    models = engine.open_models()
    place = Workplace(settings, store, engine, models, threading.Event())
    try:
        with terminable():
            try:
                for job_id in job_ids:
                    claim = None if _ended(place) else store.leases.claim(this_process(), now=time.time(), only=job_id)
                    if claim is not None:
                        perform(place, claim, on_event)
            finally:
                models.close()
            for job_id in job_ids:
                if store.jobs.get(job_id).state is not JobState.QUEUED:
                    continue
                if place.out_of_memory.is_set() or place.device_lost.is_set():  # what this process has of a GPU cannot be trusted
                    go_on(settings, store, job_id, on_event)
                else:
                    run_one(settings, store, engine, job_id, on_event)
    except KeyboardInterrupt:
        for job_id in job_ids:
            with contextlib.suppress(NotAllowed):  # it has ended
                store.jobs.ask_cancel(job_id, owner=store.jobs.get(job_id).owner, now=time.time())
        raise
    return tuple(store.jobs.get(job_id) for job_id in job_ids)


def _ended(place: Workplace) -> bool:
    return place.stopping.is_set() or place.out_of_memory.is_set()
