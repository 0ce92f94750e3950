"""One job in this very process, beside a server or without one: what `sprocket generate` does.

Should memory run out here, the job goes on in a fresh worker process, one rung lower, while this one tells how it gets on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from app.errors import NotAllowed
from app.history.leases import Limits
from app.history.records import Job, JobState
from app.history.recovery import recover
from app.history.store import Store
from app.queue.door import Engine
from app.queue.executor import Workplace, perform
from app.queue.minder import ROOT
from app.queue.process import this_process
from app.settings import Settings
from engine.errors import StorageBlocked
from engine.events import Event, Stage, StageStarted, StepDone
from engine.ladder import MOST_LAPSES

LOOK_SECONDS = 0.2
WAITS = (JobState.BLOCKED, JobState.PAUSED)


def run_one(settings: Settings, store: Store, engine: Engine, job_id: str,
            on_event: Callable[[Event], None] | None = None) -> Job:
    """Runs a waiting job (submitted with `reserve=True`, or any other) to its end and returns it as it then stands.

    Recovers what earlier, killed processes left behind first: there may never be a server here that does.
    Raises NotFound, NotAllowed when the job does not wait (a server's worker may have taken it), KeyboardInterrupt after
    having cancelled the job (or handed back, if its clip was being saved), for SIGTERM as for Ctrl-C.
    """
    with contextlib.suppress(StorageBlocked):  # then the job itself says so
        recover(settings, store)
    claim = store.leases.claim(this_process(), now=time.time(), only=job_id)
    if claim is None:
        job = store.jobs.get(job_id)
        raise NotAllowed(f"This job cannot be run here: it is {job.state.value}.")
    models = engine.open_models()
    try:
        place = Workplace(settings, store, engine, models, threading.Event())
        with terminable():
            perform(place, claim, on_event)
            if place.out_of_memory.is_set():
                models.close()
                go_on(settings, store, job_id, on_event)
    finally:
        models.close()
    return store.jobs.get(job_id)


def go_on(settings: Settings, store: Store, job_id: str, on_event: Callable[[Event], None] | None) -> None:
    """Worker processes for this job, one after the other, until it has ended or waits for something else than them."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "app.queue.worker", "--only", job_id, "--parent", str(os.getpid())]
    children = 0
    try:
        while (state := store.jobs.get(job_id).state) not in WAITS and not state.ended and children <= MOST_LAPSES:
            if state is not JobState.QUEUED:  # a server's worker was quicker
                time.sleep(LOOK_SECONDS)
                continue
            children += 1
            child = subprocess.Popen(command, env=os.environ | settings.to_env() | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL)
            try:
                _watch(store, job_id, child, on_event)
            finally:
                _end(settings, store, job_id, child)
    except KeyboardInterrupt:
        _cancel(store, job_id)
        raise


def _cancel(store: Store, job_id: str) -> None:
    with contextlib.suppress(NotAllowed):  # it has just ended
        store.jobs.ask_cancel(job_id, owner=store.jobs.get(job_id).owner, now=time.time())


def _end(settings: Settings, store: Store, job_id: str, child: subprocess.Popen[bytes]) -> None:
    """The job given back by whatever happened to the child; one that still runs is told to stop, for this process must."""
    if child.poll() is None:
        _cancel(store, job_id)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(settings.cancel_grace_seconds)
        child.kill()
        child.wait()
    store.leases.reap(now=time.time(), limits=Limits(settings.max_crashes, settings.max_kills))


def _watch(store: Store, job_id: str, child: subprocess.Popen[bytes], on_event: Callable[[Event], None] | None) -> None:
    """Until `child` ends: what the job's row says, as events."""
    seen: tuple[str | None, int] = (None, 0)
    while child.poll() is None:
        job = store.jobs.get(job_id)
        if on_event is not None and job.stage is not None and (job.stage, job.step) != seen:
            stage = Stage(job.stage)
            if job.stage != seen[0]:
                on_event(StageStarted(stage))
            if job.step and job.steps:
                on_event(StepDone(stage, job.step, job.steps, job.eta_seconds))
            seen = (job.stage, job.step)
        time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt: the job is then cancelled, not left `running` until somebody looks."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers, and gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
