"""The screen on the Create page: one job, from waiting to playing, always in a box of the same shape.

    stage_html(None)         what to do first
    stage_html(queued)       place in line
    stage_html(running)      preview, film strip, stage, step x of y, time left, Cancel
    stage_html(done, clip)   the video, its facts, Remix / Same but new seed / Download
    stage_html(failed)       what went wrong, Retry

The parts (screen, film strip, caption, actions) are the same elements in every state, so nothing jumps between updates.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.history.records import Clip, Forecast, Job, JobState
from app.hub.words import amount
from app.key_frames import KeyFrame
from app.queue.kinds import GENERATE, INTERPOLATE, job_title
from app.stills import LONGEST, chosen
from app.ui.html import interpolate
from app.ui.html.common import (
    ACTIVE,
    STATE_WORDS,
    button,
    clip_facts,
    clip_url,
    duration,
    esc,
    facts,
    kind_of_clip,
    left,
    link,
    poster_url,
    preview_url,
    short,
    stills_url,
)
from app.ui.html.keys import keys_actions, keys_html
from app.ui.html.source import extend_html

STAGES = (
    ("load", "Load"),
    ("encode", "Read prompt"),
    ("sample", "Imagine"),
    ("decode", "Develop"),
    ("verify", "Check"),
)
STAGE_DOING = {
    "load": "Loading the model",
    "encode": "Reading the prompt",
    "sample": "Imagining the video",
    "decode": "Developing the frames",
    "interpolate": "Moving pixels to the frames between",
    "verify": "Checking the file",
}
SHARES = {
    "load": (0.0, 0.05),
    "encode": (0.05, 0.08),
    "sample": (0.08, 0.8),
    "decode": (0.8, 0.97),
    "interpolate": (0.05, 0.97),
    "verify": (0.97, 1.0),
}

WORKER_STARTS = "The worker is starting. Your job runs as soon as it is there."


def progress(job: Job) -> float:
    """How much of the job is done, 0 to 1; a rough share per stage, exact within it."""
    if job.state is JobState.DONE:
        return 1.0
    if job.state is JobState.FINALIZING:
        return 0.99
    low, high = SHARES.get(job.stage or "", (0.0, 0.0))
    within = min(job.step / job.steps, 1.0) if job.steps else 0.0
    return low + (high - low) * within


def stage_html(
    job: Job | None,
    clip: Clip | None = None,
    *,
    ahead: int = 0,
    blocked: str | None = None,
    preview_frames: int = 0,
    worker_alive: bool = True,
    worker_message: str | None = None,
    keys: Sequence[KeyFrame] = (),
) -> str:
    """The whole screen for `job`. `clip` is its result, `ahead` how many jobs run before it, `blocked` why nothing is
    written at the moment, `keys` the key frames that wait for their owner, `preview_frames` how many pictures stand side by
    side in its preview."""
    if job is None:
        return _frame(
            "idle",
            3 / 2,
            _idle_screen(),
            _strip(None, 0),
            _caption("Nothing is running", "Your video will play here."),
            "",
        )
    shape = _shape(job)
    title = f"{progress(job):.0%} · " if job.state in ACTIVE else ""
    if job.state is JobState.DONE and clip is not None:
        screen = (
            f'<video class="result" src="{clip_url(clip.id)}" poster="{poster_url(clip.id)}" controls autoplay loop '
            f'muted playsinline aria-label="{esc(short(clip.prompt))}"></video>'
        )
        caption = _caption(short(clip.prompt, 120), clip_facts(clip) + _made_in(clip))
        return _frame("done", shape, screen, _stills(clip), caption, _done_actions(clip), job=job.id)
    screen = _screen(job, preview_frames, worker_alive)
    caption = _running_caption(job, ahead, blocked, worker_alive, worker_message)
    if keys:
        caption = _caption("Your key frames", "Make one anew, put an image in its place, or go on.") + keys_html(job, keys)
    actions = keys_actions(job) if keys else _actions(job)
    return _frame(job.state.value, shape, screen, _strip(job, preview_frames), caption, actions, job=job.id, title=title)


def forecast_html(forecast: Forecast | None, *, seconds_of_video: float | None = None, count: int = 1, waits_for: str = "",
                  levels: str = "") -> str:
    """The line under the button, before anything runs: time, memory and where the figures come from.

    `levels`: key frames and rounds in one sentence. `count`: how many such videos are asked for at once. `waits_for`: what must be
    chosen before anything can be said.
    """
    if waits_for:
        words = f"Choose the {waits_for} to start from"
        return f'<div class="forecast" role="status"><p><b>{esc(words)}</b>, then this line says what the video will take.</p></div>'
    if forecast is None:
        return '<p class="forecast" role="status">&nbsp;</p>'
    time = f"about {duration(forecast.seconds * count)}" if forecast.seconds is not None else "time not known yet"
    film = f"{seconds_of_video:.1f} s of video" if seconds_of_video else "Your video"
    film = f"{count} times {film}" if count > 1 else film
    ahead = f", after {forecast.queued_ahead} waiting" if forecast.queued_ahead else ""
    notes = "".join(f"<li>{esc(note)}</li>" for note in forecast.notes)
    more = f"<details><summary>How it will run</summary><ul>{notes}</ul></details>" if notes else ""
    return (
        f'<div class="forecast" role="status"><p><b>{esc(film)}</b> · <b>{esc(time)}</b>{esc(ahead)} · '
        f'{esc(amount(forecast.memory_bytes))} of memory <span class="basis">{esc(forecast.basis)}</span></p>'
        f'{f"<p class=levels>{esc(levels)}</p>" if levels else ""}{more}</div>'
    )


def problem_html(message: str, *, field: str | None = None, suggestion: object = None) -> str:
    """A bad setting, where the forecast stands: what is wrong, and one click to put it right."""
    fix = button(f"Use {suggestion}", "fix", kind="small", field=field, value=suggestion) if suggestion is not None and field else ""
    return f'<div class="forecast problem" role="alert"><p>{esc(message)}</p>{fix}</div>'


def notice_html(text: str, *, act: str = "", label: str = "", href: str = "", link_label: str = "") -> str:
    """A quiet line above the prompt: what the form was filled with. Empty text hides it. `href`: where to go on from here."""
    if not text:
        return ""
    way = link(link_label, href, kind="inline") if href else ""
    return f'<div class="notice" role="status"><span>{esc(text)} {way}</span>{button(label, act, kind="link") if act else ""}</div>'


def _frame(kind: str, shape: float, screen: str, strip: str, caption: str, actions: str, *, job: str = "", title: str = "") -> str:
    return (
        f'<section class="stage stage-{kind}" data-job="{esc(job)}" data-title="{esc(title)}" data-state="{kind}" aria-label="Your video">'
        f'<div class="screen" style="--shape:{shape:.4f}">{screen}</div>{strip}'
        f'<div class="caption" aria-live="polite">{caption}</div><div class="actions">{actions}</div></section>'
    )


def _idle_screen() -> str:
    return (
        '<div class="screen-note"><div class="empty-reel" aria-hidden="true"></div>'
        "<p><b>Type a sentence, then press Generate.</b></p><p>Or try one of the examples.</p></div>"
    )


def _shape(job: Job) -> float:
    width, height = job.request.get("width") or 3, job.request.get("height") or 2
    return min(max(width / height, 0.5), 2.4)


def _screen(job: Job, frames: int, worker_alive: bool) -> str:
    if job.state in (JobState.FAILED, JobState.CANCELLED, JobState.DONE):
        word = {JobState.FAILED: "This one did not work out", JobState.CANCELLED: "Cancelled", JobState.DONE: "Done"}[job.state]
        return f'<div class="screen-note"><p><b>{esc(word)}</b></p></div>'
    if job.preview_seq and frames:
        return (
            f'<div class="reel" style="--n:{frames}"><img src="{preview_url(job)}" alt="Preview of the video as it forms"></div>'
            '<span class="badge">Preview</span>'
        )
    return '<div class="screen-note"><div class="shimmer" aria-hidden="true"></div></div>'


def _strip(job: Job | None, frames: int) -> str:
    """The film below the screen: the preview's frames while it forms, else blank film."""
    film = ""
    if job is not None and job.preview_seq and frames and job.state in ACTIVE:
        film = f'<img src="{preview_url(job)}" alt="">'
    return f'<div class="film" aria-hidden="true">{film}</div>'


def _stills(clip: Clip) -> str:
    """The film of a finished clip: some of its own frames, each cut to its part of the film. Blank below a very long one."""
    if clip.frames > LONGEST:
        return _strip(None, 0)
    count = len(chosen(clip.frames))
    parts = "".join(f'<i style="--k:{part}"><img src="{stills_url(clip.id)}" alt=""></i>' for part in range(count))
    return f'<div class="film" aria-hidden="true" style="--n:{count};--of:{clip.width / clip.height:.4f}">{parts}</div>'


def _caption(title: str, line: str, *, tone: str = "") -> str:
    return f'<p class="caption-title {tone}">{esc(title)}</p><p class="caption-line">{line}</p>'


def _made_in(clip: Clip) -> str:
    seconds = clip.recipe.get("seconds") if isinstance(clip.recipe, dict) else None
    if not isinstance(seconds, dict):
        return ""
    total = sum(value for value in seconds.values() if isinstance(value, (int, float)))
    return esc(f" · made in {duration(total)}")


def _running_caption(job: Job, ahead: int, blocked: str | None, worker_alive: bool, worker_message: str | None) -> str:
    if job.state is JobState.FAILED:
        return _caption(job.error or "It failed without a reason.", facts(job), tone="bad")
    if job.state is JobState.CANCELLED:
        return _caption("Cancelled", "Nothing was saved. Your settings are still in the form.")
    if job.state is JobState.BLOCKED:
        return _caption(
            "Waiting for disk space",
            esc(blocked or job.error or "The disk is full or read-only.") + " Nothing is lost; it goes on by itself.",
            tone="bad",
        )
    if job.state is JobState.PAUSED:
        return _caption("Paused", facts(job))
    if job.state is JobState.CANCELLING:
        return _caption("Stopping…", "It stops after the step it is in.")
    if job.state is JobState.QUEUED and job.kind != GENERATE:
        line = interpolate.job_label(job) if worker_alive else worker_message or WORKER_STARTS
        return _bar(job) + _caption(job_title(job), esc(line))
    if job.state is JobState.QUEUED:
        title = "Next in line" if not ahead else f"Waiting, {ahead} before this one"
        line = facts(job) if worker_alive else esc(worker_message or WORKER_STARTS)
        return _bar(job) + _caption(title if worker_alive else "Waiting for the worker", line)
    doing = "Saving the file" if job.state is JobState.FINALIZING else STAGE_DOING.get(job.stage or "", "Starting")
    unit = "frame" if job.stage in ("decode", "interpolate") else "step"
    counted = job.steps and job.stage in ("sample", "decode", "interpolate")
    step = f"{unit} {job.step} of {job.steps}" if counted and not job.state.ended else ""
    resumed = f"went on from step {job.resumed_from}" if job.resumed_from else ""
    patience = "the first time takes longest" if job.stage == "load" and job.eta_seconds is None else ""
    line = " · ".join(part for part in (step, left(job.eta_seconds), patience, resumed) if part)
    return _bar(job) + _caption(doing, esc(line) or "&nbsp;")


def _bar(job: Job) -> str:
    share = progress(job)
    stages = interpolate.STAGES if job.kind == INTERPOLATE and job.request.get("method") != "generate" else STAGES
    names = [name for name, _ in stages]
    at = names.index(job.stage) if job.stage in names else -1
    marks = "".join(
        f'<li class="{"past" if i < at or job.state is JobState.FINALIZING else "now" if i == at else ""}">{word}</li>'
        for i, (_, word) in enumerate(stages)
    )
    return (
        f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}">'
        f'<i style="width:{share * 100:.1f}%"></i></div><ol class="stages">{marks}</ol>'
    )


def _actions(job: Job) -> str:
    if job.state is JobState.FAILED:
        change = button("Change the settings", "edit", job=job.id) if job.kind == GENERATE else ""
        return button("Try again", "retry", kind="primary", job=job.id) + change
    if job.state is JobState.CANCELLED:
        return button("Start again", "retry", job=job.id)
    if job.state in (JobState.CANCELLING, JobState.FINALIZING, JobState.DONE):
        return f'<span class="quiet">{esc(STATE_WORDS[job.state])}</span>'
    return button("Cancel", "cancel", job=job.id) + link("Show the queue", "/?view=queue", kind="btn link")


def _done_actions(clip: Clip) -> str:
    return (
        (button("Remix", "remix", kind="strong", clip=clip.id) + button("Same but new seed", "again", clip=clip.id)
         if kind_of_clip(clip) == GENERATE else "")
        + extend_html(clip)
        + link("Download", clip_url(clip.id) + "?download=1", download=True)
        + link("Open in gallery", f"/?view=gallery&clip={clip.id}", kind="btn link")
    )
