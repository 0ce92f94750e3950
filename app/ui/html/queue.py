"""The Queue page: what runs, what waits, what ended."""

from __future__ import annotations

from collections.abc import Sequence

from app.history.records import Job, JobState
from app.queue.kinds import GENERATE, job_title, job_what
from app.ui.html.common import STATE_WORDS, ago, button, duration, empty, esc, facts, left, link, poster_url, short
from app.ui.html.status import STAGE_DOING, WORKER_STARTS, progress

ENDED_SHOWN = 20


def queue_html(
    jobs: Sequence[Job],
    *,
    worker_alive: bool = True,
    worker_message: str | None = None,
    now: float | None = None,
) -> str:
    """All of it, from `Studio.jobs` (running first, then waiting in order, then ended newest first)."""
    running = [job for job in jobs if not job.state.ended and job.state not in (JobState.QUEUED, JobState.PAUSED, JobState.BLOCKED)]
    waiting = [job for job in jobs if job.state in (JobState.QUEUED, JobState.PAUSED, JobState.BLOCKED)]
    ended = [job for job in jobs if job.state.ended][:ENDED_SHOWN]
    if not jobs:
        return '<h1 class="page-title">Queue</h1>' + empty(
            "Nothing in the queue",
            "What you generate waits here, in order, and goes on while this page is closed.",
            action=link("Create a video", "/?view=create", kind="btn primary"),
        )
    parts = [
        '<h1 class="page-title">Queue</h1>',
        _banner(worker_alive, worker_message, bool(running or waiting)),
    ]
    if running:
        parts.append(_group("Running", "".join(_running(job) for job in running)))
    if waiting:
        last = len(waiting) - 1
        parts.append(_group(f"Waiting ({len(waiting)})", "".join(_waiting(job, i, last) for i, job in enumerate(waiting))))
    if not running and not waiting:
        parts.append(
            '<p class="all-done">Nothing runs and nothing waits. ' + link("Create a video", "/?view=create", kind="inline") + "</p>"
        )
    if ended:
        parts.append(_group("Ended", "".join(_ended(job, now) for job in ended)))
    return "".join(parts)


def queue_token(jobs: Sequence[Job], worker_alive: bool) -> str:
    """Changes whenever the page would look different."""
    return f"{worker_alive}|" + ",".join(f"{job.id}:{job.status_seq}:{job.rank}" for job in jobs)


def _banner(worker_alive: bool, worker_message: str | None, anything: bool) -> str:
    if worker_alive or not anything:
        return ""
    return f'<p class="banner" role="status">{esc(worker_message or WORKER_STARTS)}</p>'


def _group(title: str, rows: str) -> str:
    return f'<section class="jobs"><h2>{esc(title)}</h2><ul>{rows}</ul></section>'


def _row(job: Job, *, detail: str, actions: str, extra: str = "") -> str:
    mark = (
        f'<img class="thumb" src="{poster_url(job.clip_id)}" alt="" loading="lazy">'
        if job.clip_id
        else f'<span class="thumb thumb-{job.state.value}" aria-hidden="true"></span>'
    )
    return (
        f'<li class="job job-{job.state.value}" data-id="{job.id}">{mark}<div class="job-text"><p class="job-prompt">'
        f'{esc(short(job_title(job), 140))}</p><p class="job-line">{_kind(job)}<span class="chip chip-{job.state.value}">'
        f'{STATE_WORDS[job.state]}</span> {detail}</p>{extra}</div><div class="job-actions">{actions}</div></li>'
    )


def _kind(job: Job) -> str:
    """What it does, where that is not making a video from a request."""
    return "" if job.kind == GENERATE else f'<span class="chip chip-kind">{esc(job_what(job))}</span> '


def _running(job: Job) -> str:
    step = f"{'frame' if job.stage in ('decode', 'interpolate') else 'step'} {job.step} of {job.steps}" if job.steps else ""
    words = [STAGE_DOING.get(job.stage or "", ""), step, left(job.eta_seconds)]
    bar = f'<div class="bar" aria-hidden="true"><i style="width:{progress(job) * 100:.1f}%"></i></div>'
    watch = link("Watch", f"/?view=create&job={job.id}", kind="btn small")
    stop = button("Cancel", "cancel", kind="small", job=job.id) if job.state is JobState.RUNNING else ""
    return _row(job, detail=esc(" · ".join(word for word in words if word)), actions=watch + stop, extra=bar)


def _waiting(job: Job, index: int, last: int) -> str:
    name = short(job_title(job), 40)
    up = button("↑", "move", kind="small icon", title=f"Move up: {name}", job=job.id, to="up") if index else ""
    down = button("↓", "move", kind="small icon", title=f"Move down: {name}", job=job.id, to="down") if index < last else ""
    top = button("⤒", "move", kind="small icon", title=f"Run next: {name}", job=job.id, to="top") if index > 1 else ""
    edit = button("Edit", "take_back", kind="small", job=job.id, view="create") if job.kind == GENERATE else ""
    rest = button("Duplicate", "duplicate", kind="small", job=job.id) + button("Cancel", "cancel", kind="small", job=job.id)
    detail = f"{index + 1} in line · {facts(job)}"
    if job.error and job.state is JobState.BLOCKED:
        detail = esc(job.error)
    return _row(job, detail=detail, actions=top + up + down + edit + rest)


def _ended(job: Job, now: float | None) -> str:
    detail = ago(job.finished_at or job.created_at, now)
    if job.state is JobState.DONE and job.started_at and job.finished_at:
        detail += f" · took {duration(job.finished_at - job.started_at)}"
    if job.state is JobState.FAILED and job.error:
        detail += f" · {short(job.error, 220)}"
    actions = (
        ""
        if job.state is JobState.DONE and not job.clip_id
        else link("Open", f"/?view=gallery&clip={job.clip_id}", kind="btn small")
        if job.clip_id
        else button("Try again", "retry", kind="small", job=job.id)
    )
    again = button("Duplicate", "duplicate", kind="small", job=job.id)
    return _row(job, detail=esc(detail), actions=actions + again)
