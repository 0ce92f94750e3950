"""Several clips as one: all are taken or none, one behind the other, made with one loaded model, cancelled together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.batches import variants
from app.errors import NotAllowed, NotFound
from app.history.records import Job, JobState
from app.studio import Studio
from engine.errors import InvalidRequest
from tests import fakes
from tests.app.test_cli import Run

Work = Callable[[], Job | None]
THREE: list[dict[str, Any]] = [{"prompt": "one", "seed": 1}, {"prompt": "two"}, {"prompt": "three", "frames": 17}]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("SPROCKET_ENGINE", "tests.fakes:FakeEngine")
    return Run(monkeypatch, capfd)


def test_they_wait_one_behind_the_other(studio: Studio, work_once: Work) -> None:
    before = studio.submit({"prompt": "before"})
    jobs = studio.submit_batch(THREE)
    after = studio.submit({"prompt": "after"})
    assert len({job.batch_id for job in jobs}) == 1 and jobs[0].batch_id is not None
    assert (before.batch_id, after.batch_id) == (None, None)
    assert [job.request["prompt"] for job in jobs] == ["one", "two", "three"]
    assert all(isinstance(job.request["seed"], int) for job in jobs) and jobs[0].request["seed"] == 1
    assert studio.jobs() == (before, *jobs, after)
    studio.move(jobs[2].id, to="top")
    assert [job.id for job in studio.batch(jobs[0].batch_id)] == [job.id for job in jobs]  # as they were asked for
    for _ in range(5):
        work_once()
    assert all(job.state is JobState.DONE for job in studio.batch(jobs[0].batch_id))
    assert len({studio.clip(job.clip_id).file for job in studio.batch(jobs[0].batch_id) if job.clip_id}) == 3


@pytest.mark.parametrize(("bad", "field", "says"), [
    ({"prompt": ""}, "prompt", "is empty"), ({"prompt": "x", "frames": 26}, "frames", "25"), (5, "request", "must be an object"),
    ({"prompt": "x", "image": f"{'0' * 64}.png"}, "image", "does not take one"),
    ({"prompt": "x", "colour": 1}, "colour", "is not a request")])
def test_all_or_none(studio: Studio, bad: Any, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        studio.submit_batch([*THREE, bad])
    assert caught.value.field.strip("'") == field and "request 4 of 4; none was taken" in str(caught.value)
    assert studio.jobs() == ()


@pytest.mark.parametrize("requests", [[], [{"prompt": "x"}] * 33, "abc", {"prompt": "x"}, None, 7])
def test_a_batch_has_an_end(studio: Studio, requests: Any) -> None:
    with pytest.raises(InvalidRequest, match="list of 1 to 32 requests") as caught:
        studio.submit_batch(requests)
    assert caught.value.field == "requests" and studio.jobs() == ()


def test_a_batch_that_is_more_than_may_wait_is_refused_whole(studio: Studio) -> None:
    for _ in range(4):
        studio.submit_batch([{"prompt": "x"}] * 15)
    with pytest.raises(NotAllowed, match="60 jobs wait already; the limit is 64, and 5 more were asked for"):
        studio.submit_batch([{"prompt": "x"}] * 5)
    assert len(studio.jobs(limit=200)) == 60
    assert len(studio.submit_batch([{"prompt": "x"}] * 4)) == 4


def test_the_same_key_gives_the_same_batch(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = studio.submit_batch(THREE, idempotency_key="k")
    assert studio.submit_batch(THREE, idempotency_key="k") == first
    for other in (THREE[:2], list(reversed(THREE))):
        with pytest.raises(InvalidRequest, match="was used before"):
            studio.submit_batch(other, idempotency_key="k")
    with pytest.raises(InvalidRequest, match="was used before"):
        studio.submit(THREE[0], idempotency_key="k")
    monkeypatch.setattr(studio, "_planned", lambda wish: 1 / 0)  # its model may be gone by now
    assert studio.submit_batch(THREE, idempotency_key="k") == first
    assert len(studio.jobs()) == 3


def test_cancelling_all_of_it(studio: Studio, work_once: Work) -> None:
    alone = studio.submit({"prompt": "alone"})
    jobs = studio.submit_batch(THREE)
    batch = jobs[0].batch_id or ""
    studio.move(jobs[0].id, to="top")
    done = work_once()
    assert done is not None and done.id == jobs[0].id
    studio.pause(jobs[1].id)
    states = [job.state for job in studio.cancel_batch(batch)]
    assert states == [JobState.DONE, JobState.CANCELLED, JobState.CANCELLED]
    assert [job.state for job in studio.cancel_batch(batch)] == states
    assert studio.job(alone.id).state is JobState.QUEUED
    for call in (studio.batch, studio.cancel_batch):
        with pytest.raises(NotFound, match="no such batch"):
            call(batch, owner="somebody else")
        for unknown in ("f" * 32, "../x", "", alone.id):
            with pytest.raises(NotFound):
                call(unknown)


def test_what_runs_is_told_to_stop(studio: Studio) -> None:
    from app.queue.process import this_process

    jobs = studio.submit_batch(THREE)
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None and claim.job.id == jobs[0].id
    states = [job.state for job in studio.cancel_batch(jobs[0].batch_id or "")]
    assert states == [JobState.CANCELLING, JobState.CANCELLED, JobState.CANCELLED]
    assert studio.store.leases.look(claim)


def test_one_command_several_clips(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[fakes.FakeModels] = []
    monkeypatch.setattr(fakes.FakeEngine, "open_models", lambda _self: opened.append(fakes.FakeModels()) or opened[-1])
    made = run.json("generate", "--prompt", "a red ball", "--prompt", "a blue star", "--seeds", "1, 2,3")
    assert [(row["prompt"], row["seed"]) for row in made["clips"]] == [
        (prompt, seed) for prompt in ("a red ball", "a blue star") for seed in (1, 2, 3)]
    assert all(row["recipe"]["request"]["seed"] == row["seed"] for row in made["clips"])
    assert len({row["path"] for row in made["clips"]}) == 6
    assert len(opened) == 1 and opened[0].closed  # one loaded model for all
    code, out, err = run("generate", "--prompt", "x", "--count", "2", "--seed", "9")
    assert code == 0 and len(out.splitlines()) == 2 and "2 clips in" in err
    assert [clip["seed"] for clip in run.json("history", "list")["clips"]][:2] == [10, 9]
    drawn = run.json("generate", "--prompt", "x", "--count", "2")["clips"]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    assert "clips" not in run.json("generate", "--prompt", "x", "--count", "1")


def test_one_that_fails_does_not_stop_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fakes.FakeEngine.run

    def fails(self: fakes.FakeEngine, plan: Any, **rest: Any) -> Any:
        if plan.seed == 2:
            raise fakes.errors.OutputRejected("all frames are black.")
        return real(self, plan, **rest)

    monkeypatch.setattr(fakes.FakeEngine, "run", fails)
    code, out, err = run("generate", "--prompt", "x", "--seeds", "1,2,3", "--json")
    rows = json.loads(out)["clips"]
    assert code == 1 and ["path" in row for row in rows] == [True, False, True]
    assert rows[1]["error"]["code"] == "output_rejected" and "all frames are black" in err


def test_an_interrupt_cancels_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: fakes.FakeEngine, plan: Any, **rest: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(fakes.FakeEngine, "run", interrupted)
    run("generate", "--prompt", "x", "--count", "3", "--json")
    assert [job["state"] for job in run.json("queue", "list", "--all")["jobs"]] == ["cancelled"] * 3


@pytest.mark.parametrize(("arguments", "field", "says"), [
    (["--seeds", "1,2", "--seed", "1"], "seeds", "Use one of them"), (["--seeds", "1", "--count", "2"], "seeds", "Use one of them"),
    (["--seeds", "1,x"], "seeds", "'x'"), (["--seeds", ""], "seeds", "''"), (["--seeds", "1,,2"], "seeds", "whole numbers"),
    (["--seeds", "-1"], "seeds", "'-1'"), (["--seeds", "1,1"], "seeds", "twice"), (["--seeds", str(2**63)], "seed", "2^63"),
    (["--seeds", "9" * 5000], "seeds", "whole numbers"), (["--count", "0"], "count", "1 to 32"), (["--count", "33"], "count", "1 to 32"),
    (["--count", "2", "--seed", str(2**63 - 1)], "seed", "2^63"), (["--count", "17", "--prompt", "b"], "prompt", "make 34 clips"),
    (["--prompt", " "], "prompt", "is empty"), (["--count", "2", "--out", "x.mp4"], "out", "one file"),
    (["--count", "2", "--frames", "26"], "frames", "25")])
def test_refusals(run: Run, arguments: list[str], field: str, says: str) -> None:
    code, out, err = run("generate", "--prompt", "a", *arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, error["field"]) == (2, field) and says in error["message"], err
    assert len(error["message"]) < 500 and run.json("queue", "list") == {"jobs": []}


def test_variants() -> None:
    assert variants(["a"], 5, None, None, 16) == [("a", 5)]
    assert variants(["a", "b"], None, None, None, 16) == [("a", None), ("b", None)]
    assert variants(["a", "b"], 7, None, 2, 16) == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert variants(["a"], None, " 4 ,5", None, 16) == [("a", 4), ("a", 5)]


def test_a_job_that_is_handed_back_is_run_by_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = fakes.FakeEngine.run, []

    def once(self: fakes.FakeEngine, plan: Any, **rest: Any) -> Any:
        seen.append(plan.seed)
        if seen == [1]:
            raise fakes.errors.Cancelled("this process is stopping.")
        return real(self, plan, **rest)

    monkeypatch.setattr(fakes.FakeEngine, "run", once)
    made = run.json("generate", "--prompt", "x", "--seeds", "1,2")
    assert seen == [1, 2, 1] and all("path" in row for row in made["clips"])
