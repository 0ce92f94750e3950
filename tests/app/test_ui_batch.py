"""Several videos from one press: which requests, all or none, and the tiles that show them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from app.history.records import JobState
from app.ui import views
from app.ui.batch import MOST, MOST_SEEDS, requests_of, submit_all
from app.ui.html.batch import batch_html, batch_token
from app.ui.parts import remembered_batch
from engine.errors import InvalidRequest
from engine.request import MAX_SEED, GenerationRequest
from tests.fakes_studio import FakeStudio

WISH = GenerationRequest(prompt="a red ball\n\n  a blue star  ", seed=7)


def test_seeds_count_up_and_lines_are_prompts() -> None:
    assert requests_of(WISH) == (WISH,)
    assert [(r.prompt, r.seed) for r in requests_of(WISH, 3)] == [(WISH.prompt, 7), (WISH.prompt, 8), (WISH.prompt, 9)]
    open_seed = dataclasses.replace(WISH, seed=None)
    assert [r.seed for r in requests_of(open_seed, 2)] == [None, None]
    lines = requests_of(WISH, 2.0, True)
    assert [(r.prompt, r.seed) for r in lines] == [("a red ball", 7), ("a red ball", 8), ("a blue star", 7), ("a blue star", 8)]


@pytest.mark.parametrize("how_many", [0, MOST_SEEDS + 1, 1.5, float("nan"), True, "2", [1]])
def test_a_wrong_number_is_named(how_many: object) -> None:
    with pytest.raises(InvalidRequest, match=f"1 to {MOST_SEEDS}") as caught:
        requests_of(WISH, how_many)
    assert caught.value.field == "how_many"


def test_too_many_videos_and_too_large_seeds_are_refused() -> None:
    lines = dataclasses.replace(WISH, prompt="\n".join(f"a ball {number}" for number in range(MOST // 4 + 1)))
    with pytest.raises(InvalidRequest, match=f"makes {4 * (MOST // 4 + 1)} videos; at most {MOST}"):
        requests_of(lines, 4, True)
    with pytest.raises(InvalidRequest) as caught:
        requests_of(dataclasses.replace(WISH, seed=MAX_SEED), 2)
    assert (caught.value.field, caught.value.suggestion) == ("seed", MAX_SEED - 1)


def test_a_batch_is_stored_whole_or_not_at_all_and_once(tmp_path: Path) -> None:
    studio = FakeStudio(tmp_path)
    bad = dataclasses.replace(WISH, frames=10)
    with pytest.raises(InvalidRequest, match="frames"):
        submit_all(studio, [WISH, bad], project_id=None, ticket="t", made_from=None)
    assert studio.jobs(owner="local") == ()
    first = submit_all(studio, requests_of(WISH, 3), project_id=None, ticket="t", made_from=None)
    again = submit_all(studio, requests_of(WISH, 3), project_id=None, ticket="t", made_from=None)
    assert [job.id for job in first] == [job.id for job in again] and len(studio.jobs(owner="local")) == 3


def test_tiles_say_where_each_stands(tmp_path: Path) -> None:
    studio = FakeStudio(tmp_path)
    jobs = submit_all(studio, requests_of(WISH, 3), project_id=None, ticket="t", made_from=None)
    assert batch_html(jobs[:1], jobs[0].id) == ""
    html = batch_html(jobs, jobs[1].id)
    assert html.count("<li>") == 3 and html.count('aria-current="true"') == 1 and "0 of 3 videos done" in html
    moved = (dataclasses.replace(jobs[0], state=JobState.RUNNING), *jobs[1:])
    tokens = {batch_token(jobs, jobs[0].id), batch_token(jobs, jobs[1].id), batch_token(moved, jobs[0].id)}
    assert len(tokens) == 3
    evil = tuple(dataclasses.replace(job, request=job.request | {"prompt": '"><img src=x onerror=1>'}) for job in jobs)
    assert "<img src=x" not in batch_html(evil, "")


def test_what_the_browser_remembers_is_checked(tmp_path: Path) -> None:
    studio = FakeStudio(tmp_path)
    jobs = submit_all(studio, requests_of(WISH, 2), project_id=None, ticket="t", made_from=None)
    ids = [job.id for job in jobs]
    assert views.batch_jobs(studio, {"batch": ids}, ids[0])[0].id == ids[0]
    found = views.batch_jobs(studio, {"batch": [*ids, "no-such", 5, "x" * 100]}, ids[1])
    assert [job.id for job in found] == ids
    assert views.batch_jobs(studio, {"batch": ids}, "another") == ()
    for memory in (None, 5, {"batch": "abc"}, {"batch": {"a": 1}}, {}):
        assert remembered_batch(memory) == ()
