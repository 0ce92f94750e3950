"""A job's kind decides what runs it and what is published; everything around it is the same for all."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import NotAllowed
from app.history.records import Job, JobState
from app.history.sidecar import clip_file
from app.queue import kinds
from app.queue.kinds import job_title, job_what, kind_of
from app.queue.workplace import Attempt, Workplace
from app.studio import Studio
from app.ui.api import job_json
from app.ui.html.queue import queue_html
from engine.errors import Cancelled, InvalidRequest
from engine.events import Event, Stage, StageStarted, StepDone
from engine.video.publish import write_atomic

Work = Callable[[], Job | None]


@dataclass
class Counting:
    """Counts to `request['to']`, a line of a file each, and goes on where it was; its result is a file that is no clip."""

    to: int
    notes: tuple[str, ...] = ("It counts.",)
    device: str = "cpu"
    disk_bytes: int = 0
    placement: None = None

    @property
    def steps(self) -> int:
        return self.to

    def run(self, attempt: Attempt) -> Iterator[Event]:
        yield StageStarted(Stage.SAMPLE)
        state = attempt.workspace / "count"
        at = int(state.read_text()) if state.exists() else 0
        while at < self.to:
            if attempt.beat.cancelled():
                raise Cancelled("stopped")
            at += 1
            write_atomic(state, str(at).encode())
            if self.to == 13:
                raise MemoryError
            yield StepDone(Stage.SAMPLE, at, self.to, None)
            time.sleep(0.01)

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        assert isinstance(last, StepDone) and last.step == self.to
        leases = attempt.place.store.leases
        leases.finalize(attempt.claim, now=time.time())
        write_atomic(attempt.settings.data_dir / "counted.txt", str(last.step).encode())
        leases.complete(attempt.claim, now=time.time(), detail="counted.txt")


class CountingKind:
    what = "Counting"

    def title(self, request: Mapping[str, Any]) -> str:
        return f"Count to {request.get('to')} <b>"

    def resolve(self, place: Workplace, job: Job) -> Counting:
        if job.request["to"] < 1:
            raise InvalidRequest("to", "is below 1.")
        return Counting(job.request["to"])

    def finish_published(self, place: Workplace, claim: Any) -> bool:
        return False


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds._FILES, "count", "tests.counting")
    monkeypatch.setitem(sys.modules, "tests.counting", SimpleNamespace(KIND=CountingKind()))


def added(studio: Studio, to: int, kind: str = "count") -> Job:
    project = studio.projects()[0]
    return studio.store.jobs.add(owner="local", project_id=project.id, kind=kind, request={"to": to}, asked={"to": to},
                                 now=time.time(), max_attempts=3, max_waiting=9, steps=to)


@pytest.mark.usefixtures("counting")
def test_a_job_whose_result_is_no_clip_ends_as_done(studio: Studio, work_once: Work) -> None:
    job = added(studio, 3)
    done = work_once()
    assert done is not None and (done.id, done.state, done.clip_id) == (job.id, JobState.DONE, None)
    assert (studio.settings.data_dir / "counted.txt").read_text() == "3" and studio.clips().total == 0
    assert done.notes == ("It counts.",) and (done.step, done.steps) == (3, 3)
    assert not (studio.settings.job_dir(job.id) / "work").exists()
    assert studio.job_events(job.id)[-1].detail == "counted.txt"


@pytest.mark.usefixtures("counting")
def test_cancelling_handing_back_and_going_on_are_the_same_for_all_kinds(studio: Studio, work_once: Work) -> None:
    job = added(studio, 500)
    worker = threading.Thread(target=work_once)
    worker.start()
    while studio.job(job.id).step < 3:
        time.sleep(0.01)
    studio.cancel(job.id)
    worker.join()
    assert studio.job(job.id).state is JobState.CANCELLED
    assert not (studio.settings.data_dir / "counted.txt").exists()
    assert studio.retry(job.id).state is JobState.QUEUED


@pytest.mark.usefixtures("counting")
def test_what_a_kind_refuses_fails_its_job(studio: Studio, work_once: Work) -> None:
    added(studio, 0)
    failed = work_once()
    assert failed is not None and failed.state is JobState.FAILED and failed.error == "to: is below 1."


@pytest.mark.usefixtures("counting")
def test_memory_that_runs_out_where_there_is_no_other_way_fails_the_job(studio: Studio, work_once: Work) -> None:
    added(studio, 13)
    failed = work_once()
    assert failed is not None and failed.state is JobState.FAILED and "no way to do this with less" in str(failed.error)


def test_a_kind_of_a_newer_sprocket_fails_and_is_still_listed(studio: Studio, work_once: Work) -> None:
    job = added(studio, 1, kind="sculpt")
    assert job_title(job) == job_what(job) == "sculpt" and "sculpt" in queue_html([job])
    failed = work_once()
    assert failed is not None and failed.state is JobState.FAILED and "'sculpt'" in str(failed.error)


@pytest.mark.usefixtures("counting")
def test_lists_say_what_the_job_does(studio: Studio) -> None:
    counts, makes = added(studio, 3), studio.submit({"prompt": "a red ball"})
    page = queue_html([counts, makes])
    assert "Count to 3 &lt;b&gt;" in page and "Counting" in page and "a red ball" in page
    assert page.count('data-act="take_back"') == 1  # what did not come from the form does not go back into it
    assert (job_json(counts, None)["kind"], job_json(makes, None)["title"]) == ("count", "a red ball")
    with pytest.raises(NotAllowed):
        studio.take_back(counts.id)
    again = studio.duplicate(counts.id)
    assert (again.kind, again.request) == ("count", {"to": 3}) and again.id != counts.id


def test_files_of_every_kind_have_a_name_of_their_own(studio: Studio) -> None:
    made, other = studio.submit({"prompt": "x", "seed": 5}), added(studio, 1, kind="interpolate")
    assert clip_file(made).endswith(f"_pocket_s5_{made.id[-8:]}.mp4")
    assert clip_file(other).endswith(f"_interpolate_{other.id[-8:]}.mp4")
    assert kind_of("generate").title({}) == ""
