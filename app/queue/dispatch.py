"""Sends waiting jobs to a Ray cluster, in the place of a worker of this computer (`SPROCKET_EXECUTOR=ray`, docs/cluster.md).

    python -m app.queue.dispatch [--data-dir DIR] [--engine module:callable] [--parent PID]

    queue (rows) --> dispatch --> Ray task with num_gpus --> a worker for this one job on some node --> claims it, works, publishes
         ^---------------------- progress, wishes to cancel, the clip's row -----------------------------------'

A job is sent only when the cluster has room for it now, so the order of those that wait stays ours: moving, pausing and cancelling
them is what it always is. Claiming is done on the node, so a task that Ray starts twice finds nothing to do the second time.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import HistoryDamaged
from app.history.leases import Limits
from app.history.records import Job
from app.history.store import Store
from app.queue.door import Engine
from app.queue.kinds import TRAIN
from app.queue.minder import KILL_AFTER_TERM_SECONDS, Death, judge
from app.queue.process import ProcessId, orphaned, surely_dead, this_process
from app.queue.ray_task import ROOT, Ended, hardware_there, work_on
from app.queue.reports import REPORT_SECONDS, WORKER, key_of, write_report
from app.queue.worker import CHORES_SECONDS, UNUSABLE_EXIT, chores, run_process, stop_on_signals
from app.queue.workplace import Workplace
from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError
from engine.hardware import Hardware
from engine.parallel.degrees import parse_degrees

log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
LOCAL_STORE_BYTES = 100 * 2**20
"""Of a Ray that is started here: jobs pass no objects through it."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a cluster has free now, and what its largest node has in all."""

    free: Mapping[str, float]
    largest_gpus: int

    def need(self, job: Job) -> dict[str, float]:
        """Resources of the task for `job`: a GPU for each rank it asks for, as far as one node has them; a core where there are none or
        none is wanted."""
        if self.largest_gpus == 0 or job.request.get("device") == "cpu":
            return {"num_cpus": 1}
        return {"num_cpus": 0, "num_gpus": min(ranks_of(job), self.largest_gpus)}

    def holds(self, need: Mapping[str, float]) -> bool:
        return all(self.free.get(name.removeprefix("num_").upper()[:3], 0) >= count for name, count in need.items())


def ranks_of(job: Job) -> int:
    """Devices that a job asks for."""
    if job.kind == TRAIN:
        return int(job.request.get("processes", 1))
    try:
        return parse_degrees(str(job.request["parallel"])).ranks if job.request.get("parallel") else 1
    except InvalidRequest:
        return 1  # it will say so itself


def next_to_send(waiting: tuple[Job, ...], sent: Mapping[str, Any], room: Callable[[], Room]) -> tuple[Job, dict[str, float]] | None:
    """The first waiting job that is not on its way, and what its task needs; None where there is none, or no `room` for it: nobody
    overtakes it. While one that wants several GPUs is on its way and not begun, none is sent: what is free may be on several nodes, where
    it would wait, and those sent after it would take what it waits for."""
    if any(job.id in sent and ranks_of(job) > 1 for job in waiting):
        return None
    first = next((job for job in waiting if job.id not in sent), None)
    if first is None:
        return None  # the cluster is not asked
    now = room()
    need = now.need(first)
    return (first, need) if now.holds(need) else None


@dataclass
class Dispatch:
    """Owns the tasks that are under way."""

    place: Workplace
    ray: Any
    tasks: dict[str, Any] = field(default_factory=dict)
    """Job id -> Ray's reference."""

    def send(self) -> None:
        """As many jobs as there is room for."""
        while (found := next_to_send(self.place.store.leases.waiting(), self.tasks, self._room)) is not None:
            job, need = found
            task = self.ray.remote(work_on).options(max_retries=0, name=f"job {job.id[-8:]}", **need)
            settings = self.place.settings
            self.tasks[job.id] = task.remote(job.id, settings.to_env(), settings.stop_seconds)
            log.warning("job %s was sent to the cluster", job.id)
            time.sleep(0.2)  # what it takes is then missing from what is free

    def settle(self) -> None:
        """Takes leave of tasks that have ended; what one held is given back."""
        if not self.tasks:
            return
        done, _ = self.ray.wait(list(self.tasks.values()), num_returns=len(self.tasks), timeout=0)
        for job_id in [job_id for job_id, task in self.tasks.items() if task in done]:
            self._bury(job_id, *self._death_of(self.tasks.pop(job_id)))

    def enforce_cancel(self) -> None:
        """A job that was told to stop and does not: its task is ended by force."""
        for job_id, _holder, asked in self.place.store.leases.cancelling():
            late = time.time() - asked - self.place.settings.cancel_grace_seconds
            if job_id in self.tasks and late > KILL_AFTER_TERM_SECONDS:
                self.ray.cancel(self.tasks[job_id], force=True)

    def close(self) -> None:
        """Every job is saved and handed back."""
        for task in self.tasks.values():
            self.ray.cancel(task, force=False)
        if self.tasks:
            self.ray.wait(list(self.tasks.values()), num_returns=len(self.tasks), timeout=self.place.settings.stop_seconds / 2)
        self.settle()
        self.ray.shutdown()

    def hardware(self) -> Hardware:
        """Of a node, one with a GPU where there is one. Raises Ray's errors."""
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        best = max(nodes, key=lambda node: node["Resources"].get("GPU", 0))
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(best["NodeID"], soft=True)
        asked = self.ray.remote(hardware_there).options(num_cpus=0, scheduling_strategy=strategy).remote()
        return Hardware.from_json(self.ray.get(asked, timeout=60))

    def _room(self) -> Room:
        gpus = [int(node["Resources"].get("GPU", 0)) for node in self.ray.nodes() if node["Alive"]]
        return Room(self.ray.available_resources(), max(gpus, default=0))

    def _death_of(self, task: Any) -> tuple[Death, ProcessId | None]:
        """(how the task's worker ended, which one it was, where that is known)."""
        try:
            ended: Ended = self.ray.get(task)
        except self.ray.exceptions.RayError as error:  # the node is gone, or the task was ended by force
            return Death(False, f"its place in the cluster was lost ({type(error).__name__})"), None
        return judge(ended.returncode, None, ended.oom_before, ended.oom_after), ended.worker

    def _bury(self, job_id: str, death: Death, worker: ProcessId | None) -> None:
        """Takes back what `worker` held. Whoever else has the job now, another host's worker say, lives as far as is known."""
        leases, settings = self.place.store.leases, self.place.settings

        def gone(who: ProcessId | None) -> bool:
            return (who is not None and who == worker) or surely_dead(who)
        if (holder := leases.holder(job_id)) is not None and gone(holder):
            log.warning("job %s lost its worker: %s", job_id, death.cause)
        leases.reap(now=time.time(), limits=Limits(settings.max_crashes, settings.max_kills), dead=gone,
                    crashed=worker if death.crashed else None, cause=death.cause, memory=death.memory)


def connect(settings: Settings) -> Any:
    """The module `ray`, connected. Raises InvalidRequest (executor, ray_address)."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing leaves the machine by itself
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise InvalidRequest("executor", f"is 'ray', and the package ray is not installed ({error}). "
                                         "`pip install ray` brings it.") from error
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    common: dict[str, Any] = {"namespace": "sprocket", "log_to_driver": False, "logging_level": logging.WARNING,
                              "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    try:
        if settings.ray_address:
            ray.init(address=settings.ray_address, **common)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=LOCAL_STORE_BYTES, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidRequest("ray_address", f"is {settings.ray_address!r}, and no Ray answers there ({said}). Start one with `ray start "
                                            "--head`, or leave it empty for one on this computer.") from error
    return ray


def dispatch(settings: Settings, store: Store, engine: Engine, stopping: threading.Event, parent: int | None) -> None:
    """Until `stopping` is set or the parent is gone."""
    place = Workplace(settings, store, engine, None, stopping)
    work = Dispatch(place, connect(settings))
    stop_on_signals(stopping, settings.stop_seconds)  # again: Ray has put its own handlers there
    key, who = key_of(WORKER, settings), this_process()
    hardware, report_at, chores_at = work.hardware(), 0.0, 0.0
    try:
        while not stopping.is_set() and not (parent is not None and orphaned(parent)):
            try:
                if time.monotonic() >= report_at:
                    write_report(store, key, who, hardware)
                    report_at = time.monotonic() + REPORT_SECONDS
                if time.monotonic() >= chores_at:
                    chores(place)
                    work.enforce_cancel()
                    chores_at = time.monotonic() + CHORES_SECONDS
                work.settle()
                work.send()
            except HistoryDamaged:
                raise
            except SprocketError as error:
                log.warning("the queue is not reachable: %s", error)
                stopping.wait(CHORES_SECONDS)
            stopping.wait(TICK_SECONDS)
    finally:
        work.close()
        store.forget(key)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    def body(settings: Settings, store: Store, engine: Engine, stopping: threading.Event, options: argparse.Namespace) -> int:
        try:
            dispatch(settings, store, engine, stopping, options.parent)
        except InvalidRequest as error:
            log.error("%s", error)
            return UNUSABLE_EXIT
        return 0

    return run_process(arguments, "python -m app.queue.dispatch", "Sends the queue of one data directory to a Ray cluster.", body)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)
