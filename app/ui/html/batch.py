"""The videos that one press of Generate asked for, below the screen: a tile each, in the order they run."""

from __future__ import annotations

from collections.abc import Sequence

from app.history.records import Job, JobState
from app.ui.html.common import ACTIVE, STATE_WORDS, esc, poster_url, preview_url, short
from app.ui.html.status import progress


def batch_html(jobs: Sequence[Job], current: str) -> str:
    """`current`: id of the job on the screen. Nothing where there are not several."""
    if len(jobs) < 2:
        return ""
    done = sum(job.state is JobState.DONE for job in jobs)
    tiles = "".join(_tile(job, number, job.id == current) for number, job in enumerate(jobs, 1))
    return (
        f'<section class="batch" aria-label="The videos of this batch"><h2>{done} of {len(jobs)} videos done</h2><ol>{tiles}</ol></section>'
    )


def batch_token(jobs: Sequence[Job], current: str) -> str:
    """Changes when the tiles do: with state, and with progress in steps of a twentieth."""
    return ";".join(f"{job.id}:{job.state.value}:{progress(job) * 20:.0f}:{bool(job.preview_seq)}:{job.id == current}" for job in jobs)


def _tile(job: Job, number: int, here: bool) -> str:
    if job.clip_id and job.state is JobState.DONE:
        picture = f'<img src="{poster_url(job.clip_id)}" alt="">'
    elif job.state in ACTIVE and job.preview_seq:
        picture = f'<img class="forming" src="{preview_url(job)}" alt="">'
    else:
        picture = ""
    bar = f'<i style="width:{progress(job) * 100:.0f}%"></i>' if job.state in ACTIVE else ""
    word = "" if job.state is JobState.DONE else f'<span class="chip chip-{job.state.value}">{esc(STATE_WORDS[job.state])}</span>'
    current = ' aria-current="true"' if here else ""
    prompt = job.request.get("prompt") or ""
    return (
        f'<li><a class="tile tile-{job.state.value}" href="/?view=create&amp;job={esc(job.id)}" data-act="go"{current} '
        f'title="{esc(short(prompt, 120))}"><span class="tile-picture">{picture}{bar}</span>'
        f'<span class="tile-name">{number} · seed {esc(job.request.get("seed"))}{word}</span></a></li>'
    )
