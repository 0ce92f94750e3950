"""One job to its end: resumed, cancelled, failed, blocked, and cut off at every point of publishing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import storage
from app.errors import NotAllowed
from app.history.leases import Limits
from app.history.records import Job, JobState
from app.history.sidecar import clip_file, read_sidecar
from app.queue import inline_batch
from app.queue.executor import Workplace, _tell, perform, planned
from app.queue.process import this_process
from app.queue.worker import chores, work
from app.queue.workplace import Attempt
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.events import RanksRestarted, Resumed
from tests.fakes import FakeEngine, FakeModels

Work = Callable[[], Job | None]
LIMITS = Limits(3, 25)


def place_of(studio: Studio, settings: Settings | None = None) -> Workplace:
    return Workplace(settings or studio.settings, studio.store, FakeEngine(), FakeModels(), threading.Event())


def no_leftovers(settings: Settings) -> bool:
    return not list(settings.data_dir.rglob("*.part"))


def run_and_die(settings: Settings) -> None:
    """What a worker process does with its first job."""
    studio = open_studio(settings)
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    perform(place_of(studio), claim)


def in_a_process(settings: Settings) -> int:
    """The exit code of a process that runs one job."""
    process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(settings,))
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


POINTS = ("before_finalizing", "finalizing", "poster", "sidecar", "published", "committed")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_of_publishing(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch,
                                            point: str) -> None:
    job = studio.submit({"prompt": "x"})
    final = studio.settings.media_dir / clip_file(job)
    monkeypatch.setenv("CRASH_AT", point)
    assert in_a_process(studio.settings) == -signal.SIGKILL
    monkeypatch.delenv("CRASH_AT")
    assert final.exists() is (point in ("published", "committed"))
    assert studio.clips().total == (1 if point == "committed" else 0)

    studio.store.leases.reap(now=time.time(), limits=LIMITS)
    bytes_before = final.read_bytes() if final.exists() else None
    after = work_once()
    assert (after is None) is (point == "committed")
    done = studio.job(job.id)
    assert done.state is JobState.DONE
    clip, = studio.clips().clips
    assert list(studio.settings.media_dir.glob("*/*.mp4")) == [studio.clip_path(clip.id)]
    assert read_sidecar(studio.settings.media_dir, final.with_suffix(".json")) == clip
    if bytes_before is not None:
        assert final.read_bytes() == bytes_before  # adopted, not made again
    else:
        assert done.resumed_from == 12 and "Resumed from step 12 of 12." in done.notes


def test_killed_while_sampling_it_goes_on_from_its_checkpoint(studio: Studio, work_once: Work,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    job = studio.submit({"prompt": "x"})
    monkeypatch.setenv("FAKE_DIE", str(int(signal.SIGKILL)))
    assert in_a_process(studio.settings) == -signal.SIGKILL
    monkeypatch.delenv("FAKE_DIE")
    studio.store.leases.reap(now=time.time(), limits=LIMITS)
    done = work_once()
    assert done is not None and (done.state, done.resumed_from, done.attempt) == (JobState.DONE, 5, 2)
    assert job.id == done.id and studio.clips().total == 1


def test_a_worker_that_was_thought_dead_publishes_nothing_twice(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job = studio.submit({"prompt": "x"})
    slow = studio.store.leases.claim(this_process(), now=1000.0)
    assert slow is not None
    other: list[Job | None] = []

    class Overtaken(FakeEngine):
        def reached(self, point: str) -> None:
            if point == "sidecar":  # it stops for longer than its lease, just before it would publish
                studio.store.leases.reap(now=time.time() + 100, limits=LIMITS)
                claim = studio.store.leases.claim(this_process(), now=time.time())
                assert claim is not None
                perform(place_of(studio), claim)
                other.append(studio.job(job.id))

    perform(Workplace(studio.settings, studio.store, Overtaken(), FakeModels(), threading.Event()), slow)
    assert other[0] is not None and other[0].state is JobState.DONE
    clip, = studio.clips().clips
    assert list(studio.settings.media_dir.glob("*/*.mp4")) == [studio.clip_path(clip.id)]
    assert read_sidecar(studio.settings.media_dir, studio.clip_path(clip.id).with_suffix(".json")) == clip
    assert no_leftovers(studio.settings)


def test_cancelling_stops_within_a_step(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.1")
    job = studio.submit({"prompt": "x"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    worker = threading.Thread(target=perform, args=(place_of(studio), claim))
    worker.start()
    while studio.job(job.id).step < 2:
        time.sleep(0.01)
    asked = studio.cancel(job.id)
    assert asked.state is JobState.CANCELLING
    worker.join()
    assert studio.job(job.id).step <= asked.step + 6  # of 12; counted in steps, for a busy machine makes them slower too
    assert studio.job(job.id).state is JobState.CANCELLED
    assert no_leftovers(studio.settings) and studio.clips().total == 0
    assert not (studio.settings.job_dir(job.id) / "work").exists()


def test_cancelling_as_the_last_frame_is_written(studio: Studio) -> None:
    job = studio.submit({"prompt": "x"})

    class Late(FakeEngine):
        def reached(self, point: str) -> None:
            if point == "before_finalizing":
                studio.cancel(job.id)

    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    perform(Workplace(studio.settings, studio.store, Late(), FakeModels(), threading.Event()), claim)
    assert studio.job(job.id).state is JobState.CANCELLED
    assert studio.clips().total == 0 and not list(studio.settings.media_dir.glob("*/*.mp4"))


def test_generating_in_this_process_beside_a_queue(studio: Studio, work_once: Work) -> None:
    waiting = studio.submit({"prompt": "first"})
    own = studio.submit({"prompt": "mine"}, reserve=True)
    (studio.settings.parts_dir / f"{'0' * 32}-dead.part").write_bytes(b"of a process that was killed")
    events: list[object] = []
    done = studio.run_here(own.id, events.append)
    assert (done.id, done.state) == (own.id, JobState.DONE)
    assert type(events[-1]).__name__ == "ClipWritten" and no_leftovers(studio.settings)
    assert studio.job(waiting.id).state is JobState.QUEUED
    with pytest.raises(NotAllowed, match="it is done"):
        studio.run_here(own.id)


def test_ctrl_c_cancels(studio: Studio) -> None:
    own = studio.submit({"prompt": "mine"}, reserve=True)

    def press(event: object) -> None:
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        studio.run_here(own.id, press)
    assert studio.job(own.id).state is JobState.CANCELLED and no_leftovers(studio.settings)


@pytest.mark.parametrize(("point", "after"), [("sidecar", JobState.QUEUED), ("committed", JobState.DONE)])
def test_ctrl_c_while_the_clip_is_saved_hands_the_job_back(studio: Studio, work_once: Work, point: str, after: JobState) -> None:
    class Pressed(FakeEngine):
        def reached(self, at: str) -> None:
            if at == point:
                raise KeyboardInterrupt

    job = studio.submit({"prompt": "x"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    with pytest.raises(KeyboardInterrupt):
        perform(Workplace(studio.settings, studio.store, Pressed(), FakeModels(), threading.Event()), claim)
    assert studio.job(job.id).state is after
    assert after is JobState.DONE or work_once().state is JobState.DONE  # type: ignore[union-attr]


def test_cancelling_what_a_dead_process_ran(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job = studio.submit({"prompt": "x"})
    monkeypatch.setenv("FAKE_DIE", str(int(signal.SIGKILL)))
    in_a_process(studio.settings)
    assert studio.job(job.id).state is JobState.RUNNING
    assert studio.cancel(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize(("name", "code"), [("OutputRejected", "output_rejected"), ("CannotFit", "cannot_fit"),
                                            ("ModelInvalid", "model_invalid")])
def test_a_deterministic_failure_is_not_tried_again(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch,
                                                    name: str, code: str) -> None:
    studio.submit({"prompt": "x"})
    monkeypatch.setenv("FAKE_FAIL", name)
    failed = work_once()
    assert failed is not None
    assert (failed.state, failed.error_code, failed.error) == (JobState.FAILED, code, "the fake was told to fail.")
    assert work_once() is None and no_leftovers(studio.settings)
    monkeypatch.delenv("FAKE_FAIL")
    studio.retry(failed.id)
    done = work_once()
    assert done is not None and (done.state, done.resumed_from, done.error) == (JobState.DONE, 5, None)


def test_an_unforeseen_error_fails_the_job_and_nothing_else(studio: Studio, work_once: Work,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    studio.submit({"prompt": "x"})
    monkeypatch.setattr("tests.fakes._misbehave", lambda: 1 / 0)
    failed = work_once()
    assert failed is not None and (failed.state, failed.error_code) == (JobState.FAILED, "internal")
    assert "ZeroDivisionError" in str(failed.error) and "Traceback" in studio.log_text(failed.id)


def test_a_worker_whose_gpu_gave_up_ends_after_its_job(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    job, after = studio.submit({"prompt": "x"}), studio.submit({"prompt": "y"})
    monkeypatch.setenv("FAKE_FAIL", "DeviceLost")
    full = work(studio.settings, studio.store, FakeEngine(), threading.Event())  # comes to an end by itself
    failed = studio.job(job.id)
    assert (full, failed.state, failed.error_code) == (False, JobState.FAILED, "device_lost")
    assert studio.job(after.id).state is JobState.QUEUED  # for the next worker


def test_of_several_jobs_here_those_after_it_go_on_elsewhere(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [studio.submit({"prompt": prompt}).id for prompt in "xyz"]
    elsewhere: list[str] = []
    monkeypatch.setenv("FAKE_FAIL", "DeviceLost")
    monkeypatch.setattr(inline_batch, "go_on", lambda settings, store, job_id, on_event: elsewhere.append(job_id))
    inline_batch.run_all(studio.settings, studio.store, FakeEngine(), jobs)
    assert (studio.job(jobs[0]).error_code, elsewhere) == ("device_lost", jobs[1:])


def test_a_full_disk_blocks_the_job_and_room_frees_it(studio: Studio, work_once: Work,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    studio.submit({"prompt": "x"})
    monkeypatch.setenv("FAKE_FAIL", "StorageBlocked")
    blocked = work_once()
    assert blocked is not None and (blocked.state, blocked.error_code) == (JobState.BLOCKED, "disk")
    monkeypatch.delenv("FAKE_FAIL")
    monkeypatch.setattr(storage, "free_bytes", lambda settings: 1000)
    chores(place_of(studio))
    assert studio.job(blocked.id).state is JobState.BLOCKED
    assert "MiB are needed" not in str(studio.status().blocked_reason)  # a page needs no spare room
    monkeypatch.undo()
    chores(place_of(studio))
    done = work_once()
    assert done is not None and (done.state, done.resumed_from, done.error) == (JobState.DONE, 5, None)


def test_too_little_room_is_seen_before_the_work(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.submit({"prompt": "x"})
    monkeypatch.setattr(storage, "free_bytes", lambda settings: 1000)
    blocked = work_once()
    assert blocked is not None and blocked.state is JobState.BLOCKED and blocked.stage is None
    assert "MiB free" in str(blocked.error)
    assert studio.cancel(blocked.id).state is JobState.CANCELLED


def test_a_large_blocked_job_holds_up_no_small_one(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(studio)
    large, small = (studio.submit({"prompt": "x", "frames": frames}) for frames in (49, 9))
    needs = [planned(place, job).disk_bytes for job in (large, small)]
    monkeypatch.setattr(storage, "free_bytes", lambda settings: 0)
    assert [made.state if (made := work_once()) else None for _ in range(2)] == [JobState.BLOCKED] * 2
    monkeypatch.setattr(storage, "free_bytes", lambda settings: sum(needs) // 2)
    chores(place)
    assert [studio.job(job.id).state for job in (large, small)] == [JobState.BLOCKED, JobState.QUEUED]


def test_stopping_hands_the_job_back(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.05")
    job = studio.submit({"prompt": "x"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    place = place_of(studio)
    worker = threading.Thread(target=perform, args=(place, claim))
    worker.start()
    while studio.job(job.id).step < 3:
        time.sleep(0.01)
    place.stopping.set()
    worker.join()
    assert studio.job(job.id).state is JobState.QUEUED
    monkeypatch.delenv("FAKE_STEP_SECONDS")
    done = work_once()
    assert done is not None and done.state is JobState.DONE and (done.resumed_from or 0) >= 3


def test_previews_and_progress_reach_the_row(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.03")
    job = studio.submit({"prompt": "x"})
    seen: set[tuple[str | None, int]] = set()
    previews: list[bytes] = []
    worker = threading.Thread(target=work_once)
    worker.start()
    while worker.is_alive():
        now = studio.job(job.id)
        seen.add((now.stage, now.step))
        path = studio.preview_path(job.id)
        if path is not None and now.preview_seq:
            previews.append(path.read_bytes() if path.exists() else b"")
        time.sleep(0.005)
    assert len({step for stage, step in seen if stage == "sample"}) >= 3
    assert any(data[8:12] == b"WEBP" for data in previews)
    assert studio.preview_path(job.id) is None  # the clip itself is better
    assert studio.job(job.id).preview_seq > 0


def test_that_ranks_were_lost_stays_beside_where_it_went_on(studio: Studio) -> None:
    studio.submit({"prompt": "x"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    said: list[dict[str, Any]] = []
    beat: Any = SimpleNamespace(note=lambda **values: said.append(values))
    attempt, job_work = Attempt(place_of(studio), claim, beat), SimpleNamespace(notes=("one",), steps=12)
    for event in (RanksRestarted("rank 1 ended", ""), Resumed(6, 12)):
        _tell(attempt, job_work, event)  # type: ignore[arg-type]
    assert json.loads(said[-1]["notes"]) == ["one", "Started again, because rank 1 ended.", "Resumed from step 6 of 12."]


def test_a_preview_that_finds_no_room_is_no_failure(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "preview.part":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return written(path, data)

    studio.submit({"prompt": "x"})
    monkeypatch.setattr(Path, "write_bytes", full)
    done = work_once()
    assert done is not None and (done.state, done.preview_seq) == (JobState.DONE, 0)
    assert "a preview was not written" in studio.log_text(done.id)


def test_a_foreign_file_under_the_clips_name_is_put_aside(studio: Studio, work_once: Work) -> None:
    job = studio.submit({"prompt": "x"})
    final: Path = studio.settings.media_dir / clip_file(job)
    final.parent.mkdir(parents=True)
    final.write_bytes(b"not a video")
    done = work_once()
    assert done is not None and done.state is JobState.DONE
    assert studio.clip_path(done.clip_id or "").read_bytes() != b"not a video"
    assert [path.read_bytes() for path in studio.settings.trash_dir.iterdir()] == [b"not a video"]
