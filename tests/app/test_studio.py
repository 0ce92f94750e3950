"""The use-cases, on a real history: what is stored, what is refused, and that refusing stores nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import NotAllowed, NotFound
from app.history.records import Clip, ClipQuery, Job, JobState
from app.history.recovery import write_stale_sidecars
from app.history.sidecar import read_projects, write_projects, write_sidecar
from app.interpolation import _line
from app.studio import Studio
from engine.errors import CannotFit, InvalidRequest, ModelNotFound
from engine.request import GenerationRequest
from engine.video.publish import storage_errors
from tests import fakes

Work = Callable[[], Job | None]


def made(studio: Studio, work_once: Work, prompt: str = "a red ball bounces", **fields: Any) -> Any:
    job = studio.submit({"prompt": prompt, **fields})
    done = work_once()
    assert done is not None and (done.id, done.state) == (job.id, JobState.DONE), done
    return studio.clip(done.clip_id or "")


def test_a_prompt_alone_becomes_a_clip(studio: Studio, work_once: Work) -> None:
    job = studio.submit({"prompt": " a red ball "})
    assert (job.state, job.request["prompt"], job.steps) == (JobState.QUEUED, "a red ball", 12)
    assert 0 <= job.request["seed"] < 2**31
    assert studio.current_job() == job
    assert work_once() is not None
    clip = studio.clips().clips[0]
    assert studio.job(job.id).clip_id == clip.id and clip.job_id == job.id
    assert (clip.seed, clip.model, clip.frames, clip.width, clip.height) == (job.request["seed"], "pocket", 9, 64, 48)
    assert studio.clip_path(clip.id).read_bytes()[4:8] == b"ftyp"
    assert studio.poster_path(clip.id).read_bytes()[8:12] == b"WEBP"
    assert studio.current_job() is None
    assert [event.what for event in studio.job_events(job.id)] == ["queued", "running", "finalizing", "done"]
    assert "stage decode" in studio.log_text(job.id) and "red ball" not in studio.log_text(job.id)


def test_restoring_gives_the_request_back(studio: Studio, work_once: Work, tmp_path: Path) -> None:
    clip = made(studio, work_once, "a blue heart", seed=2**63 - 1, steps=5, guidance=3.5, frames=17, negative="rain")
    wanted = GenerationRequest(prompt="a blue heart", seed=2**63 - 1, steps=5, guidance=3.5, frames=17, negative="rain",
                               width=64, height=48, scheduler="dpm", guidance_kind="constant", eta=0.0, profile="fast", cache="off",
                               cfg_gate=1.0)
    elsewhere = tmp_path / "dropped.mp4"
    elsewhere.write_bytes(studio.clip_path(clip.id).read_bytes())
    assert studio.clip_request(clip.id) == wanted
    assert studio.request_from_file(elsewhere) == wanted
    assert studio.request_from_file(studio.clip_path(clip.id).with_suffix(".json")) == wanted


BAD = [
    ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": "x" * 1_000_000}, "prompt"), ({"prompt": "a\0b"}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": "x", "seed": 2**63}, "seed"),
    ({"prompt": "x", "seed": -1}, "seed"), ({"prompt": "x", "seed": True}, "seed"),
    ({"prompt": "x", "guidance": float("nan")}, "guidance"), ({"prompt": "x", "guidance": float("inf")}, "guidance"),
    ({"prompt": "x", "steps": "25"}, "steps"), ({"prompt": "x", "frames": 26}, "frames"),
    ({"prompt": "x", "width": 100}, "width"), ({"prompt": "x", "height": 10**9}, "height"),
    ({"prompt": "x", "what": 1}, "'what'"), ([1], "request"),
]


@pytest.mark.parametrize(("values", "field"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_request_names_its_field_and_leaves_no_row(studio: Studio, values: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        studio.submit(values)
    assert caught.value.field == field
    assert studio.jobs() == () and list(studio.settings.jobs_dir.iterdir()) == []


def test_frames_are_offered_the_nearest(studio: Studio) -> None:
    with pytest.raises(InvalidRequest) as caught:
        studio.submit({"prompt": "x", "frames": 26})
    assert caught.value.suggestion == 25


def test_what_no_machine_can_do_is_refused(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound):
        studio.submit({"prompt": "x", "model": "../../etc"})
    monkeypatch.setattr(fakes, "MACHINE", dataclasses.replace(fakes.MACHINE, free_bytes=10**6))
    with pytest.raises(CannotFit):
        studio.submit({"prompt": "x"})
    assert studio.jobs() == ()


def test_submitting_twice_with_one_key_makes_one_job(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = studio.submit({"prompt": "x"}, idempotency_key="k")
    assert studio.submit({"prompt": "x"}, idempotency_key="k") == first
    assert studio.submit({"prompt": "x"}, idempotency_key="k", owner="other").id != first.id
    with pytest.raises(InvalidRequest, match="idempotency_key"):
        studio.submit({"prompt": "y"}, idempotency_key="k")
    assert len(studio.jobs()) == 1
    for bad in ("", "x" * 201, "a\nb", 5):
        with pytest.raises(InvalidRequest, match="idempotency_key"):
            studio.submit({"prompt": "x"}, idempotency_key=bad)  # type: ignore[arg-type]
    monkeypatch.setattr(studio, "_planned", lambda wish: 1 / 0)  # its model may be gone by now
    assert studio.submit({"prompt": "x"}, idempotency_key="k") == first


def test_too_many_waiting_jobs_are_refused(studio: Studio) -> None:
    small = Studio(studio.settings.model_copy(update={"max_waiting": 2}), studio.store)
    for _ in range(2):
        small.submit({"prompt": "x"})
    with pytest.raises(NotAllowed, match="2 jobs wait already"):
        small.submit({"prompt": "x"})


@pytest.mark.parametrize("identity", ["0" * 32, "../../etc/passwd", "", "A" * 32, None, 7, "%" * 32])
def test_ids_that_name_nothing(studio: Studio, work_once: Work, identity: Any) -> None:
    for call in (studio.job, studio.cancel, studio.retry, studio.duplicate, studio.take_back, studio.preview_path,
                 studio.job_events, studio.clip, studio.clip_path, studio.poster_path, studio.lineage, studio.trash,
                 studio.untrash, studio.clip_request, studio.set_favourite):
        with pytest.raises(NotFound):
            call(identity)
    for call in (studio.rename, studio.rename_project):
        with pytest.raises(NotFound):
            call(identity, "name")


def test_ids_of_somebody_else_name_nothing(studio: Studio, work_once: Work) -> None:
    clip = made(studio, work_once)
    job = studio.submit({"prompt": "x"})
    project = studio.projects()[0]
    for call in (studio.job, studio.cancel, studio.retry, studio.duplicate, studio.take_back, studio.preview_path):
        with pytest.raises(NotFound):
            call(job.id, owner="eve")
    for call in (studio.clip, studio.clip_path, studio.poster_path, studio.lineage, studio.trash, studio.clip_request):
        with pytest.raises(NotFound):
            call(clip.id, owner="eve")
    for bad in ({"made_from": clip.id}, {"project_id": project.id}):
        with pytest.raises(NotFound):
            studio.submit({"prompt": "x"}, owner="eve", **bad)
    assert studio.jobs(owner="eve") == () and studio.clips(owner="eve").total == 0
    assert studio.job(job.id).state is JobState.QUEUED


def test_cancel_retry_and_their_limits(studio: Studio, work_once: Work) -> None:
    job = studio.submit({"prompt": "x"})
    assert studio.cancel(job.id).state is JobState.CANCELLED
    assert studio.cancel(job.id).state is JobState.CANCELLED
    assert work_once() is None
    assert studio.retry(job.id).state is JobState.QUEUED
    with pytest.raises(NotAllowed, match="still waiting"):
        studio.retry(job.id)
    assert work_once() is not None
    for call in (studio.cancel, studio.retry):
        with pytest.raises(NotAllowed, match="it is done"):
            call(job.id)
    assert studio.duplicate(job.id).request == job.request
    assert studio.clips().total == 1


def test_order_and_moving(studio: Studio) -> None:
    ids = [studio.submit({"prompt": str(number)}).id for number in range(4)]

    def order() -> list[int]:
        return [ids.index(job.id) for job in studio.jobs()]

    for index, to, expected in ((2, "up", [0, 2, 1, 3]), (0, "down", [2, 0, 1, 3]), (3, "top", [3, 2, 0, 1]),
                                (3, "up", [3, 2, 0, 1]), (2, "bottom", [3, 0, 1, 2]), (2, "down", [3, 0, 1, 2])):
        studio.move(ids[index], to=to)
        assert order() == expected
    with pytest.raises(InvalidRequest, match="to"):
        studio.move(ids[0], to="sideways")
    assert studio.pause(ids[3]).state is JobState.PAUSED
    assert studio.resume(ids[3]).state is JobState.QUEUED


def test_taking_back_a_waiting_job(studio: Studio, work_once: Work) -> None:
    job = studio.submit({"prompt": "x", "seed": 4})
    assert studio.take_back(job.id) == GenerationRequest(prompt="x", seed=4)
    assert studio.job(job.id).state is JobState.CANCELLED
    with pytest.raises(NotAllowed):
        studio.take_back(job.id)


def test_search_filters_and_pages(studio: Studio, work_once: Work) -> None:
    one = made(studio, work_once, "a RED ball, 100% round")
    two = made(studio, work_once, "Über den Wolken_")
    three = made(studio, work_once, "a red star")
    studio.set_favourite(two.id)
    studio.rename(three.id, "  My\nbest  ")

    def found(**fields: Any) -> list[str]:
        return [clip.id for clip in studio.clips(ClipQuery(**fields)).clips]

    assert found() == [three.id, two.id, one.id]
    assert found(words="red") == [three.id, one.id]
    assert found(words="Ball red") == [one.id]
    assert found(words="%") == [one.id] and found(words="_") == [two.id]
    assert found(words="ÜBER") == [two.id] and found(words="my best") == [three.id]
    assert found(words="'); DROP TABLE clips") == [] and found(words="\ud800") == []
    assert found(favourites_only=True) == [two.id] and found(model="other") == []
    assert found(project_id=studio.projects()[0].id) == [three.id, two.id, one.id]
    page = studio.clips(ClipQuery(page=99, page_size=2))
    assert (page.page, page.pages, page.total, [clip.id for clip in page.clips]) == (2, 2, 3, [one.id])
    studio.trash(one.id)
    assert found() == [three.id, two.id] and found(trashed=True) == [one.id]
    assert studio.clip_path(one.id).exists()
    assert studio.untrash(one.id).trashed_at is None
    assert studio.projects()[0].clips == 3


def test_lineage(studio: Studio, work_once: Work) -> None:
    parent = made(studio, work_once)
    child_job = studio.submit({"prompt": "y"}, made_from=parent.id)
    work_once()
    child = studio.clip(studio.job(child_job.id).clip_id or "")
    grandchild_job = studio.submit({"prompt": "z"}, made_from=child.id)
    work_once()
    grandchild = studio.clip(studio.job(grandchild_job.id).clip_id or "")
    assert studio.lineage(child.id) == ((parent,), (grandchild,))
    assert studio.lineage(grandchild.id) == ((child, parent), ())
    assert child.recipe["made_from"] == parent.id


def test_projects(studio: Studio, work_once: Work) -> None:
    default, = studio.projects()
    assert default.name == "My videos"
    holiday = studio.create_project(" Holiday ")
    for bad in ("", "   ", "x" * 121, "holiday", "my VIDEOS", "\ud800", 5):
        with pytest.raises(InvalidRequest, match="name"):
            studio.create_project(bad)  # type: ignore[arg-type]
    studio.submit({"prompt": "x"}, project_id=holiday.id)
    work_once()
    clip, = studio.clips(ClipQuery(project_id=holiday.id)).clips
    assert studio.rename_project(holiday.id, "Sea").name == "Sea"
    assert [(p.name, p.clips) for p in studio.projects()] == [("My videos", 0), ("Sea", 1)]
    studio.move_clip(clip.id, default.id)
    assert [(p.name, p.clips) for p in studio.projects()] == [("My videos", 1), ("Sea", 0)]


PERSIAN = "می\u200cخواهم"
FAMILY = "👩\u200d👩\u200d👧"


def test_names_keep_what_joins_letters_and_emoji(studio: Studio, work_once: Work) -> None:
    name = f"{PERSIAN} {FAMILY}"
    project = studio.create_project(name)
    clip = made(studio, work_once)
    assert (project.name, studio.rename(clip.id, name).name) == (name, name)
    for said, kept in (("\u200da\u200c", "a"), ("a \u200cb", "a b"), ("a\u200c\u200db", "a b"), ("a\u200b\u202eb", "a b")):
        assert studio.rename(clip.id, said).name == kept  # nothing that cannot be seen
    with pytest.raises(InvalidRequest, match="empty"):
        studio.rename(clip.id, "\u200c\u200d")
    write_projects(studio.settings.media_dir, studio.store.projects)
    assert project.name in {each.name for _owner, each in read_projects(studio.settings.media_dir)}
    studio.rename(clip.id, PERSIAN * 10)
    job = studio.interpolations.submit(clip.id, fps=24)
    assert job.request["title"] == PERSIAN * 10
    assert _line("x" + FAMILY * 60) == ("x" + FAMILY * 60)[:200].rstrip("\u200d")  # cut at a joiner


def test_changes_reach_the_sidecar(studio: Studio, work_once: Work) -> None:
    clip = made(studio, work_once)
    studio.set_favourite(clip.id)
    studio.rename(clip.id, "<b>bold</b>")
    told = json.loads(studio.clip_path(clip.id).with_suffix(".json").read_text())
    assert (told["clip"]["favourite"], told["clip"]["name"]) == (True, "<b>bold</b>")
    assert studio.store.clips.stale() == ()


def test_a_sidecar_that_cannot_be_written_holds_up_no_other(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = made(studio, work_once), made(studio, work_once)
    paths = [studio.settings.media_dir / clip.file for clip in (first, second)]
    for path in paths:
        path.with_suffix(".json").unlink()
        path.with_suffix(".json").mkdir()
    for clip in (first, second):
        studio.rename(clip.id, "new name")
    paths[1].with_suffix(".json").rmdir()
    write_stale_sidecars(studio.settings, studio.store)
    assert [clip.id for clip in studio.store.clips.stale()] == [first.id]
    paths[0].with_suffix(".json").rmdir()
    tried: list[str] = []

    def full(_media: Path, clip: Clip) -> None:
        tried.append(clip.id)
        with storage_errors(studio.settings.media_dir):
            raise OSError(errno.ENOSPC, "full")
    studio.store.clips.rename(second.id, "another", owner="local")
    monkeypatch.setattr("app.history.recovery.write_sidecar", full)
    write_stale_sidecars(studio.settings, studio.store)
    assert len(tried) == 1  # the disk takes nothing: there is no point in the next


def test_a_late_writer_s_old_sidecar_does_not_stay(studio: Studio, work_once: Work) -> None:
    clip = made(studio, work_once)
    studio.rename(clip.id, "new name")
    write_sidecar(studio.settings.media_dir, clip)  # somebody who read the row before that, and was slow
    studio.store.clips.sidecar_written(clip)
    write_stale_sidecars(studio.settings, studio.store)
    assert json.loads(studio.clip_path(clip.id).with_suffix(".json").read_text())["clip"]["name"] == "new name"


def test_the_forecast_comes_from_this_machines_history(studio: Studio, work_once: Work) -> None:
    before = studio.forecast({"prompt": "x"})
    assert before.seconds is None and before.memory_bytes > 0 and before.queued_ahead == 0
    made(studio, work_once)
    studio.submit({"prompt": "waits"})
    short, long = studio.forecast({"prompt": "x"}), studio.forecast({"prompt": "x", "frames": 49})
    assert short.seconds is not None and long.seconds is not None and short.seconds < long.seconds
    assert short.basis == "from 1 clip made on this machine" and short.queued_ahead == 1


def test_status_without_a_worker(studio: Studio) -> None:
    studio.submit({"prompt": "x"})
    status = studio.status()
    assert (status.worker_alive, status.queued, status.running, status.blocked_reason) == (False, 1, 0, None)
    assert status.disk_free_bytes > 0


def test_a_clip_whose_file_is_gone(studio: Studio, work_once: Work) -> None:
    clip = made(studio, work_once)
    studio.clip_path(clip.id).unlink()
    with pytest.raises(NotFound, match="no longer"):
        studio.clip_path(clip.id)
    assert studio.clip(clip.id).missing
