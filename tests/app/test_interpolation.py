"""More frames for a clip, as a job: asked for, made once, kept with its lineage and recipe, labelled as what it is."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import NotAllowed, NotFound
from app.history.leases import Limits
from app.history.opening import rebuild
from app.history.records import Clip, ClipQuery, Job, JobState
from app.history.sidecar import clip_file, read_sidecar
from app.published import public_view
from app.queue.executor import Workplace, perform
from app.queue.kinds import job_title, job_what
from app.queue.kinds.interpolate import Interpolation
from app.queue.process import this_process
from app.settings import Settings
from app.studio import Studio, open_studio
from app.ui.address import Address
from app.ui.api import clip_json, job_json, state_of
from app.ui.html.gallery import clip_html
from app.ui.html.queue import queue_html
from app.ui.html.status import stage_html
from engine.errors import InvalidRequest
from engine.interpolate.plan import plan_interpolation
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import Origin
from engine.media.probe import probe_video
from engine.request import GenerationRequest
from engine.video.recipe import read_recipe
from tests.fakes import SPEC, FakeEngine, FakeModels

Work = Callable[[], Job | None]


@pytest.fixture
def clip(studio: Studio, work_once: Work) -> Clip:
    studio.submit({"prompt": "a red ball", "seed": 7})
    done = work_once()
    assert done is not None and done.clip_id is not None
    return studio.clip(done.clip_id)


def made(studio: Studio, work_once: Work, clip: Clip, **wish: float) -> Clip:
    job = studio.interpolations.submit(clip.id, **wish)  # type: ignore[arg-type]
    done = work_once()
    assert done is not None and done.id == job.id and done.state is JobState.DONE, done
    return studio.clip(done.clip_id or "")


def test_a_smoother_clip_with_lineage_and_recipe(studio: Studio, work_once: Work, clip: Clip) -> None:
    smooth = made(studio, work_once, clip, fps=24)
    assert (smooth.frames, smooth.fps, smooth.made_from, smooth.project_id) == (27, 24.0, clip.id, clip.project_id)
    assert (smooth.prompt, smooth.seed, smooth.name) == ("a red ball", 7, "a red ball (24 fps)")
    assert smooth.model == "motion interpolation" and smooth.recipe["label"] == "motion interpolation, not generation"
    assert [c.id for c in studio.lineage(smooth.id)[0]] == [clip.id] and [c.id for c in studio.lineage(clip.id)[1]] == [smooth.id]
    facts = probe_video(studio.clip_path(smooth.id))
    assert (facts.frames, facts.fps) == (27, 24.0)
    told = read_recipe(studio.clip_path(smooth.id))
    assert told == {name: value for name, value in smooth.recipe.items() if name not in ("seconds", "peak_bytes")}
    assert read_sidecar(studio.settings.media_dir, (studio.settings.media_dir / smooth.file).with_suffix(".json")) == smooth
    assert {c.id for c in studio.clips(ClipQuery(words="red ball")).clips} == {clip.id, smooth.id}


def test_a_file_that_may_be_given_away_does_not_say_where_the_model_lies(studio: Studio, work_once: Work, clip: Clip) -> None:
    job, video = studio.interpolations.submit(clip.id, fps=24), studio.clip_path(clip.id)
    request = InterpolateRequest(video="0" * 64 + ".mp4", fps=24)
    plan = plan_interpolation(request, probe_video(video))
    parent = replace(clip, model="/home/anna/models/Ours")
    assert Interpolation(job, request, plan, parent, True).recipe["source"]["model"] == "Ours"
    old = {"source": {"title": "x", "model": "/home/anna/models/Ours"}, "request": request.to_json()}
    assert Interpolation(job, request, plan, replace(parent, recipe=old), True).recipe["source"]["model"] == "Ours"
    assert public_view(parent).model == "Ours"


def test_frames_are_generated_by_the_folder_that_the_history_knows(studio: Studio, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(studio, "clip", lambda clip_id, owner: replace(clip, model="/home/anna/models/Ours"))
    monkeypatch.setattr(studio, "spec", lambda name: asked.append(name) or SPEC)
    for told in ("Ours", "pocket"):  # a name of this machine stands for itself
        monkeypatch.setattr("app.interpolation.origin_of", lambda facts, told=told: Origin(told, "a red ball", 7))
        with pytest.raises(InvalidRequest, match="stage-two weights"):
            studio.interpolations.forecast(clip.id, slow=2, method="generate")
    assert asked == ["/home/anna/models/Ours", "pocket"]


def test_a_clip_smoothed_twice_still_knows_its_words(studio: Studio, work_once: Work, clip: Clip) -> None:
    again = made(studio, work_once, made(studio, work_once, clip, fps=16), slow=2)
    assert (again.prompt, again.seed, again.recipe["source"]["model"]) == ("a red ball", 7, "pocket")
    assert [c.id for c in studio.lineage(again.id)[0]][-1] == clip.id
    forecast = studio.interpolations.forecast(clip.id, fps=24)
    assert forecast.basis == "from 2 made on this machine" and forecast.seconds


def test_the_history_can_be_made_again_from_the_files(studio: Studio, work_once: Work, clip: Clip, settings: Settings) -> None:
    smooth = made(studio, work_once, clip, fps=24)
    (settings.media_dir / smooth.file).with_suffix(".json").unlink()
    studio.close()
    assert rebuild(settings) == 2
    again = open_studio(settings)
    try:
        found = again.clip(smooth.id)
        assert (found.name, found.prompt, found.model, found.seed, found.made_from) == (
            smooth.name, smooth.prompt, smooth.model, smooth.seed, clip.id)
    finally:
        again.close()


def test_a_job_whose_clip_was_deleted_by_hand_still_has_a_state(studio: Studio, clip: Clip, settings: Settings) -> None:
    assert state_of(studio, clip.job_id)["clip"]["prompt"] == "a red ball"
    for path in settings.media_dir.glob("*/*.*"):
        path.unlink()
    studio.close()
    rebuild(settings)
    with contextlib.closing(open_studio(settings)) as again:
        told = state_of(again, clip.job_id)
    assert (told["state"], told["clip"]) == ("done", None)


def test_a_repeat_is_answered_whatever_the_clip_is_called_now(studio: Studio, clip: Clip) -> None:
    first = studio.interpolations.submit(clip.id, fps=24, idempotency_key="k")
    studio.rename(clip.id, "another name")
    assert studio.interpolations.submit(clip.id, fps=24, idempotency_key="k") == first


def test_a_model_that_makes_the_frames_is_in_use(studio: Studio, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.interpolations.submit(clip.id, fps=24)
    assert studio.store.jobs.models_in_use() == ()
    plan = studio._planned(GenerationRequest(prompt="a ball"))
    monkeypatch.setattr(studio.interpolations, "plan", lambda _request, known="": plan)
    job = studio.interpolations.submit(clip.id, fps=16, method="generate")
    assert studio.store.jobs.models_in_use() == ("pocket",)
    assert job_title(job).startswith("Smooth to 16 fps: ")  # its row is read all the same
    assert studio.duplicate(job.id).request == job.request


def test_what_is_asked_wrongly_makes_no_job(studio: Studio, clip: Clip, tmp_path: Path) -> None:
    before = len(studio.jobs())
    for wish in ({"fps": 8}, {"fps": 0}, {"fps": float("nan")}, {"fps": 1000}, {}, {"fps": 24, "method": "generate"}):
        with pytest.raises(InvalidRequest):
            studio.interpolations.submit(clip.id, **wish)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        studio.interpolations.submit("0" * 32, fps=24)
    with pytest.raises(InvalidRequest, match="text"):
        text = tmp_path / "words.mp4"
        text.write_text("no video")
        studio.interpolations.submit(text, fps=24)
    with pytest.raises(InvalidRequest, match="not among the inputs"):
        studio.interpolations.submit_input(f"{'0' * 64}.mp4", fps=24)
    assert len(studio.jobs()) == before


def test_an_uploaded_video_is_as_good(studio: Studio, work_once: Work, clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(studio.clip_path(clip.id).read_bytes())
    job = studio.interpolations.submit(path, slow=2)
    assert job_title(job) == "Slow down 2x: holiday.mp4" and job.made_from is None
    done = work_once()
    assert done is not None and studio.clip(done.clip_id or "").name == "holiday.mp4 (2x slower)"


def test_it_cannot_be_remixed_and_says_what_it_is(studio: Studio, work_once: Work, clip: Clip) -> None:
    smooth = made(studio, work_once, clip, fps=24)
    with pytest.raises(InvalidRequest, match="motion interpolation"):
        studio.clip_request(smooth.id)
    page = clip_html(smooth, (clip,), (), "", Address(view="gallery"))
    assert "Starts from" not in page and "Seed of the source" in page
    assert "motion interpolation, not generation" in page and 'data-act="remix"' not in page and "8 fps" in page
    first = clip_html(clip, (), (smooth,), "", Address(view="gallery"))
    assert all(f"Smooth to {fps} fps" in first for fps in (16, 24, 30)) and "Slow down 2x" in first and 'data-act="remix"' in first
    assert "Smooth to 24 fps" not in page and "Smooth to 30 fps" in page  # only what adds frames
    assert clip_json(smooth)["kind"] == "interpolate"
    assert "motion interpolation, not generation" in stage_html(studio.jobs()[0], smooth)


def test_pages_bear_a_recipe_that_was_tampered_with(studio: Studio, work_once: Work, clip: Clip) -> None:
    from dataclasses import replace

    smooth = made(studio, work_once, clip, fps=24)
    for recipe in ({"kind": "interpolate"}, {"kind": 3}, {"kind": "interpolate", "plan": 1, "source": [], "cuts": "x", "request": {}}):
        assert "<article" in clip_html(replace(smooth, recipe=recipe), (), (), "", Address(view="gallery"))


def test_lists_show_it_while_it_waits(studio: Studio, clip: Clip) -> None:
    job = studio.interpolations.submit(clip.id, fps=24)
    assert (job_title(job), job_what(job), job.kind) == ("Smooth to 24 fps: a red ball", "Motion interpolation", "interpolate")
    page = queue_html([job])
    assert "Smooth to 24 fps: a red ball" in page and "Motion interpolation" in page and "take_back" not in page
    assert job_json(job, None)["title"] == "Smooth to 24 fps: a red ball"
    assert "Motion interpolation, not generation" in stage_html(job)
    with pytest.raises(NotAllowed):
        studio.take_back(job.id)
    assert studio.duplicate(job.id).request == job.request
    assert studio.interpolations.submit(clip.id, fps=30, idempotency_key="k") == studio.interpolations.submit(
        clip.id, fps=30, idempotency_key="k")


def _run_and_die(settings: Settings) -> None:
    studio = open_studio(settings)
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    perform(Workplace(settings, studio.store, FakeEngine(), FakeModels(), threading.Event()), claim)


@pytest.mark.parametrize("point", ["before_finalizing", "sidecar", "published"])
def test_killed_while_publishing_it_is_published_once(studio: Studio, work_once: Work, clip: Clip, monkeypatch: pytest.MonkeyPatch,
                                                      point: str) -> None:
    job = studio.interpolations.submit(clip.id, fps=24)
    final = studio.settings.media_dir / clip_file(job)
    monkeypatch.setenv("CRASH_AT", point)
    process = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(studio.settings,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and final.exists() is (point == "published")
    monkeypatch.delenv("CRASH_AT")
    studio.store.leases.reap(now=time.time(), limits=Limits(3, 25))
    done = work_once()
    assert done is not None and done.state is JobState.DONE and studio.clips().total == 2
    if point != "published":  # all pieces were there
        assert done.resumed_from == 27
    assert [path.name for path in studio.settings.media_dir.glob("*/*interpolate*.mp4")] == [final.name]


def test_cancelled_it_leaves_nothing(studio: Studio, work_once: Work, clip: Clip) -> None:
    job = studio.interpolations.submit(clip.id, slow=16, fps=120)
    worker = threading.Thread(target=work_once)
    worker.start()
    while studio.job(job.id).stage != "interpolate":
        time.sleep(0.005)
    studio.cancel(job.id)
    worker.join()
    assert studio.job(job.id).state is JobState.CANCELLED and studio.clips().total == 1
    assert not list(studio.settings.data_dir.rglob("*.part")) and not (studio.settings.job_dir(job.id) / "work").exists()


def test_the_command_line(studio: Studio, clip: Clip, said: Callable[..., dict], tmp_path: Path) -> None:
    out = tmp_path / "smooth.mp4"
    answer = said(clip.id, "--fps", "24", "--method", "flow", "--out", str(out))
    assert (answer["code"], answer["frames"], answer["fps"]) == (0, 27, 24.0) and probe_video(out).frames == 27
    assert answer["recipe"]["made_from"] == clip.id and "not generation" in answer["notes"][0]
    assert said(str(out), "--slow", "2")["frames"] == 54
    for words, field in ((("--fps", "8"), "fps"), (("--fps", "nan"), "fps"), (("--fps", "24", "--method", "generate"), "method"),
                         ((), "fps")):
        refused = said(clip.id, *words)
        assert refused["code"] == 2 and refused["error"]["field"] == field
    assert said("nothing-here", "--fps", "24")["error"]["field"] == "clip"
