"""What a clip starts from, above Generate: words alone, an image or a video, shown as it will be fitted.

    source_html(view)     the choice; a place to drop a file, or the file that is there; what is wrong with it
    extend_html(clip)     a slider over a clip's frames, and the way on from the chosen one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from app.history.records import Clip
from app.hub.words import amount
from app.input_view import PICTURES, InputFacts
from app.ui.html.common import button, esc, link, short
from app.ui.html.interpolate import input_html
from app.ui.uploads import MAX_UPLOAD_BYTES
from engine.media.probe import DEFAULT_LIMITS

STARTS = {"t2v": "Words", "i2v": "Image", "v2v": "Video"}
THINGS = {"i2v": "an image", "v2v": "a video"}
ACCEPT = {
    "i2v": "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff,image/avif",
    "v2v": "video/mp4,video/quicktime,video/webm,video/x-matroska,video/x-msvideo,.mkv",
    "any": ".mp4,.json",
}
KINDS = {
    "i2v": f"PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF, up to {DEFAULT_LIMITS.image_bytes >> 20} MB",
    "v2v": f"mp4, mov, webm, mkv or avi, up to {amount(MAX_UPLOAD_BYTES)} and {DEFAULT_LIMITS.video_seconds / 60:g} minutes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceView:
    """All that the panel says."""

    start: str = "t2v"
    """Of STARTS."""
    modes: tuple[str, ...] = ("t2v", "v2v")
    """What the chosen model can do."""
    model: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    """For a start that the model cannot do: an installed model that can."""
    facts: InputFacts | None = None
    problem: str = ""
    width: int = 192
    """Of the clip to be made, pixels."""
    height: int = 128
    frames: int = 25
    fps: float = 8.0
    fit: str = "crop"
    frame_step: int = 8
    """The model makes `frame_step * k + 1` frames."""
    run: tuple[int, int] | None = None
    """Of a video: (steps that are run on it, steps)."""
    extends: str = ""
    """Where the image is from, in words, if it is a frame of a clip."""


def source_html(view: SourceView) -> str:
    """The panel. No text in it is trusted."""
    problem = f'<p class="source-problem" role="alert">{esc(view.problem)}</p>' if view.problem else ""
    body = "" if view.start == "t2v" else _filled(view, view.facts) if view.facts else _drop(view.start)
    has = 1 if view.facts and view.start != "t2v" else 0
    return (
        f'<section class="source" data-start="{view.start}" data-has="{has}" aria-label="Start from">'
        f'<div class="source-head"><span class="source-label" id="source-label">Start from</span>'
        f'<div class="seg" role="group" aria-labelledby="source-label">{"".join(_choice(view, start) for start in STARTS)}</div>'
        f'{_hint(view)}</div>{body}<p class="source-progress" role="status"></p>{problem}</section>'
    )


def _choice(view: SourceView, start: str) -> str:
    can = start in view.modes
    why = f"{view.model} cannot start from {THINGS.get(start, 'words alone')}"
    state = f' aria-pressed="{"true" if view.start == start else "false"}"' + ("" if can else f' disabled title="{esc(why)}"')
    return f'<button type="button" data-act="start" data-mode="{start}"{state}>{STARTS[start]}</button>'


def _hint(view: SourceView) -> str:
    """What the model cannot do, and what can."""
    if "t2v" not in view.modes:
        other = view.others.get("t2v")
        words = f"{esc(short(view.model, 40))} needs an image." if "i2v" in view.modes else f"{esc(short(view.model, 40))} needs a video."
        way = button(f"Use {short(other, 30)} for words", "use_for", kind="link small", mode="t2v", model=other) if other else ""
        return f'<p class="source-hint">{words} {way}</p>'
    if "i2v" not in view.modes:
        other = view.others.get("i2v")
        way = (
            button(f"Use {short(other, 30)} for images", "use_for", kind="link small", mode="i2v", model=other)
            if other
            else link("Models for images", "/?view=models", kind="inline")
        )
        return f'<p class="source-hint">{way}</p>'
    return ""


def _drop(start: str) -> str:
    what = THINGS[start]
    return (
        f'<button type="button" class="dropzone" data-act="choose" data-purpose="input" data-accept="{ACCEPT[start]}">'
        f"<span><b>Drop {what} here</b>, or choose a file</span><small>{KINDS[start]}</small></button>"
    )


def preview_url(view: SourceView, facts: InputFacts) -> str:
    """Changes with all that changes the picture, so that the browser fetches each once."""
    asked = {"width": view.width, "height": view.height, "fit": view.fit}
    asked |= {"frames": view.frames, "fps": f"{view.fps:g}"} if facts.field == "video" else {}
    return f"/media/inputs/{facts.name}.webp?{urlencode(asked)}"


def _filled(view: SourceView, facts: InputFacts) -> str:
    url, shape = esc(preview_url(view, facts)), f"--shape:{min(max(view.width / view.height, 0.4), 3):.4f}"
    alt = f"The {facts.field} as it will be fitted, {view.width} by {view.height} pixels"
    picture = (
        f'<div class="reel" style="--n:{PICTURES}"><img src="{url}" alt="{alt}"></div>'
        if facts.field == "video"
        else f'<img src="{url}" alt="{alt}">'
    )
    again = button(
        "Change…", "choose", kind="small", purpose="input", accept=ACCEPT["v2v" if facts.field == "video" else "i2v"]
    )
    remove = button("Remove", "unsource", kind="link small", title=f"Start without this {facts.field}")
    more = ""
    if facts.field == "video":
        more = (f'<div class="only-frames"><p class="quiet">Or keep it as it is and only add frames:</p>'
                f"{input_html(facts.name, facts.fps)}</div>")
    return (
        f'<div class="source-body"><figure class="fitted" style="{shape}">{picture}</figure>'
        f'<div class="source-side">{_lines(view, facts)}<div class="source-actions">{again}{remove}</div></div>{more}</div>'
    )


def _lines(view: SourceView, facts: InputFacts) -> str:
    title = view.extends or ("The first frame" if facts.field == "image" else "The video to change")
    length = f", {facts.seconds:.1f} s" if facts.field == "video" else ""
    lines = [f'<p class="source-title">{esc(title)}</p>', f"<p>{facts.width:,} × {facts.height:,}{length}{_fitted(view, facts)}</p>"]
    if facts.field == "video":
        there = facts.frames_at(view.fps)
        if there < view.frames:
            lines.append(f'<p class="source-warning">{_too_short(view, there)}</p>')
        elif view.frames / view.fps < facts.seconds - 0.2:
            lines.append(f"<p>Its first {view.frames / view.fps:.1f} s are used</p>")
        if view.run:
            lines.append(f"<p><b>{view.run[0]} of {view.run[1]} steps</b> are run on it</p>")
    if facts.note:
        lines.append(f'<p class="source-warning">{esc(facts.note)}</p>')
    return "".join(lines)


def _fitted(view: SourceView, facts: InputFacts) -> str:
    """What happens to its shape; never stretching."""
    mine, wanted = facts.width / facts.height, view.width / view.height
    if abs(mine / wanted - 1) < 0.01:
        return ""
    if view.fit == "pad":
        return f", with bars {'above and below' if mine > wanted else 'left and right'}"
    lost = 1 - min(mine, wanted) / max(mine, wanted)
    return f", {lost:.0%} cut off {'left and right' if mine > wanted else 'above and below'}"


def _too_short(view: SourceView, there: int) -> str:
    """Also in `engine.media.clip`, after the fact; here before a job waits in vain."""
    fits = (there - 1) // view.frame_step * view.frame_step + 1
    words = f"It gives {there} frames at {view.fps:g} a second, and {view.frames} are asked for."
    if fits <= 1:
        return esc(f"{words} Choose a longer video.")
    return esc(words) + " " + button(f"Use {fits}", "fix", kind="small", field="frames", value=fits)


def extend_html(clip: Clip) -> str:
    """Choose a frame (the video above shows it, see `studio.js`), then go on from it. Frames count from 0, as on the command line."""
    last = clip.frames - 1
    return (
        f'<details class="extend"><summary class="btn">Extend…</summary><form data-act="extend" data-clip="{clip.id}" data-view="create" '
        f'data-fps="{clip.fps:g}"><label><span>From frame <output>{last}</output> (0 to {last})</span>'
        f'<input type="range" name="at" min="0" max="{last}" value="{last}" aria-label="Frame to go on from"></label>'
        '<button class="btn primary" type="submit">Extend from this frame</button></form></details>'
    )
