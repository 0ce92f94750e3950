"""The Gallery page: a grid of posters with search and filters, and one clip's own page."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from app.history.records import Clip, ClipPage, Project
from app.hub.words import amount
from app.queue.kinds import GENERATE, INTERPOLATE
from app.ui.address import Address
from app.ui.html.common import ago, between_words, button, clip_url, duration, empty, esc, kind_of_clip, link, poster_url, short
from app.ui.html.interpolate import interpolate_html
from app.ui.html.keys import hierarchy_html
from app.ui.html.loras import told
from app.ui.html.public import tabs
from app.ui.html.source import extend_html


def gallery_html(page: ClipPage, at: Address, projects: Sequence[Project], models: Sequence[str], *, shared: bool = False) -> str:
    """The grid for the filters in `at`. `shared`: there is a public gallery, too."""
    title = "Trash" if at.trash else "Gallery"
    count = f"{page.total:,} clip{'' if page.total == 1 else 's'}"
    head = f'<header class="page-head"><h1 class="page-title">{title}</h1><span class="quiet">{count}</span></header>'
    body = _grid(page, at) if page.clips else _nothing(at)
    return f"{head}{tabs(at) if shared and not at.trash else ''}{_filters(at, projects, models)}{body}{_pages(page, at)}"


def clip_html(clip: Clip, parents: Sequence[Clip], children: Sequence[Clip], project: str, at: Address, fill: str = "",
              publishing: str = "") -> str:
    """One clip: the video, what to do with it, where it comes from and all that made it. `fill`: markup for what may follow it;
    `publishing`: for who may see it."""
    back = at.href(clip="", view="gallery")
    star = button(
        "★ Favourite" if clip.favourite else "☆ Favourite",
        "favourite",
        kind="on" if clip.favourite else "",
        clip=clip.id,
        value="0" if clip.favourite else "1",
    )
    if clip.trashed_at:
        actions = button("Put back", "untrash", kind="primary", clip=clip.id)
    else:
        actions = (
            (_from_request(clip) if kind_of_clip(clip) == GENERATE else "")
            + ("" if clip.missing else extend_html(clip))
            + star
            + link("Download", clip_url(clip.id) + "?download=1", download=True)
            + button("Move to trash", "trash", kind="quiet-bad", clip=clip.id)
        )
    smooth = "" if clip.trashed_at or clip.missing else interpolate_html(clip) + fill
    video = (
        '<div class="screen-note"><p><b>The file is missing</b></p><p>It was moved or deleted outside Sprocket. '
        "Its settings are still here.</p></div>"
        if clip.missing
        else f'<video class="result" src="{clip_url(clip.id)}" poster="{poster_url(clip.id)}" controls autoplay loop muted '
        f'playsinline aria-label="{esc(short(clip.prompt))}"></video>'
    )
    shape = min(max(clip.width / clip.height, 0.5), 2.4)
    return (
        f'<nav class="crumbs" aria-label="Back">{link("← " + ("Trash" if at.trash else "Gallery"), back, kind="inline")}</nav>'
        f'<article class="clip" data-clip="{clip.id}"><div class="clip-main"><div class="screen" style="--shape:{shape:.4f}">{video}</div>'
        f'<div class="actions">{actions}</div>{smooth}{publishing}</div><div class="clip-side">{_name_form(clip)}'
        f"{_facts(clip, project)}{hierarchy_html(clip)}{_lineage(parents, children)}{_recipe(clip)}</div></article>"
    )


def _from_request(clip: Clip) -> str:
    """What only a clip can be asked that a request for a model made."""
    restore = button("Restore settings", "restore", clip=clip.id, view="create", title="Fill the form with exactly these settings")
    return (button("Remix", "remix", kind="primary", clip=clip.id, view="create")
            + button("Same but new seed", "again", clip=clip.id, view="create") + restore)


def _filters(at: Address, projects: Sequence[Project], models: Sequence[str]) -> str:
    project_options = _options([("", "All projects"), *((p.id, p.name) for p in projects)], at.project)
    model_options = _options([("", "All models"), *((name, name) for name in models)], at.model)
    hidden = '<input type="hidden" name="trash" value="1">' if at.trash else ""
    other = (
        link("Back to the gallery", Address(view="gallery").href(), kind="btn link")
        if at.trash
        else link("Trash", Address(view="gallery", trash=True).href(), kind="btn link")
    )
    return (
        f'<form class="filters" role="search" data-act="search" action="/" method="get">'
        f'<input type="hidden" name="view" value="gallery">{hidden}'
        f'<label class="search"><span class="sr">Search prompts and names</span><input type="search" name="words" value="{esc(at.words)}" '
        f'placeholder="Search prompts and names" maxlength="200" autocomplete="off"></label>'
        f'<label><span class="sr">Project</span><select name="project">{project_options}</select></label>'
        f'<label><span class="sr">Model</span><select name="model">{model_options}</select></label>'
        f'<label class="check"><input type="checkbox" name="favourites" value="1"{" checked" if at.favourites else ""}> Favourites</label>'
        f'<button class="btn small" type="submit">Search</button>{other}</form>'
    )


def _options(choices: Sequence[tuple[str, str]], chosen: str) -> str:
    return "".join(
        f'<option value="{esc(value)}"{" selected" if value == chosen else ""}>{esc(short(label, 40))}</option>' for value, label in choices
    )


def _grid(page: ClipPage, at: Address) -> str:
    return f'<ul class="grid">{"".join(card(clip, at) for clip in page.clips)}</ul>'


def card(clip: Clip, at: Address) -> str:
    """A poster that links to the clip's page; hovering or focusing it plays the clip."""
    star = '<span class="star" title="Favourite">★</span>' if clip.favourite else ""
    gone = '<span class="gone">file missing</span>' if clip.missing else ""
    gone += '<span class="gone">public</span>' if clip.published_at and not clip.missing else ""
    return (
        f'<li><a class="card" href="{esc(at.href(view="gallery", clip=clip.id, job=""))}" data-act="go" data-clip="{clip.id}" '
        f'data-play="{clip_url(clip.id)}">'
        f'<span class="poster"><img src="{poster_url(clip.id)}" alt="" loading="lazy" width="{clip.width}" '
        f'height="{clip.height}">{star}{gone}'
        f'<span class="length">{clip.frames / clip.fps:.1f} s</span></span>'
        f'<span class="card-name">{esc(short(clip.name or clip.prompt, 60))}</span>'
        f'<span class="card-line">{esc(ago(clip.created_at))}</span></a></li>'
    )


def _pages(page: ClipPage, at: Address) -> str:
    if page.pages <= 1:
        return ""
    back = link("← Newer", at.href(sheet=page.page - 1)) if page.page > 1 else '<span class="btn off" aria-disabled="true">← Newer</span>'
    more = (
        link("Older →", at.href(sheet=page.page + 1))
        if page.page < page.pages
        else '<span class="btn off" aria-disabled="true">Older →</span>'
    )
    return f'<nav class="pages" aria-label="Pages">{back}<span>Page {page.page} of {page.pages}</span>{more}</nav>'


def _nothing(at: Address) -> str:
    if at.words or at.project or at.model or at.favourites:
        return empty(
            "No clip matches",
            "Take a word away, or choose other filters.",
            action=link("Show all clips", Address(view="gallery", trash=at.trash).href()),
        )
    if at.trash:
        return empty("The trash is empty", "Clips you delete wait here, and can be put back.")
    return empty(
        "No clips yet",
        "Every video you make is kept here, with the settings that made it.",
        action=link("Create a video", "/?view=create", kind="btn primary"),
    )


def _name_form(clip: Clip) -> str:
    return (
        f'<h1 class="clip-name">{esc(short(clip.name, 120))}</h1><details class="rename"><summary>Rename</summary>'
        f'<form data-act="rename" data-clip="{clip.id}"><label><span class="sr">Name of this clip</span>'
        f'<input name="name" value="{esc(clip.name)}" maxlength="200" required autocomplete="off"></label>'
        '<button class="btn small" type="submit">Save</button></form></details>'
    )


def _facts(clip: Clip, project: str) -> str:
    request = clip.recipe.get("request", {}) if isinstance(clip.recipe, dict) else {}
    seconds = clip.recipe.get("seconds", {}) if isinstance(clip.recipe, dict) else {}
    moved = kind_of_clip(clip) == INTERPOLATE
    source = clip.recipe.get("source") if moved else None
    source = source if isinstance(source, dict) else {}
    rows = [
        ("Prompt", clip.prompt),
        ("Made by", between_words(clip) if moved else ""),
        ("Out of", _source(clip.recipe) if moved else ""),
        ("Scene cuts", _cuts(clip.recipe.get("cuts"), filled=bool(request.get("then"))) if moved else ""),
        ("Model of the source" if moved else "Model", source.get("model") if moved else clip.model),
        ("Size", f"{clip.width} × {clip.height}"),
        ("Length", f"{clip.frames} frames, {clip.frames / clip.fps:.1f} s at {clip.fps:g} fps"),
        ("Seed of the source" if moved else "Seed", source.get("seed") if moved else str(clip.seed)),
        ("Steps", request.get("steps")),
        ("Guidance", request.get("guidance")),
        ("Scheduler", request.get("scheduler")),
        ("Starts from", "" if moved else _start(request)),
        ("Precision", request.get("precision")),
        ("Reuse between steps", request.get("cache")),
        ("LoRAs", told(clip.recipe if isinstance(clip.recipe, dict) else {})),
        ("Steer away from", request.get("negative")),
        ("Project", project),
        ("Made", time.strftime("%d %b %Y, %H:%M", time.localtime(clip.created_at))),
        ("Took", _took(seconds)),
        ("File", amount(clip.size_bytes)),
    ]
    shown = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in rows if value not in (None, ""))
    return f'<dl class="facts">{shown}</dl>'


def _source(recipe: dict) -> str:
    """What the interpolated video was. Recipes come back from files, so any value may be missing or something else."""
    plan = recipe.get("plan")
    rate, slow = (plan.get(name) if isinstance(plan, dict) else None for name in ("source_fps", "slow"))
    if not isinstance(rate, (int, float)) or not isinstance(slow, (int, float)):
        return ""
    return f"{rate:.5g} fps" + (f", slowed down {slow:g} times" if slow > 1 else "")


def _cuts(seconds: object, *, filled: bool) -> str:
    """Where nothing was interpolated; `filled`: between two clips."""
    if not isinstance(seconds, list) or not seconds:
        return ""
    if filled:
        return "no motion leads from one clip to the other; one fades into the other"
    return "frames hold at " + ", ".join(f"{at:.2f} s" for at in seconds[:8] if isinstance(at, (int, float)))


def _start(request: dict) -> str:
    """What the clip was made from besides words."""
    if request.get("given") and request.get("fps") is None and request.get("key_frames") is None:
        count = len(request["given"]) + bool(request.get("image")) if isinstance(request["given"], list) else 0
        return f"{count} frame{'' if count == 1 else 's'} that the model was shown"
    if request.get("image"):
        return "an image, " + ("with bars" if request.get("fit") == "pad" else "filling the frame")
    if request.get("video"):
        return f"a video, strength {request.get('strength')}"
    return ""


def _took(seconds: object) -> str:
    if not isinstance(seconds, dict):
        return ""
    numbers = [value for value in seconds.values() if isinstance(value, (int, float))]
    return duration(sum(numbers)) if numbers else ""


def _lineage(parents: Sequence[Clip], children: Sequence[Clip]) -> str:
    here = Address(view="gallery")
    parts = []
    for title, clips in (("Made from", parents), ("Made into", children)):
        if clips:
            cards = "".join(card(clip, here) for clip in clips)
            parts.append(f'<section class="lineage"><h2>{title}</h2><ul class="grid mini">{cards}</ul></section>')
    return "".join(parts)


def _recipe(clip: Clip) -> str:
    text = json.dumps(clip.recipe, indent=2, ensure_ascii=False, default=str)
    return (
        f'<details class="recipe"><summary>Full recipe</summary><pre tabindex="0">{esc(text)}</pre>'
        f"{button('Copy', 'copy', kind='small')}</details>"
    )
