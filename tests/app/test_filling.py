"""Fill between two clips, as a job: lineage to both, a recipe that can be read again, and what is refused before there is a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import NotFound
from app.history.opening import rebuild
from app.history.records import Clip, ClipQuery, Job, JobState
from app.queue.kinds import job_title
from app.settings import Settings
from app.sharing.parts import _only_clips
from app.studio import Studio, open_studio
from app.ui.address import Address
from app.ui.html.fill import fill_html, followers
from app.ui.html.gallery import clip_html
from app.ui.html.keys import hierarchy_html
from app.ui.views import gallery
from engine.errors import InvalidRequest
from engine.interpolate.filling import SAME_RATE
from engine.media.probe import probe_video
from tests.app.test_interpolation import made as smoothed
from tests.engine.media_files import write_video
from tests.fakes import moving_square

Work = Callable[[], Job | None]


def clip_of(studio: Studio, work_once: Work, prompt: str, seed: int) -> Clip:
    studio.submit({"prompt": prompt, "seed": seed})
    done = work_once()
    assert done is not None and done.clip_id is not None
    return studio.clip(done.clip_id)


@pytest.fixture
def pair(studio: Studio, work_once: Work) -> tuple[Clip, Clip]:
    return clip_of(studio, work_once, "a red ball", 7), clip_of(studio, work_once, "a blue star", 8)


def filled(studio: Studio, work_once: Work, first: Clip, second: Clip, between: int | None = None) -> Clip:
    job = studio.interpolations.submit(first.id, then=second.id, between=between)
    assert job_title(job) == "Fill between: a red ball, then a blue star"
    done = work_once()
    assert done is not None and done.state is JobState.DONE, done
    return studio.clip(done.clip_id or "")


def test_one_clip_with_lineage_to_both(studio: Studio, work_once: Work, pair: tuple[Clip, Clip], settings: Settings) -> None:
    first, second = pair
    joined = filled(studio, work_once, first, second)
    assert (joined.frames, joined.fps) == (first.frames + 7 + second.frames, first.fps)
    assert probe_video(studio.clip_path(joined.id)).frames == joined.frames
    assert joined.name == "a red ball, then a blue star (filled between)"
    assert joined.parents == (first.id, second.id) and joined.recipe["also_from"] == second.id
    assert {c.id for c in studio.lineage(joined.id)[0]} == {first.id, second.id}
    for parent in pair:
        assert [c.id for c in studio.lineage(parent.id)[1]] == [joined.id]
    again = smoothed(studio, work_once, joined, fps=24)
    assert [c.id for c in studio.lineage(again.id)[0]] == [joined.id, first.id, second.id]
    (settings.media_dir / joined.file).with_suffix(".json").unlink()
    studio.close()
    rebuild(settings)
    opened = open_studio(settings)
    try:
        found = opened.clip(joined.id)
        assert (found.parents, found.name, found.prompt) == (joined.parents, joined.name, "a red ball")
    finally:
        opened.close()


def test_what_cannot_be_joined_makes_no_job(studio: Studio, work_once: Work, pair: tuple[Clip, Clip], tmp_path: Path) -> None:
    first, second = pair
    faster = smoothed(studio, work_once, second, fps=24)
    small = write_video(tmp_path / "small.mp4", moving_square(5, 32, 48, 3), fps=8)
    before = len(studio.jobs())
    for then, wish, said in ((first.id, {}, "then: is the same clip"), (faster.id, {}, r"then: has 24 frames a second.*Smooth video to 24"),
                             (small, {}, "then: is 48 x 32, and the first one"), (second.id, {"fps": 24.0}, "fps: and slow are for one"),
                             (second.id, {"between": 500}, "between: is 500"), (second.id, {"method": "generate"}, "method: "),
                             (tmp_path / "gone.mp4", {}, "then: ")):
        with pytest.raises(InvalidRequest, match=said):
            studio.interpolations.submit(first.id, then=then, **wish)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="between: says how many frames"):
        studio.interpolations.submit(first.id, fps=24, between=7)
    with pytest.raises(NotFound):
        studio.interpolations.submit(first.id, then="0" * 32)
    with pytest.raises(NotFound):
        studio.interpolations.submit(first.id, then=second.id, owner="somebody")
    assert len(studio.jobs()) == before


def test_a_visitor_names_clips_and_no_files() -> None:
    _only_clips("ab" * 16, None)
    _only_clips("ab" * 16, "cd" * 16)
    for source, then in (("/etc/passwd", None), ("ab" * 16, "/etc/passwd"), ("ab" * 16, Path("/etc/passwd")), (None, None)):
        with pytest.raises(InvalidRequest, match="one of your clips"):
            _only_clips(source, then)


def test_the_clips_page_offers_what_fits(studio: Studio, pair: tuple[Clip, Clip]) -> None:
    first, second = pair
    odd = [replace(second, id="1" * 32, width=2 * second.width), replace(second, id="2" * 32, fps=24.0),
           replace(second, id="3" * 32, missing=True), replace(first, id="4" * 32)]
    assert followers(first, [first, second, *odd]) == [second]
    page = clip_html(first, (), (), "", Address(), fill_html(first, [second]))
    assert f'value="{second.id}"' in page and 'data-act="fill"' in page and f'<option value="7" selected>7 ({7 / first.fps:.1f} s)' in page
    assert "There is no other clip" in fill_html(first, [])
    assert 'value="generate"' not in fill_html(replace(first, model="other", recipe={}), [second])


def test_what_follows_is_searched_for_among_all_clips_of_the_size(studio: Studio, pair: tuple[Clip, Clip]) -> None:
    first, second = pair
    fitting = ClipQuery(second.prompt.upper(), shape=(first.width, first.height), fps=first.fps + SAME_RATE / 2)
    assert [clip.id for clip in studio.clips(fitting).clips] == [second.id]
    for other in (replace(fitting, shape=(first.width, 1)), replace(fitting, fps=first.fps + 1), replace(fitting, words="nowhere")):
        assert studio.clips(other).total == 0
    at = Address(view="gallery", clip=first.id)
    few, found, none = (gallery(studio, at, words) for words in (None, second.prompt, "nowhere <b>"))
    assert 'role="search" data-act="fill_search"' not in few and f'value="{second.id}"' in few
    assert f'value="{second.id}"' in found and '<details class="fill" open>' in found
    assert "has these words" in none and "nowhere &lt;b&gt;" in none and "<b>nowhere" not in none
    assert 'data-act="fill_search"' in fill_html(first, [second], many=True)


def test_a_fade_is_called_one(pair: tuple[Clip, Clip]) -> None:
    recipe = {"kind": "interpolate", "cuts": [1.5], "request": {"then": "x"}}
    assert "one fades into the other" in clip_html(replace(pair[0], recipe=recipe), (), (), "", Address())
    assert "frames hold at 1.50 s" in clip_html(replace(pair[0], recipe={**recipe, "request": {}}), (), (), "", Address())


def test_a_filled_clip_tells_its_rounds(pair: tuple[Clip, Clip]) -> None:
    said = {"sentence": "3 frames between 2 and 2", "key_fps": 8, "key_frames": 4, "stride": 4, "between": [2, 3, 4],
            "levels": [{"fps": 4, "frames": 5, "blocks": 1, "makes": 1}, {"fps": 8, "frames": 7, "blocks": 1, "makes": 2}]}
    text = hierarchy_html(replace(pair[0], frames=7, recipe={"hierarchy": said}))
    keys, first, second = text.split("<li>")[1:]
    assert "Frames of both clips" in keys
    assert [part.count("mark new") for part in (keys, first, second)] == [0, 1, 2]
    assert [part.count("mark old") for part in (keys, first, second)] == [4, 4, 5]


def test_the_command_line(studio: Studio, pair: tuple[Clip, Clip], said: Callable[..., dict], tmp_path: Path) -> None:
    out = tmp_path / "joined.mp4"
    answer = said(pair[0].id, "--then", pair[1].id, "--between", "3", "--out", str(out))
    assert (answer["code"], answer["frames"]) == (0, pair[0].frames + 3 + pair[1].frames) and probe_video(out).frames == answer["frames"]
    assert answer["recipe"]["also_from"] == pair[1].id
    for words, field in ((("--then", "nothing"), "then"), (("--then", pair[0].id), "then"), (("--between", "3"), "between"),
                         (("--then", pair[1].id, "--fps", "16"), "fps")):
        refused = said(pair[0].id, *words)
        assert refused["code"] == 2 and refused["error"]["field"] == field
