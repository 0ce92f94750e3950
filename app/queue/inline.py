"""One job, or several, in this very process, beside a server or without one: what `sprocket generate` does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from app.errors import NotAllowed
from app.history.records import Job
from app.history.recovery import recover
from app.history.store import Store
from app.queue.door import Engine
from app.queue.executor import Workplace, perform
from app.queue.process import this_process
from app.settings import Settings
from engine.errors import StorageBlocked
from engine.events import Event


def run_one(settings: Settings, store: Store, engine: Engine, job_id: str,
            on_event: Callable[[Event], None] | None = None) -> Job:
    """Runs a waiting job (submitted with `reserve=True`, or any other) to its end and returns it as it then stands.

    Recovers what earlier, killed processes left behind first: there may never be a server here that does.
    Raises NotFound, NotAllowed when the job does not wait (a server's worker may have taken it), KeyboardInterrupt after
    having cancelled the job.
    """
    [job] = run_all(settings, store, engine, [job_id], on_event)
    return job


def run_all(settings: Settings, store: Store, engine: Engine, job_ids: Sequence[str],
            on_event: Callable[[Event], None] | None = None) -> tuple[Job, ...]:
    """`run_one` for several jobs with one loaded model. One that fails, or was cancelled meanwhile, does not stop the next.

    KeyboardInterrupt cancels them all.
    """
    with contextlib.suppress(StorageBlocked):  # then the job itself says so
        recover(settings, store)
    models = engine.open_models()
    place = Workplace(settings, store, engine, models, threading.Event())
    try:
        for job_id in job_ids:
            claim = store.leases.claim(this_process(), now=time.time(), only=job_id)
            if claim is not None:
                perform(place, claim, on_event)
            elif len(job_ids) == 1:
                raise NotAllowed(f"This job cannot be run here: it is {store.jobs.get(job_id).state.value}.")
    except KeyboardInterrupt:
        for job_id in job_ids:
            with contextlib.suppress(NotAllowed):
                store.jobs.ask_cancel(job_id, owner=store.jobs.get(job_id).owner, now=time.time())
        raise
    finally:
        models.close()
    return tuple(store.jobs.get(job_id) for job_id in job_ids)
