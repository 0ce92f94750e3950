"""One job in this very process, beside a server or without one: what `sprocket generate` does."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

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
    having cancelled the job, for SIGTERM as for Ctrl-C.
    """
    with contextlib.suppress(StorageBlocked):  # then the job itself says so
        recover(settings, store)
    claim = store.leases.claim(this_process(), now=time.time(), only=job_id)
    if claim is None:
        job = store.jobs.get(job_id)
        raise NotAllowed(f"This job cannot be run here: it is {job.state.value}.")
    models = engine.open_models()
    try:
        with _terminable():
            perform(Workplace(settings, store, engine, models, threading.Event()), claim, on_event)
    finally:
        models.close()
    return store.jobs.get(job_id)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt: the job is then cancelled, not left `running` until somebody looks."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers, and gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
