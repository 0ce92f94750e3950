"""A Space: jobs cut into calls of a lent GPU, clips that outlive the disk, people known by the platform or by their browser."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import HistoryBusy
from app.history.records import ClipQuery, JobState
from app.queue.process import this_process
from app.settings import Settings
from app.sharing.settings import SharingSettings
from app.sharing.visitor import Role, Visitor
from app.space import bucket, zero
from app.space.access import COOKIE, SpaceAccess, has_oauth
from app.space.segments import Segment, next_segment
from app.studio import Studio, open_studio
from app.ui.inline import waits
from engine.errors import CannotFit


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0")
    made = open_studio(Settings(data_dir=tmp_path / "data", engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0))
    yield made
    made.close()


# ---- cutting

@pytest.mark.parametrize(("stages", "left", "expected"), [
    (None, 1.0, Segment(60, 56.0)),
    ({"load": 5.0, "sample": 10.0, "decode": 5.0}, 1.0, Segment(36, float("inf"))),
    ({"load": 5.0, "sample": 300.0, "decode": 5.0}, 1.0, Segment(60, 56.0)),
    ({"load": 5.0, "sample": 300.0, "decode": 5.0}, 0.0, Segment(23, float("inf"))),
])
def test_no_call_asks_for_more_than_it_may(stages: dict[str, float] | None, left: float, expected: Segment) -> None:
    assert next_segment(stages, left) == expected
    for longest in (30.0, 60.0, 120.0):
        assert next_segment(stages, left, longest).declared <= longest


def test_what_cannot_be_cut_and_does_not_fit_is_refused() -> None:
    with pytest.raises(CannotFit, match="90 s"):
        next_segment({"load": 10.0, "sample": 5.0, "decode": 80.0}, 1.0)


# ---- running

def direct(call: zero.Call) -> zero.Call:
    """As the platform does: in a forked child that may have no children itself."""
    def forked(*values: Any) -> dict[str, Any]:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        child = context.Process(target=lambda: there.send(call(*values)), daemon=True)
        child.start()
        answer = here.recv()
        child.join(10)
        assert not child.is_alive()
        return answer
    return forked


def test_a_long_job_is_several_calls_and_one_clip(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 steps of a quarter second in calls of a second, with the real `spaces` package, which does nothing off its platform."""
    pytest.importorskip("spaces")
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.25")
    run = zero.lent()
    calls: list[dict[str, Any]] = []

    def short(settings: dict[str, str], job: str, declared: int, _working: float) -> dict[str, Any]:
        calls.append(run(settings, job, declared, 1.0))
        return calls[-1]

    job = studio.submit({"prompt": "a ball", "seed": 1})
    assert set(zero.Zero(studio, short).drive("local")) == {job.id}
    done = studio.job(job.id)
    assert (done.state, done.resumed_from is not None) == (JobState.DONE, True)
    assert len(calls) >= 3
    assert [call["state"] for call in calls] == ["queued"] * (len(calls) - 1) + ["done"]
    other = studio.submit({"prompt": "a ball", "seed": 1})
    assert list(zero.Zero(studio, run).drive("local")) == [other.id]  # the same clip in one call has the same frames
    assert studio.clip(other.id).frames == studio.clip(job.id).frames


def test_a_call_in_a_forked_process(studio: Studio) -> None:
    job = studio.submit({"prompt": "a ball"})
    list(zero.Zero(studio, direct(zero.gpu_call)).drive("local"))
    assert studio.job(job.id).state is JobState.DONE


def test_more_frames_for_a_clip_run_as_well(studio: Studio) -> None:
    """Its request is none of a generation, whose forecast says how to cut one."""
    made = studio.submit({"prompt": "a ball"})
    list(zero.Zero(studio, zero.gpu_call).drive("local"))
    job = studio.interpolations.submit(studio.job(made.id).clip_id or "", fps=16)
    list(zero.Zero(studio, zero.gpu_call).drive("local"))
    assert studio.job(job.id).state is JobState.DONE, studio.job(job.id).error


def test_a_visitor_who_leaves_leaves_the_job_waiting(studio: Studio) -> None:
    jobs = [studio.submit({"prompt": "a ball"}) for _ in range(2)]
    driving = zero.Zero(studio, zero.gpu_call).drive("local")
    assert next(driving) == jobs[0].id
    assert next(driving) == jobs[1].id
    driving.close()
    assert [studio.job(job.id).state for job in jobs] == [JobState.DONE, JobState.QUEUED]
    assert list(zero.Zero(studio, zero.gpu_call).drive("somebody else")) == []


def test_a_job_that_gets_nowhere_ends_with_a_reason(studio: Studio) -> None:
    def nothing(settings: dict[str, str], job: str, declared: int, _working: float) -> dict[str, Any]:
        return zero.gpu_call(settings, job, declared, 0.0)

    job = studio.submit({"prompt": "a ball"})
    list(zero.Zero(studio, nothing).drive("local"))
    done = studio.job(job.id)
    assert done.state is JobState.FAILED
    assert "brought this job no further" in (done.error or "")


def test_a_refused_call_is_tried_again_and_a_further_job_is_seen(studio: Studio) -> None:
    someone = SimpleNamespace(status=studio.status, jobs=studio.jobs, visitor=SimpleNamespace(owner="local"))
    assert waits(someone, 0.0) == ""
    jobs = [studio.submit({"prompt": "a ball"})]
    seen = [waits(someone, 0.0), waits(someone, 59.0), waits(someone, 60.0)]
    assert jobs[0].id in seen[0] and seen[0] == seen[1] != seen[2]
    jobs.append(studio.submit({"prompt": "a ring"}))
    assert waits(someone, 60.0) not in seen
    list(zero.Zero(studio, zero.gpu_call).drive("local"))
    assert waits(someone, 61.0) == "" and {studio.job(job.id).state for job in jobs} == {JobState.DONE}


def test_the_page_takes_the_inline_executor_for_a_worker(studio: Studio) -> None:
    running = zero.Zero(studio, zero.gpu_call)
    assert not studio.status().worker_alive
    running.start()
    for _ in range(200):
        if studio.status().worker_alive:
            break
        running._stop.wait(0.05)
    assert studio.status().worker_alive
    running.close()


def test_a_job_whose_call_the_platform_ended_waits_again(studio: Studio) -> None:
    """In the drive itself; where the drive is gone as well, in the chores; where the server is, at its next start."""
    def ended(settings: dict[str, str], job: str, _declared: int, _working: float) -> dict[str, Any]:
        lost(studio, job)
        raise RuntimeError("GPU task aborted")

    job = studio.submit({"prompt": "a ball"})
    running = zero.Zero(studio, ended)
    with pytest.raises(RuntimeError, match="aborted"):
        list(running.drive("local"))
    assert studio.job(job.id).state is JobState.QUEUED
    lost(studio, job.id)
    running.look_after()
    assert studio.job(job.id).state is JobState.QUEUED
    lost(studio, job.id)
    running.start()
    assert studio.job(job.id).state is JobState.QUEUED
    running.close()


def lost(studio: Studio, job: str) -> None:
    """Claimed by a process of this machine that is no more."""
    dead = replace(this_process(), pid=2**22 + 1)
    assert studio.store.leases.claim(dead, now=time.time(), only=job) is not None


def test_a_job_blocked_by_a_full_disk_goes_on_without_a_worker_to_see_that_there_is_room(studio: Studio) -> None:
    job = studio.submit({"prompt": "a ball"})
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=job.id)
    assert claim is not None
    studio.store.leases.block(claim, now=time.time(), code="storage_blocked", reason="full")
    running = zero.Zero(studio, zero.gpu_call)
    running.look_after()
    assert studio.job(job.id).state is JobState.QUEUED


def test_a_history_that_is_busy_does_not_end_the_chores(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job = studio.submit({"prompt": "a ball"})
    lost(studio, job.id)

    def busy(*_: Any, **__: Any) -> None:
        raise HistoryBusy("another process writes")
    running = zero.Zero(studio, zero.gpu_call)
    with monkeypatch.context() as patched:
        patched.setattr(studio.store, "remember", busy)
        running.look_after()  # the report is not written, the job is taken back
    assert studio.job(job.id).state is JobState.QUEUED and not studio.status().worker_alive
    running.look_after()
    assert studio.status().worker_alive


# ---- storage

def test_clips_come_back_from_a_bucket_on_an_empty_disk(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount lies: locks always succeed, links and renames over a file do not work. None of them may be needed."""
    import fcntl

    there = tmp_path / "bucket"
    for owner in ("hf:1", "hf:2"):
        studio.submit({"prompt": f"a ball of {owner}"}, owner=owner)
        list(zero.Zero(studio, zero.gpu_call).drive(owner))

    def touched(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert not any(str(there) in str(arg) for arg in args), f"{name} on the mount"
            return real(*args, **kwargs)
        return call

    for module, name in ((os, "link"), (os, "rename"), (os, "replace")):
        monkeypatch.setattr(module, name, touched(name, getattr(module, name)))
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert bucket.store(studio.settings.media_dir, there) == 2
    assert bucket.store(studio.settings.media_dir, there) == 0
    assert not list(there.rglob("*.db*"))
    clip = studio.clips(ClipQuery(), owner="hf:1").clips[0]
    studio.rename(clip.id, "Mine", owner="hf:1")
    assert bucket.store(studio.settings.media_dir, there) == 0

    fresh = Settings(data_dir=tmp_path / "fresh", engine="tests.fakes:FakeEngine", min_free_bytes=0)
    fresh.make_folders()
    assert bucket.restore(fresh, there) == bucket.Restored(2, 0)
    again = open_studio(fresh)
    assert again.clip(clip.id, owner="hf:1").name == "Mine"
    assert again.clip_path(clip.id, owner="hf:1").read_bytes() == studio.clip_path(clip.id, owner="hf:1").read_bytes()
    assert again.clips(ClipQuery(), owner="hf:2").total == 1
    assert again.clips(ClipQuery()).total == 0
    again.close()


@pytest.mark.parametrize("cut", ["no json", "half json", "half video", "another video", "no video"])
def test_what_was_not_committed_does_not_come_back(studio: Studio, tmp_path: Path, cut: str) -> None:
    there = tmp_path / "bucket"
    studio.submit({"prompt": "a ball"})
    list(zero.Zero(studio, zero.gpu_call).drive("local"))
    bucket.store(studio.settings.media_dir, there)
    video, marker = next(there.rglob("*.mp4")), next(there.rglob("????-??/*.json"))
    if cut == "no json":
        marker.unlink()
    elif cut == "half json":
        marker.write_text(marker.read_text()[:50])
    elif cut == "half video":
        video.write_bytes(video.read_bytes()[:-9])
    elif cut == "another video":
        data = bytearray(video.read_bytes())
        data[-1] ^= 1
        video.write_bytes(data)
    else:
        video.unlink()
    fresh = Settings(data_dir=tmp_path / "fresh", engine="tests.fakes:FakeEngine", min_free_bytes=0)
    fresh.make_folders()
    assert bucket.restore(fresh, there) == bucket.Restored(0, 0 if cut == "no json" else 1)
    assert not list(fresh.media_dir.rglob("*.mp4"))


# ---- people

def scope(*, session: Any = None, cookie: bytes = b"") -> dict[str, Any]:
    return {"headers": [(b"cookie", cookie)] if cookie else [], "session": session or {}, "client": ("1.2.3.4", 1)}


def test_people_of_a_space(tmp_path: Path) -> None:
    access = SpaceAccess(SharingSettings(), tmp_path, admins=frozenset({"boss"}))
    assert access.visitor_of(scope()) is None
    person = {"oauth_info": {"userinfo": {"sub": "42", "preferred_username": "anna"}}}
    assert access.visitor_of(scope(session=person)) == Visitor("hf:42", "anna", Role.MAKER)
    person["oauth_info"]["userinfo"]["preferred_username"] = "boss"
    assert access.visitor_of(scope(session=person)) == Visitor("hf:42", "boss", Role.ADMIN)
    for broken in ({"oauth_info": 1}, {"oauth_info": {"userinfo": {"sub": ""}}}, {"oauth_info": {"userinfo": {"sub": 7}}}):
        assert access.visitor_of(scope(session=broken)) is None
    known = access.welcome()
    assert known is not None
    visitor, cookie = known
    assert all(word in cookie for word in (b"HttpOnly", b"Secure", b"SameSite=None", b"Partitioned"))
    value = cookie.split(b";")[0]
    assert access.visitor_of(scope(cookie=value)) == visitor
    assert access.visitor_of(scope(cookie=value[:-1] + b"!")) is None
    assert access.visitor_of(scope(cookie=f"{COOKIE}={'a' * 32}.".encode())) is None
    assert SpaceAccess(SharingSettings(), tmp_path).visitor_of(scope(cookie=value)) is None  # another key


def test_the_platform_s_sign_in_is_used_only_where_it_is() -> None:
    oauth = {"OAUTH_CLIENT_ID": "a", "OAUTH_CLIENT_SECRET": "b"}
    assert has_oauth({"SPACE_ID": "a/b"} | oauth)
    assert not has_oauth(oauth)
    assert not has_oauth({"SPACE_ID": "a/b"})
