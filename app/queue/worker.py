"""The worker process: claims one job after the other and does it. It may die at any moment.

    python -m app.queue.worker [--data-dir DIR] [--engine module:callable] [--parent PID] [--device cuda:N]

SIGTERM: claims nothing more, saves the running job's state, hands it back, ends within `Settings.stop_seconds`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import storage
from app.errors import HistoryDamaged, HistoryUnreachable, SchemaTooNew
from app.history.leases import Limits
from app.history.opening import open_store
from app.history.records import Job
from app.history.store import Store
from app.logs import set_up_logs
from app.queue.door import Engine, open_engine
from app.queue.executor import Workplace, perform, planned
from app.queue.process import ProcessId, let_pages_go_first, orphaned, this_process, volunteer_for_oom_killer
from app.queue.reports import REPORT_SECONDS, WORKER, key_of, write_report
from app.settings import Settings
from engine.errors import SprocketError
from engine.lifeline import die_with_parent, set_in_handler

log = logging.getLogger(__name__)
CHORES_SECONDS = 2.0
UNUSABLE_EXIT = 3
"""Exit code when starting again cannot help: the history is damaged, or of a newer version."""
MEMORY_EXIT = 4
"""Exit code when memory ran out: the job was handed back, and goes on in a process that holds nothing yet."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    def body(settings: Settings, store: Store, engine: Engine, stopping: threading.Event, options: argparse.Namespace) -> int:
        full = work(settings, store, engine, stopping, parent=options.parent, only=options.only, device=options.device)
        return MEMORY_EXIT if full else 0

    return run_process(arguments, "python -m app.queue.worker", "Runs the queue of one data directory.", body)


Body = Callable[[Settings, Store, Engine, threading.Event, argparse.Namespace], int]
"""What a process does with settings, the open history, its engine, the event that ends it and its command line; its exit code."""


def run_process(arguments: list[str] | None, name: str, what: str, body: Body) -> int:
    """A process that works on one queue: command line, logs, signals, settings and the history, which is closed at the end. Its exit code,
    also where there is nothing to be done."""
    options = _options(arguments, name, what)
    opened = _set_up(options)
    if isinstance(opened, int):
        return opened
    settings, store, stopping, engine = opened
    try:
        return body(settings, store, engine, stopping, options)
    finally:
        store.close()


def _options(arguments: list[str] | None, name: str, what: str) -> argparse.Namespace:
    """The command line of a process that works on one queue."""
    parser = argparse.ArgumentParser(prog=name, description=what)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.add_argument("--device", default="", help="the one GPU that this process sees, as its report names it")
    parser.add_argument("--only", metavar="JOB", help="run this waiting job and end")
    return parser.parse_args(arguments)


def _set_up(options: argparse.Namespace) -> tuple[Settings, Store, threading.Event, Engine] | int:
    """Logs, signals, settings, the history (close it); or the exit code, where there is nothing to be done."""
    set_up_logs()
    logging.getLogger().handlers[0].setLevel(logging.WARNING)  # a job's own log also takes what is below
    faulthandler.enable()
    if options.parent is not None:
        die_with_parent(options.parent)
    volunteer_for_oom_killer()
    let_pages_go_first()
    given = {"data_dir": options.data_dir, "engine": options.engine}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    stopping = threading.Event()
    stop_on_signals(stopping, settings.stop_seconds)
    try:
        store = _opened(settings, stopping, options.parent)
    except (SchemaTooNew, HistoryDamaged) as error:
        log.error("%s", error)
        return UNUSABLE_EXIT
    return 0 if store is None else (settings, store, stopping, open_engine(settings.engine, settings.data_dir))


def _opened(settings: Settings, stopping: threading.Event, parent: int | None) -> Store | None:
    """The history, once its server answers; None when this process should end before that. Never repairs: the page may have it open."""
    while not stopping.is_set() and not (parent is not None and orphaned(parent)):
        try:
            return open_store(settings, repair=False)
        except HistoryUnreachable as error:
            log.warning("%s", error)
            stopping.wait(CHORES_SECONDS)
    return None


def stop_on_signals(stopping: threading.Event, seconds: float) -> None:
    """SIGTERM sets `stopping`, and ends this process by force so many `seconds` later; SIGINT is nothing to it."""
    def stop(number: int, frame: Any) -> None:
        set_in_handler(stopping)
        if hasattr(signal, "setitimer"):  # the kernel ends a worker that does not come to its end
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the server, which then stops its worker in order


def work(settings: Settings, store: Store, engine: Engine, stopping: threading.Event, *, parent: int | None = None,
         only: str | None = None, device: str = "") -> bool:
    """Runs jobs until `stopping` is set, the parent is gone or memory ran out; True for the latter.

    `only`: this one job, if it waits. `device`: the one GPU this process has, beside workers with the others.
    """
    if only is not None:
        return _work_once(settings, store, engine, stopping, only)
    who = this_process()
    place = Workplace(settings, store, engine, engine.open_models(), stopping, device=device)
    threading.Thread(target=_warm_up, args=(engine,), name="warm-up", daemon=True).start()
    reporter = threading.Thread(target=_report, args=(place, who), name="report", daemon=True)
    reporter.start()
    chores_at = 0.0
    try:
        while not stopping.is_set() and not (parent is not None and orphaned(parent)):
            try:
                if time.monotonic() >= chores_at:
                    chores(place)
                    chores_at = time.monotonic() + CHORES_SECONDS
                claim = store.leases.claim(who, now=time.time())
            except HistoryDamaged:
                raise
            except SprocketError as error:  # a full disk, a history that is held by another process
                log.warning("the queue is not reachable: %s", error)
                stopping.wait(CHORES_SECONDS)
                continue
            if claim is None:
                stopping.wait(settings.tick_seconds)
            else:
                perform(place, claim)
    finally:
        stopping.set()
        reporter.join(timeout=1.0)
        if not place.device_lost.is_set():  # what is on a lost device cannot be let go in order
            place.models.close()
        with contextlib.suppress(SprocketError):
            store.forget(key_of(WORKER, settings, device))
    return place.out_of_memory.is_set()


def _work_once(settings: Settings, store: Store, engine: Engine, stopping: threading.Event, job_id: str) -> bool:
    """For `sprocket generate`, whose own process ran out of memory; a server's worker beside it keeps its report."""
    place = Workplace(settings, store, engine, engine.open_models(), stopping)
    claim = store.leases.claim(this_process(), now=time.time(), only=job_id)
    if claim is not None:
        perform(place, claim)
    place.models.close()
    return place.out_of_memory.is_set()


def chores(place: Workplace) -> None:
    """Takes jobs back from the dead, and lets those blocked jobs go on that there is room for: a large one holds up no small one."""
    settings, leases, now = place.settings, place.store.leases, time.time()
    leases.reap(now=now, limits=Limits(settings.max_crashes, settings.max_kills))
    blocked = leases.blocked()
    if not blocked or storage.problem(settings) is not None:
        return
    room = storage.free_bytes(settings) - settings.min_free_bytes
    fitting = [job.id for job in blocked if _need(place, job) <= room]
    if fitting:
        storage.keep_ballast(settings)
        leases.unblock(fitting, now=now)


def _need(place: Workplace, job: Job) -> int:
    """Bytes the job will write; looked up once, for there may be many, every two seconds."""
    if job.id not in place.needs:
        try:
            place.needs[job.id] = planned(place, job).disk_bytes
        except SprocketError:
            return 0  # it cannot be planned any more, and will say so when it runs
    return place.needs[job.id]


def _warm_up(engine: Engine) -> None:
    try:
        engine.warm_up()
    except Exception:  # the first job meets the same error and says it to its owner
        log.exception("the engine could not be warmed up")


def _report(place: Workplace, who: ProcessId) -> None:
    """Tells the history, every few seconds, that this worker lives and what hardware it has."""
    while True:
        try:
            write_report(place.store, key_of(WORKER, place.settings, place.device), who, place.engine.hardware())
        except SprocketError as error:
            log.warning("the worker's report was not written: %s", error)
        if place.stopping.wait(REPORT_SECONDS):
            return


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)  # everything is stored; taking torch apart in order costs seconds and may itself crash
