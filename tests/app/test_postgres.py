"""Queue and history on a real PostgreSQL server: no doubling, killed workers, a cut cable. Skipped where there is no server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.errors import HistoryUnreachable, LeaseLost
from app.history.opening import rebuild
from app.history.records import ClipQuery, JobState
from app.history.schema import metadata
from app.queue.executor import Workplace, perform
from app.queue.process import from_json, this_process
from app.settings import Settings
from app.studio import Studio, open_studio
from tests import postgres_server
from tests.fakes import FakeEngine, FakeModels
from tests.site import wait_for

pytestmark = pytest.mark.skipif(bool(postgres_server.why_not()), reason=postgres_server.why_not() or "-")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres_server.Server]:
    with postgres_server.server() as made:
        yield made


@pytest.fixture
def settings(settings: Settings, server: postgres_server.Server) -> Settings:
    return Settings(**settings.model_dump() | {"database": server.url()})


def test_two_workers_share_the_queue_and_one_takes_over_what_the_other_was_killed_in(studio: Studio) -> None:
    jobs = [studio.submit({"prompt": f"clip {number}"}, idempotency_key=str(number)) for number in range(4)]
    again = studio.submit({"prompt": "clip 0"}, idempotency_key="0")
    assert again.id == jobs[0].id
    workers = [subprocess.Popen([sys.executable, "-m", "app.queue.worker"], cwd=ROOT, stdin=subprocess.DEVNULL,
                                env=os.environ | studio.settings.to_env() | {"FAKE_STEP_SECONDS": "0.04"}) for _ in range(2)]
    try:
        wait_for(lambda: len({from_json(row) for row in holders(studio)}) == 2, "a job in each worker", 60)  # each has one of its own
        killed = workers[0]
        assert any(each.pid == killed.pid for row in holders(studio) if (each := from_json(row)))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_for(lambda: studio.store.jobs.counts()[JobState.DONE] == len(jobs), "the end of all jobs", 60)
    finally:
        for worker in workers:
            worker.terminate()
        assert workers[1].wait(30) == 0
    attempts = sorted(studio.job(job.id).attempt for job in jobs)
    assert attempts == [1, 1, 1, 2]
    claims = [event for job in jobs for event in studio.job_events(job.id) if event.what == "running"]
    assert len(claims) == 5 and len(studio.clips(ClipQuery()).clips) == len(jobs)


def holders(studio: Studio) -> list[str]:
    return studio.store.database.read(
        lambda c: list(c.exec_driver_sql("SELECT holder FROM jobs WHERE state IN ('running', 'finalizing')").scalars()))


def test_a_job_survives_a_cut_cable(server: postgres_server.Server, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    cable = postgres_server.Cable(server.port)
    url = studio.settings.database.get_secret_value().replace(f":{server.port}/", f":{cable.port}/")
    far = open_studio(Settings(**studio.settings.model_dump() | {"database": url}))
    job = studio.submit({"prompt": "x"})
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.05")
    place = Workplace(far.settings, far.store, FakeEngine(), FakeModels(), threading.Event())

    def work() -> None:
        while not studio.job(job.id).state.ended:
            claim = far.store.leases.claim(this_process(), now=time.time())
            if claim is not None:
                perform(place, claim)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: studio.job(job.id).step >= 2, "the second step", 60)
    cable.cut()
    with pytest.raises(HistoryUnreachable, match="what waits goes on by itself") as unreachable:
        far.job(job.id)
    assert far.store.database.name in str(unreachable.value)
    cut_at = studio.job(job.id).step
    time.sleep(0.3)
    assert studio.job(job.id).step == cut_at  # nothing comes through
    cable.mend()
    thread.join(60)
    done = studio.job(job.id)
    assert done.state is JobState.DONE and studio.clip_path(job.id).is_file()
    far.close()
    cable.close()


def test_eight_threads_claim_and_submit_without_doubling(studio: Studio) -> None:
    asked = [studio.submit({"prompt": "x"}).id for _ in range(12)]
    got, keyed = [], []

    def take() -> None:
        keyed.append(studio.submit({"prompt": "one"}, idempotency_key="k").id)
        while (claim := studio.store.leases.claim(this_process(), now=time.time())) is not None:
            got.append(claim.job.id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keyed)) == 1 and sorted(got) == sorted({*asked, keyed[0]})


def test_a_lease_that_was_taken_is_lost_and_a_wish_to_cancel_is_seen(studio: Studio) -> None:
    job = studio.submit({"prompt": "100% 'ä_b'", "seed": 2**63 - 1})
    first = studio.store.leases.claim(this_process(), now=time.time() - 100)
    assert first is not None and first.job.id == job.id
    assert studio._reap() == 1
    second = studio.store.leases.claim(this_process(), now=time.time())
    assert second is not None
    with pytest.raises(LeaseLost):
        studio.store.leases.renew(first, now=time.time())
    assert studio.store.leases.renew(second, now=time.time(), step=3) is False
    studio.cancel(job.id)
    assert studio.store.leases.look(second) is True
    studio.store.leases.fail(second, now=time.time(), code="x", message="a\0b")
    assert studio.job(job.id).state is JobState.CANCELLED
    assert studio.clips(ClipQuery(words="100% ä_")).total == 0


def test_a_studio_moves_to_the_server_with_its_clips_and_its_waiting_jobs(settings: Settings) -> None:
    before = open_studio(settings.model_copy(update={"database": SecretStr("")}))
    made, waiting = before.submit({"prompt": "one", "seed": 2**62}), before.submit({"prompt": "two"})
    claim = before.store.leases.claim(this_process(), now=time.time(), only=made.id)
    assert claim is not None
    perform(Workplace(before.settings, before.store, FakeEngine(), FakeModels(), threading.Event()), claim)
    before.create_project("Ärger")
    before.close()
    assert rebuild(settings) == 1 and rebuild(settings) == 0
    after = open_studio(settings)
    assert after.clip(made.id).seed == 2**62 and after.job(made.id).state is JobState.DONE
    assert after.job(waiting.id).state is JobState.QUEUED and after.job(waiting.id).request["prompt"] == "two"
    assert {project.name for project in after.projects()} >= {"Ärger"}
    after.store.published.publish(made.id, owner="local", now=5.0)
    assert after.published.page(ClipQuery(words="ONE")).total == 1 and after.published.page(ClipQuery(words="o%e")).total == 0
    assert after.store.published.unpublish(made.id).published_at is None and after.published.page().total == 0
    assert after.clips(ClipQuery(words="ON")).total == 1
    after.close()


def test_migrations_end_at_the_schema_of_the_code_there_too(studio: Studio) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    assert studio.store.database.read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []
