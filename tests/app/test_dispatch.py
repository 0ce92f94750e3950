"""Sending jobs to a Ray cluster: what is sent when, without Ray; and with a real local one of two places, where ray is installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from app.history.leases import Limits
from app.history.records import Job, JobState
from app.queue.dispatch import Dispatch, Room, next_to_send, ranks_of
from app.queue.kinds import TRAIN
from app.queue.process import this_process
from app.queue.ray_task import Ended
from app.queue.supervisor import Supervisor
from app.queue.workplace import Workplace
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest
from tests.fakes import FakeEngine
from tests.site import wait_for

HAS_RAY = importlib.util.find_spec("ray") is not None


def job_like(studio: Studio, **values: object) -> Job:
    return studio.submit({"prompt": "x", **values})


def test_a_job_gets_a_gpu_for_each_rank_or_a_core_where_there_are_none(studio: Studio) -> None:
    one = job_like(studio)
    four = replace(one, request={**one.request, "parallel": "cfg=2,ulysses=2"})
    bad = replace(one, request={**one.request, "parallel": "many"})
    training = replace(one, kind=TRAIN, request={"run": "a", "processes": 2})
    assert [ranks_of(job) for job in (one, four, bad, training, replace(training, request={"run": "a"}))] == [1, 4, 1, 2, 1]
    cores, gpus = Room({"CPU": 1.0}, 0), Room({"CPU": 8.0, "GPU": 3.0}, 2)
    assert cores.need(four) == {"num_cpus": 1} and gpus.need(one) == {"num_cpus": 0, "num_gpus": 1}
    assert gpus.need(training) == {"num_cpus": 0, "num_gpus": 2}
    assert gpus.need(replace(four, request={**four.request, "device": "cpu"})) == {"num_cpus": 1}
    assert gpus.need(four) == {"num_cpus": 0, "num_gpus": 2}  # no node has more; the plan says so
    assert cores.holds(cores.need(one)) and not Room({"CPU": 0.5}, 0).holds({"num_cpus": 1})
    assert gpus.holds(gpus.need(four)) and not Room({"CPU": 8.0, "GPU": 1.0}, 2).holds(gpus.need(four))


def test_jobs_are_sent_in_order_and_nobody_overtakes(studio: Studio) -> None:
    first = job_like(studio)
    big = replace(first, id="b" * 32, request={**first.request, "parallel": "cfg=2"})
    small = replace(first, id="c" * 32)
    room = Room({"GPU": 1.0}, 2)
    assert next_to_send((), {}, lambda: pytest.fail("it was asked")) is None
    assert next_to_send((first, big, small), {}, lambda: room) == (first, {"num_cpus": 0, "num_gpus": 1})
    assert next_to_send((first, big, small), {first.id: 0}, lambda: room) is None  # the small one would fit; it waits its turn
    assert next_to_send((first, big), {first.id: 0}, lambda: Room({"GPU": 2.0}, 2)) == (big, {"num_cpus": 0, "num_gpus": 2})
    assert next_to_send((big, small), {big.id: 0}, lambda: pytest.fail("it was asked")) is None  # it may wait for two GPUs of one node
    assert next_to_send((small,), {big.id: 0}, lambda: room) == (small, {"num_cpus": 0, "num_gpus": 1})  # it has begun


def test_the_cluster_is_asked_once_for_each_job_that_is_sent(studio: Studio) -> None:
    asked: list[float] = []
    sent: list[dict[str, object]] = []

    class Ray:
        """Two places for tasks; no more."""

        def nodes(self) -> list[dict[str, object]]:
            asked.append(1)
            return [{"Alive": True, "Resources": {"CPU": 2.0}}]

        def available_resources(self) -> dict[str, float]:
            return {"CPU": 2.0 - len(sent)}

        def remote(self, _work: object) -> Ray:
            return self

        def options(self, **values: object) -> SimpleNamespace:
            sent.append(values)
            return SimpleNamespace(remote=lambda *given: given)

    jobs = [job_like(studio) for _ in range(3)]
    work = Dispatch(Workplace(studio.settings, studio.store, FakeEngine(), None, threading.Event()), Ray())
    work.send()
    assert list(work.tasks) == [job.id for job in jobs[:2]] and [one["num_cpus"] for one in sent] == [1, 1]
    assert len(asked) == 3  # the last time there was no room


@pytest.mark.parametrize("known", [True, False])
def test_a_task_that_ends_takes_no_job_from_another_host(known: bool, studio: Studio) -> None:
    """It waited too long for its place, say, and another host's worker has the job by now."""
    class Lost(Exception):
        """As Ray's."""

    def end(task: Ended) -> Ended:
        if not known:
            raise Lost
        return task

    here = replace(this_process(), host="a node", pid=1)
    ended = Ended(-11, None, None, here)
    ray = SimpleNamespace(wait=lambda tasks, **_: (tasks, []), get=end, exceptions=SimpleNamespace(RayError=Lost))
    work = Dispatch(Workplace(studio.settings, studio.store, FakeEngine(), None, threading.Event()), ray)
    job, leases = job_like(studio), studio.store.leases
    assert leases.claim(other := replace(here, host="another node"), now=time.time()) is not None
    work.tasks[job.id] = ended
    work.settle()
    assert leases.holder(job.id) == other and studio.job(job.id).state is JobState.RUNNING
    studio.cancel(job.id)
    leases.reap(now=time.time() + 1e6, limits=Limits(3, 25))
    job = job_like(studio)
    assert leases.claim(here, now=time.time()) is not None
    work.tasks[job.id] = ended
    work.settle()
    assert (leases.holder(job.id) is None) is known  # a lost one's job waits for the end of its lease


def test_what_may_be_sent_is_what_may_be_claimed(studio: Studio) -> None:
    ids = [job_like(studio).id for _ in range(3)]
    studio.pause(ids[1])
    assert [job.id for job in studio.store.leases.waiting()] == [ids[0], ids[2]]
    assert studio.store.leases.holder(ids[0]) is None


def test_settings_and_a_missing_package_are_refused_in_words(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="must be here or ray"):
        Settings(executor="slurm")
    monkeypatch.setattr("app.queue.supervisor.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match="pip install ray"):
        Supervisor(settings.model_copy(update={"executor": "ray"})).start()


@pytest.fixture
def clustered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Studio, Supervisor]]:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.3")
    there = settings.model_copy(update={"executor": "ray"})
    supervisor = Supervisor(there)
    supervisor.start()
    studio = open_studio(there)
    yield studio, supervisor
    studio.close()
    supervisor.close()


@pytest.mark.timeout(240)
@pytest.mark.skipif(not HAS_RAY, reason="the package ray is not installed: pip install ray")
def test_two_places_of_a_real_ray_progress_cancel_and_a_killed_place(clustered: tuple[Studio, Supervisor]) -> None:
    studio, supervisor = clustered
    jobs = [studio.submit({"prompt": f"clip {number}"}).id for number in range(3)]
    wait_for(lambda: all(studio.job(job).step >= 1 for job in jobs[:2]), "a step of both", 90)  # both at once, told as ever
    assert studio.status().worker_alive and studio.job(jobs[2]).state is JobState.QUEUED
    holders = [studio.store.leases.holder(job) for job in jobs[:2]]
    assert None not in holders and holders[0] != holders[1]
    studio.cancel(jobs[0])
    wait_for(lambda: studio.job(jobs[0]).state is JobState.CANCELLED, "cancelling", 20)
    assert holders[1] is not None
    place = psutil.Process(holders[1].pid).ppid()
    os.kill(place, signal.SIGKILL)  # Ray's own worker; the kernel ends ours with it
    wait_for(lambda: all(studio.job(job).state is JobState.DONE for job in jobs[1:]), "the end of the others", 90)
    again = studio.job(jobs[1])
    assert again.attempt == 2 and (again.resumed_from or 0) >= 1
    assert studio.clip_path(jobs[1]).is_file() and studio.clip_path(jobs[2]).is_file()
    last = studio.submit({"prompt": "one more"}).id
    wait_for(lambda: studio.job(last).step >= 2, "the second step", 90)
    below = psutil.Process(supervisor.worker_pid).children(recursive=True)
    supervisor.close()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below), "the end of all below", 30)
    handed_back = studio.job(last)
    assert handed_back.state is JobState.QUEUED and studio.job_events(last)[-1].detail == "the worker was stopped"
