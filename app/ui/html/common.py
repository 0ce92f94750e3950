"""Small words the other renderers share: escaping, durations, sizes, buttons, links."""

from __future__ import annotations

import html
import math
import time

from app.history.records import Clip, Job, JobState
from app.queue.kinds import GENERATE

STATE_WORDS = {
    JobState.QUEUED: "Waiting",
    JobState.RUNNING: "Running",
    JobState.FINALIZING: "Finishing",
    JobState.DONE: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLING: "Stopping",
    JobState.CANCELLED: "Cancelled",
    JobState.BLOCKED: "Blocked",
    JobState.PAUSED: "Paused",
}
ACTIVE = frozenset(state for state in JobState if not state.ended)


def esc(text: object) -> str:
    """`text` safe between tags and inside a double-quoted attribute."""
    return html.escape(str(text), quote=True)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: '0.4 s', '12 s', '3 min 20 s', '1 h 05 min'; '?' for None or a non-finite number."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def left(seconds: float | None) -> str:
    """Time left, coarse enough not to flicker: 'a few seconds left', 'about 40 s left', '' when not known."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 4:
        return "a few seconds left"
    if seconds < 60:
        return f"about {math.ceil(seconds / 5) * 5} s left"
    if seconds < 3600:
        return f"about {math.ceil(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def ago(at: float, now: float | None = None) -> str:
    """A time in the past: 'just now', '5 min ago', '3 h ago', '2 days ago', else the date."""
    passed = (time.time() if now is None else now) - at
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{int(passed // 60)} min ago"
    if passed < 86_400:
        return f"{int(passed // 3600)} h ago"
    if passed < 7 * 86_400:
        days = int(passed // 86_400)
        return "yesterday" if days == 1 else f"{days} days ago"
    return time.strftime("%d %b %Y", time.localtime(at))


def short(text: str, limit: int = 90) -> str:
    """One line of at most `limit` characters, not yet escaped."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def button(label: str, act: str, *, kind: str = "", title: str = "", **data: object) -> str:
    """A button that `studio.js` relays: `data-act`, and each of `data` as `data-name`."""
    attributes = "".join(f' data-{name.replace("_", "-")}="{esc(value)}"' for name, value in data.items() if value is not None)
    named = f' title="{esc(title)}"' if title else ""
    if title and "icon" in kind.split():
        named += f' aria-label="{esc(title)}"'
    return f'<button type="button" class="btn {kind}" data-act="{act}"{attributes}{named}>{esc(label)}</button>'


def link(label: str, href: str, *, kind: str = "btn", download: bool = False) -> str:
    """A plain link; one that stays in the studio is relayed by its `href`, so that it also opens in a new tab."""
    how = " download" if download else ' data-act="go"'
    return f'<a class="{kind}" href="{esc(href)}"{how}>{esc(label)}</a>'


def empty(title: str, text: str, *, action: str = "") -> str:
    """What a page shows when there is nothing to show: what this place is for, and what to do. `action` is markup."""
    return f'<div class="empty"><div class="empty-reel" aria-hidden="true"></div><h2>{esc(title)}</h2><p>{esc(text)}</p>{action}</div>'


def facts(job_or_request: Job | dict, fps: float | None = None) -> str:
    """The settings in one line: '192 × 128 · 25 frames · 12 steps · seed 7'. Escaped."""
    values = job_or_request.request if isinstance(job_or_request, Job) else job_or_request
    parts = []
    if values.get("width") and values.get("height"):
        parts.append(f"{values['width']} × {values['height']}")
    if values.get("frames"):
        frames = values["frames"]
        parts.append(f"{frames} frames" + (f" ({frames / fps:.1f} s)" if fps else ""))
    if values.get("steps"):
        parts.append(f"{values['steps']} steps")
    if values.get("seed") is not None:
        parts.append(f"seed {values['seed']}")
    if values.get("image") or values.get("video"):
        parts.append("from an image" if values.get("image") else "from a video")
    if values.get("loras"):
        count = len(values["loras"])
        parts.append(f"{count} LoRA{'s' if count > 1 else ''}")
    return esc(" · ".join(parts))


def clip_facts(clip: Clip) -> str:
    """Size, length and seed of a clip in one line. Escaped."""
    made = f"seed {clip.seed}" if kind_of_clip(clip) == GENERATE else f"{clip.fps:g} fps · {between_words(clip)}"
    return esc(f"{clip.width} × {clip.height} · {clip.frames / clip.fps:.1f} s · {made}")


def between_words(clip: Clip) -> str:
    """What made the frames between those of another clip. A recipe comes from a file."""
    request = clip.recipe.get("request")
    generated = isinstance(request, dict) and request.get("method") == "generate"
    return "frames between generated" if generated else "motion interpolation, not generation"


def kind_of_clip(clip: Clip) -> str:
    """The kind of job that made it, `app.queue.kinds`."""
    kind = clip.recipe.get("kind", GENERATE) if isinstance(clip.recipe, dict) else GENERATE
    return kind if isinstance(kind, str) else GENERATE


def clip_url(clip_id: str) -> str:
    return f"/media/clips/{clip_id}.mp4"


def poster_url(clip_id: str) -> str:
    return f"/media/posters/{clip_id}.webp"


def stills_url(clip_id: str) -> str:
    return f"/media/stills/{clip_id}.webp"


def preview_url(job: Job) -> str:
    """Changes with every new preview, so that the browser fetches it once."""
    return f"/media/previews/{job.id}.webp?v={job.attempt}.{job.preview_seq}"
