"""The inline executor: jobs of the same queue, run inside the visitor's own event, on a GPU that is lent by the call.

`spaces.GPU` runs `gpu_call` in a forked process and lets it have a GPU for the seconds asked for; the quota is that of the visitor
whose event it is, so no worker of ours could ask. A long job is several calls: each stops in time, its sampling saved as a
checkpoint, and hands the job back; the next goes on from there (`app/space/segments.py`). Elsewhere than on ZeroGPU the decorator
does nothing, and the same code runs right here.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from app.history.leases import Limits
from app.history.opening import open_store
from app.history.records import Job, JobState
from app.history.recovery import recover_at_start
from app.queue.door import Engine, open_engine
from app.queue.executor import perform
from app.queue.kinds import GENERATE
from app.queue.process import this_process
from app.queue.reports import REPORT_SECONDS, WORKER, key_of, write_report
from app.queue.worker import chores
from app.queue.workplace import Workplace
from app.settings import Settings
from app.space.segments import LONGEST_SECONDS, next_segment
from app.studio import Studio
from engine.errors import CannotFit, SprocketError
from engine.events import Stage

log = logging.getLogger(__name__)
MOST_STALLED = 3
"""Calls that may bring a job no further, one after the other."""
Call = Callable[[dict[str, str], str, int, float], dict[str, Any]]
MODELS: dict[str, Any] = {}
"""Weights that were loaded before the first call; every fork has them (`load_ahead`)."""


def declared(_settings: dict[str, str], _job_id: str, declared_seconds: int, _working: float) -> int:
    """What `spaces.GPU` asks the platform for."""
    return declared_seconds


def gpu_call(settings_said: dict[str, str], job_id: str, declared_seconds: int, working: float) -> dict[str, Any]:
    """One call: claims the job, runs it until it ends or `working` seconds are over, and says how it stands. JSON types only: no
    tensor leaves the process that had the GPU. Opens the history itself, for a connection does not survive a fork."""
    settings = Settings(**{name.removeprefix("SPROCKET_").lower(): value for name, value in settings_said.items()})
    engine = open_engine(settings.engine, settings.data_dir)
    store = open_store(settings, repair=False)
    models = MODELS.get("models") or engine.open_models()
    stopping = threading.Event()
    timer = threading.Timer(working, stopping.set) if math.isfinite(working) else None
    try:
        claim = store.leases.claim(this_process(), now=time.time(), only=job_id)
        if claim is None:
            return {"ran": False}
        if timer is not None:
            timer.daemon = True
            timer.start()
        perform(Workplace(settings, store, engine, models, stopping), claim)
        job = store.jobs.get(job_id)
        return {"ran": True, "state": job.state.value, "step": job.step}
    finally:
        if timer is not None:
            timer.cancel()
        if models is not MODELS.get("models"):
            models.close()
        store.close()


def lent(longest: float = LONGEST_SECONDS) -> Call:
    """`gpu_call` as the platform wants it; call once, when the app starts. `longest` is not more than the platform's own limit."""
    import spaces

    return spaces.GPU(duration=declared)(gpu_call)


def load_ahead(settings: Settings, engine: Engine | None = None) -> None:
    """Opens the models of this process, so that forks have them."""
    MODELS["models"] = (engine or open_engine(settings.engine, settings.data_dir)).open_models()


class Zero:
    """Runs the jobs of one owner after the other. Owns the thread that says the studio can run jobs and does what else a worker does
    between jobs; `close()` it."""

    def __init__(self, studio: Studio, call: Call, longest: float = LONGEST_SECONDS) -> None:
        self._studio, self._call, self._longest = studio, call, longest
        self._stop = threading.Event()
        engine = open_engine(studio.settings.engine, studio.settings.data_dir)
        self._place = Workplace(studio.settings, studio.store, engine, None, self._stop)
        self._reporter = threading.Thread(target=self._report, name="inline-executor", daemon=True)

    def start(self) -> None:
        """Recovers what an earlier end left behind, as a server with a worker does."""
        recover_at_start(self._studio.settings, self._studio.store)
        self._reporter.start()

    def close(self) -> None:
        self._stop.set()
        self._reporter.join(5)

    def drive(self, owner: str) -> Iterator[str]:
        """Runs what waits for `owner`, oldest first; yields the id of the job before each call. Closing the iterator (the visitor has
        left) leaves the job waiting, as far as it got."""
        while True:
            waiting = [job for job in self._studio.jobs(owner=owner, active_only=True) if job.state is JobState.QUEUED]
            if not waiting:
                return
            yield from self._run(waiting[0])

    def _run(self, job: Job) -> Iterator[str]:
        stalled, settings = 0, self._studio.settings
        while job.state is JobState.QUEUED:
            try:
                segment = next_segment(self._stages(job), self._left(job), self._longest)
            except SprocketError as error:
                self._fail(job, error)
                return
            yield job.id
            before = sampled(job)
            try:
                self._call(settings.to_env(), job.id, segment.declared, segment.working)
            finally:  # the platform may have ended the process that had the job
                self._studio.store.leases.reap(now=time.time(), limits=Limits(settings.max_crashes, settings.max_kills))
            job = self._studio.store.jobs.get(job.id)
            stalled = stalled + 1 if job.state is JobState.QUEUED and sampled(job) <= before else 0
            if stalled >= MOST_STALLED:
                self._fail(job, CannotFit(f"{stalled} calls of the GPU, {self._longest:.0f} s each, brought this job no further. Make "
                                          "fewer or smaller frames."))
                return

    def _stages(self, job: Job) -> dict[str, float] | None:
        """None: not known yet, or of a kind whose work is not cut by its forecast, such as smoothing: as long a call as may be."""
        return (self._studio.forecast(job.request, owner=job.owner).stages or None) if job.kind == GENERATE else None

    def _left(self, job: Job) -> float:
        return 1.0 - sampled(job) / job.steps if job.steps else 1.0

    def _fail(self, job: Job, error: SprocketError) -> None:
        leases = self._studio.store.leases
        claim = leases.claim(this_process(), now=time.time(), only=job.id)
        if claim is not None:
            leases.fail(claim, now=time.time(), code=error.code, message=str(error))

    def _report(self) -> None:
        while True:
            self.look_after()
            if self._stop.wait(REPORT_SECONDS):
                return

    def look_after(self) -> None:
        """Writes what `Studio.status` takes for a living worker (here it is the web process, with whatever GPU a call will have), and
        does a worker's chores. Whatever cannot be done now is done the next time."""
        place, store = self._place, self._studio.store
        for act in (lambda: write_report(store, key_of(WORKER, place.settings), this_process(), place.engine.hardware()),
                    lambda: chores(place)):
            try:
                act()
            except (SprocketError, OSError) as error:
                log.warning("the queue was not looked after: %s", error)


def sampled(job: Job) -> int:
    """Steps of its sampling that a job which was handed back has behind it."""
    if job.stage == Stage.SAMPLE.value:
        return max(job.step, job.resumed_from or 0)  # the row may be a tick behind the checkpoint
    return job.steps if job.stage in (Stage.DECODE.value, Stage.VERIFY.value) else 0
