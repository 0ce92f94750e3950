"""Claiming, fencing, and what becomes of the jobs of dead workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.errors import LeaseLost
from app.history.leases import RESERVED_SECONDS, Claim, Limits, progress_mark
from app.history.records import Job, JobState
from app.queue.heartbeat import Heartbeat
from app.queue.minder import judge
from app.queue.process import ProcessId, from_json, surely_dead, this_process
from app.studio import Studio
from engine.errors import StorageBlocked

LIMITS = Limits(crashes=3, kills=5)
ME = this_process()
DEAD = replace(ME, pid=2**22 + 1, started=1)


def submitted(studio: Studio, **values: object) -> Job:
    return studio.submit({"prompt": "x", **values})


def claimed(studio: Studio, who: ProcessId = ME, now: float | None = None) -> Claim:
    claim = studio.store.leases.claim(who, now=time.time() if now is None else now)
    assert claim is not None
    return claim


def test_eight_threads_claim_each_job_once(studio: Studio) -> None:
    jobs = {submitted(studio).id for _ in range(24)}
    got: list[str] = []

    def take() -> None:
        while (claim := studio.store.leases.claim(ME, now=time.time())) is not None:
            got.append(claim.job.id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(jobs)


def test_a_retried_job_takes_its_owners_turn_and_its_time_anew(studio: Studio) -> None:
    def worked_on(now: float) -> Claim:
        claim = claimed(studio, now=now)
        studio.store.leases.fail(claim, now=now + 1.0, code="test", message="no")
        return claim

    start = time.time()
    first = [studio.submit({"prompt": "x"}, owner="anna") for _ in range(3)]
    for number in range(3):
        worked_on(start + number)
    for job in first:
        studio.retry(job.id, owner="anna")
    for _ in range(2):
        studio.submit({"prompt": "x"}, owner="ben")
    claims = [worked_on(start + 100.0 + number) for number in range(5)]
    assert sorted(claim.job.owner for claim in claims[:2]) == sorted(claim.job.owner for claim in claims[2:4]) == ["anna", "ben"]
    assert [claim.job.started_at for claim in claims] == [start + 100.0 + number for number in range(5)]


def test_eight_threads_submit_one_key_once(studio: Studio) -> None:
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(studio.submit({"prompt": "x"}, idempotency_key="k").id))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len(set(got)) == 1 and len(studio.jobs()) == 1


def test_the_order_of_claims_is_the_order_of_the_queue(studio: Studio) -> None:
    first, second, third = (submitted(studio) for _ in range(3))
    studio.move(third.id, to="top")
    assert [claimed(studio).job.id for _ in range(3)] == [third.id, first.id, second.id]
    assert studio.store.leases.claim(ME, now=time.time()) is None


def test_an_old_token_writes_nothing(studio: Studio) -> None:
    submitted(studio)
    old = claimed(studio, now=1000.0)
    assert studio.store.leases.reap(now=1031.0, limits=LIMITS) == 1
    new = claimed(studio)
    before = studio.job(new.job.id)
    leases, now = studio.store.leases, time.time()
    for write in (lambda: leases.renew(old, now=now, step=9), lambda: leases.finalize(old, now=now),
                  lambda: leases.fail(old, now=now, code="c", message="m"), lambda: leases.release(old, now=now, why="w"),
                  lambda: leases.block(old, now=now, code="c", reason="r"), lambda: leases.look(old),
                  lambda: leases.confirm_cancel(old, now=now), lambda: leases.log(old, now=now, what="w")):
        with pytest.raises(LeaseLost):
            write()
    assert studio.job(new.job.id) == before


def test_a_living_worker_keeps_its_job_and_a_silent_one_loses_it(studio: Studio) -> None:
    submitted(studio)
    claim = claimed(studio, now=1000.0)
    assert studio.store.leases.reap(now=1029.0, limits=LIMITS) == 0
    studio.store.leases.renew(claim, now=1029.0)
    assert studio.store.leases.reap(now=1058.0, limits=LIMITS) == 0
    assert studio.store.leases.reap(now=1060.0, limits=LIMITS) == 1
    assert studio.job(claim.job.id).state is JobState.QUEUED


def test_a_dead_workers_job_is_free_at_once(studio: Studio) -> None:
    submitted(studio)
    claim = claimed(studio, DEAD)
    assert studio.store.leases.reap(now=time.time(), limits=LIMITS) == 1
    assert studio.job(claim.job.id).state is JobState.QUEUED


@pytest.mark.parametrize(("changed", "dead"), [
    ({}, False), ({"pid": DEAD.pid}, True), ({"started": ME.started + 1}, True), ({"boot": "another"}, True),
    ({"host": "another", "boot": "another"}, False), ({"space": "pid:[1]", "pid": DEAD.pid}, False),
])
def test_who_is_surely_dead(changed: dict[str, object], dead: bool) -> None:
    other = replace(ME, **changed)  # type: ignore[arg-type]
    assert surely_dead(other) is dead
    assert from_json(other.to_json()) == other


def test_a_job_that_crashes_its_worker_at_the_same_place_fails_after_three(studio: Studio) -> None:
    job = submitted(studio)
    for attempt in range(1, 4):
        claim = claimed(studio, DEAD)
        studio.store.leases.renew(claim, now=time.time(), stage="sample", step=6, steps=12)
        studio.store.leases.reap(now=time.time(), limits=LIMITS, crashed=DEAD, cause="its process crashed (SIGSEGV)")
        assert studio.job(job.id).state is (JobState.FAILED if attempt == 3 else JobState.QUEUED)
    failed = studio.job(job.id)
    assert failed.error_code == "crash" and "SIGSEGV" in str(failed.error) and "sample 6/12" in str(failed.error)
    assert studio.retry(job.id).error is None
    claimed(studio, DEAD)
    studio.store.leases.reap(now=time.time(), limits=LIMITS, crashed=DEAD)
    assert studio.job(job.id).state is JobState.QUEUED  # counting starts again


def test_progress_between_deaths_keeps_a_job_alive(studio: Studio) -> None:
    job = submitted(studio)
    for step in range(1, 30):
        claim = claimed(studio, DEAD)
        studio.store.leases.renew(claim, now=time.time(), stage="sample", step=step)
        studio.store.leases.reap(now=time.time(), limits=LIMITS, crashed=DEAD if step % 2 else None)
        assert studio.job(job.id).state is JobState.QUEUED
    assert studio.job(job.id).attempt == 29


def test_kills_from_outside_have_their_own_limit(studio: Studio) -> None:
    job = submitted(studio)
    for number in range(1, LIMITS.kills + 1):
        claimed(studio, DEAD)
        studio.store.leases.reap(now=time.time(), limits=LIMITS)
        assert studio.job(job.id).state is (JobState.FAILED if number == LIMITS.kills else JobState.QUEUED)


def test_stages_count_as_progress() -> None:
    marks = [progress_mark(None, 0), progress_mark("load", 0), progress_mark("encode", 0), progress_mark("sample", 0),
             progress_mark("sample", 200), progress_mark("decode", 1), progress_mark("verify", 0)]
    assert marks == sorted(set(marks))


def test_how_deaths_are_judged() -> None:
    assert not judge(-9, None, 4, 4).crashed and not judge(0, None, None, None).crashed
    assert judge(-9, None, 4, 5).cause == "the machine ran out of memory"
    assert judge(-11, None, 4, 4).crashed and judge(1, None, 4, 4).crashed and judge(-9, "it was silent", 4, 4).crashed


def test_a_job_that_was_being_cancelled_ends_with_its_worker(studio: Studio) -> None:
    submitted(studio)
    claim = claimed(studio, DEAD)
    asked = studio.store.jobs.ask_cancel(claim.job.id, owner="local", now=time.time())
    assert asked.state is JobState.CANCELLING
    studio.store.leases.reap(now=time.time(), limits=LIMITS)
    assert studio.job(claim.job.id).state is JobState.CANCELLED


def test_reserved_jobs_wait_for_their_own_process_while_it_lives(studio: Studio) -> None:
    job = studio.submit({"prompt": "x"}, reserve=True)
    assert studio.store.leases.claim(ME, now=time.time()) is None
    studio.store.leases.reap(now=time.time(), limits=LIMITS)
    assert studio.store.leases.claim(ME, now=time.time()) is None
    studio.store.leases.reap(now=time.time(), limits=LIMITS, dead=lambda who: who == ME)
    assert claimed(studio).job.id == job.id


def test_reservations_of_a_place_that_cannot_be_seen_end_when_nothing_stirs(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that was replaced: nobody can see that its processes are dead, and a reservation has no lease."""
    job, leases, begun = studio.submit({"prompt": "x"}, reserve=True), studio.store.leases, time.time()
    batch = studio.submit_batch([{"prompt": "y"}, {"prompt": "z"}], reserve=True)
    there = this_process()
    monkeypatch.setattr("socket.gethostname", lambda: "the-next-container")
    leases.reap(now=begun + RESERVED_SECONDS / 2, limits=LIMITS)
    assert leases.waiting() == ()
    later = begun + RESERVED_SECONDS + 60
    claim = leases.claim(there, now=later, only=batch[0].id)
    assert claim is not None
    leases.reap(now=later + 1, limits=LIMITS)
    assert [each.id for each in leases.waiting()] == [job.id]  # the batch's process is at work on its first clip
    leases.fail(claim, now=later + 20, code="x", message="x")
    leases.reap(now=later + 20 + RESERVED_SECONDS / 2, limits=LIMITS)
    assert [each.id for each in leases.waiting()] == [job.id]  # and about to take the next
    leases.reap(now=later + 21 + RESERVED_SECONDS, limits=LIMITS)
    assert [each.id for each in leases.waiting()] == [job.id, batch[1].id]


def test_the_heartbeat_writes_progress_and_hears_of_cancelling(studio: Studio) -> None:
    submitted(studio)
    claim = claimed(studio)
    with Heartbeat(studio.settings, studio.store.leases, claim, threading.Event()) as beat:
        beat.note(stage="sample", step=1, steps=12)
        beat.note(step=2)
        assert _soon(lambda: studio.job(claim.job.id).step == 2)
        seq = studio.job(claim.job.id).status_seq
        time.sleep(0.1)
        assert studio.job(claim.job.id).status_seq == seq  # nothing new, nothing written
        studio.cancel(claim.job.id)
        assert _soon(beat.cancelled) and beat.cancel_wanted and not beat.lost


def test_the_heartbeat_notices_that_the_job_is_gone(studio: Studio) -> None:
    submitted(studio)
    claim = claimed(studio, now=1000.0)
    with Heartbeat(studio.settings, studio.store.leases, claim, threading.Event()) as beat:
        studio.store.leases.reap(now=time.time() + 100, limits=LIMITS)
        assert _soon(beat.cancelled) and beat.lost


def test_the_heartbeat_survives_a_full_disk(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(studio)
    claim = claimed(studio)
    renew = studio.store.leases.renew

    def full(*args: object, **values: object) -> bool:
        raise StorageBlocked("full")
    with Heartbeat(studio.settings, studio.store.leases, claim, threading.Event()) as beat:
        monkeypatch.setattr(studio.store.leases, "renew", full)
        beat.note(step=3)
        time.sleep(0.1)
        assert not beat.cancelled()
        monkeypatch.setattr(studio.store.leases, "renew", renew)
        assert _soon(lambda: studio.job(claim.job.id).step == 3)


def _soon(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False
