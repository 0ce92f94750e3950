"""The public gallery: its tab, a published clip as others see it, what its owner is told, and the page for those not signed in."""

from __future__ import annotations

from collections.abc import Sequence

from app.history.records import Clip
from app.hub.words import amount
from app.published import PublicClip, PublicPage
from app.queue.kinds import GENERATE
from app.ui.address import Address
from app.ui.html.common import ago, button, clip_url, empty, esc, link, poster_url, short
from app.ui.html.loras import told

SHOWN = ("They see the video, its poster, the prompt, the model and the settings, and can download it. They do not see your name, the "
         "clip’s name, its project, or the images and videos it was made from; what such a picture shows is in the video, though.")
LATER = "Unpublish takes it back; what somebody has downloaded stays with them."


def tabs(at: Address) -> str:
    """Between one's own clips and those of all."""
    own, public = Address(view="gallery").href(), Address(view="gallery", public=True).href()
    here = ' aria-current="page"'
    return (f'<nav class="tabs" aria-label="Whose clips"><a href="{esc(own)}" data-act="go"{"" if at.public else here}>Yours</a>'
            f'<a href="{esc(public)}" data-act="go"{here if at.public else ""}>Public</a></nav>')


def publish_html(clip: Clip, *, everybody: bool) -> str:
    """On the owner's page of a clip. `everybody`: people who have not signed in may look, too."""
    who = "Everybody who opens this site, signed in or not," if everybody else "Everybody who signs in here"
    if clip.published_at is not None:
        there = Address(view="gallery", public=True, clip=clip.id).href()
        return (f'<section class="publish on"><p><b>Published {esc(ago(clip.published_at))}.</b> {who} can watch it.</p>'
                f'<div class="publish-row">{button("Unpublish", "unpublish", clip=clip.id)}'
                f'{link("See it as others do", there, kind="inline")}</div></section>')
    return (f'<details class="publish"><summary class="btn small">Publish…</summary><p>{who} can then watch this clip. {SHOWN} {LATER}</p>'
            f'{button("Publish", "publish", kind="primary", clip=clip.id)}</details>')


def public_html(page: PublicPage, at: Address, models: Sequence[str]) -> str:
    """The grid of everybody's published clips."""
    body = f'<ul class="grid">{"".join(_card(clip, at) for clip in page.clips)}</ul>' if page.clips else _nothing(at)
    return f"{_head(page)}{tabs(at)}{_filters(at, models)}{body}{_pages(page, at)}"


def public_clip_html(clip: PublicClip, at: Address, *, own: bool, makes: bool, rules: bool) -> str:
    """One published clip. `own`: it is the visitor's; `makes`: they may make clips; `rules`: they may take down what is another's."""
    actions = button("Remix", "remix_public", kind="primary", clip=clip.id, view="create") if makes and _generated(clip) else ""
    actions += link("Download", clip_url(clip.id) + "?download=1", download=True)
    if own:
        actions += link("Your page of it", Address(view="gallery", clip=clip.id).href())
    elif rules:
        actions += button("Take down", "take_down", kind="quiet-bad", clip=clip.id, sure="Take this clip down?",
                          why="Nobody but its owner sees it any more. The owner can publish it again.", yes="Take it down")
    back = link("← Public", at.href(clip="", view="gallery"), kind="inline")
    return f'<nav class="crumbs" aria-label="Back">{back}</nav>{_article(clip, actions)}'


def stranger_html(page: PublicPage, at: Address) -> str:
    """The whole document with the grid, for people who have not signed in. No script."""
    grid = "".join(_card(clip, at, plain=True) for clip in page.clips)
    body = f'<ul class="grid">{grid}</ul>' if page.clips else _nothing(at, plain=True)
    return _document("Public clips", _head(page) + _filters(at, (), plain=True) + body + _pages(page, at, plain=True))


def stranger_clip_html(clip: PublicClip) -> str:
    """The whole document of one clip, for people who have not signed in."""
    actions = link("Download", clip_url(clip.id) + "?download=1", download=True)
    crumbs = '<nav class="crumbs" aria-label="Back"><a class="inline" href="/public">← Public</a></nav>'
    return _document(short(clip.prompt, 60), crumbs + _article(clip, actions))


def missing_html() -> str:
    """The document where there is nothing: never was, or not any more."""
    return _document("Not here", empty("No such clip", "It was never here, or it is not published any more.",
                                       action='<a class="btn" href="/public">Show what is published</a>'))


def _generated(clip: PublicClip) -> bool:
    return clip.recipe.get("kind", GENERATE) == GENERATE


def _head(page: PublicPage) -> str:
    count = f"{page.total:,} clip{'' if page.total == 1 else 's'}"
    return f'<header class="page-head"><h1 class="page-title">Public clips</h1><span class="quiet">{count}</span></header>'


def _article(clip: PublicClip, actions: str) -> str:
    shape = min(max(clip.width / clip.height, 0.5), 2.4)
    video = (f'<video class="result" src="{clip_url(clip.id)}" poster="{poster_url(clip.id)}" controls autoplay loop muted playsinline '
             f'aria-label="{esc(short(clip.prompt))}"></video>')
    return (f'<article class="clip" data-clip="{clip.id}"><div class="clip-main">'
            f'<div class="screen" style="--shape:{shape:.4f}">{video}</div>'
            f'<div class="actions">{actions}</div></div><div class="clip-side"><h1 class="clip-name">{esc(short(clip.prompt, 120))}</h1>'
            f"{_facts(clip)}</div></article>")


def _facts(clip: PublicClip) -> str:
    request = clip.recipe.get("request", {})
    generated = _generated(clip)
    rows = [
        ("Prompt", clip.prompt),
        ("Made by", "" if generated else clip.recipe.get("label")),
        ("Model", clip.model if generated else ""),
        ("Size", f"{clip.width} × {clip.height}"),
        ("Length", f"{clip.frames} frames, {clip.frames / clip.fps:.1f} s at {clip.fps:g} fps"),
        ("Seed", str(clip.seed) if generated else ""),
        *((label, request.get(name)) for label, name in (("Steps", "steps"), ("Guidance", "guidance"), ("Scheduler", "scheduler"),
                                                         ("Precision", "precision"), ("Reuse between steps", "cache"))),
        ("Starts from", " and ".join(clip.starts_from)),
        ("LoRAs", told(clip.recipe)),
        ("Steer away from", request.get("negative")),
        ("Published", ago(clip.published_at)),
        ("File", amount(clip.size_bytes)),
    ]
    shown = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in rows if value not in (None, ""))
    return f'<dl class="facts">{shown}</dl>'


def _card(clip: PublicClip, at: Address, *, plain: bool = False) -> str:
    there = esc(at.href(view="gallery", clip=clip.id, job=""))
    way = (f'href="/public/{clip.id}"' if plain else
           f'href="{there}" data-act="go" data-clip="{clip.id}" data-play="{clip_url(clip.id)}"')
    return (f'<li><a class="card" {way}><span class="poster"><img src="{poster_url(clip.id)}" alt="" loading="lazy" width="{clip.width}" '
            f'height="{clip.height}"><span class="length">{clip.frames / clip.fps:.1f} s</span></span>'
            f'<span class="card-name">{esc(short(clip.prompt, 60))}</span>'
            f'<span class="card-line">{esc(ago(clip.published_at))}</span></a></li>')


def _filters(at: Address, models: Sequence[str], *, plain: bool = False) -> str:
    options = "".join(f'<option value="{esc(name)}"{" selected" if name == at.model else ""}>{esc(short(name, 40))}</option>'
                      for name in models)
    choice = f'<label><span class="sr">Model</span><select name="model"><option value="">All models</option>{options}</select></label>'
    kept = '<input type="hidden" name="view" value="gallery"><input type="hidden" name="public" value="1">'
    return (f'<form class="filters" role="search" action="{"/public" if plain else "/"}" method="get"'
            f'{"" if plain else " data-act=search"}>{"" if plain else kept}'
            f'<label class="search"><span class="sr">Search prompts</span><input type="search" name="words" value="{esc(at.words)}" '
            f'placeholder="Search prompts" maxlength="200" autocomplete="off"></label>{"" if plain else choice}'
            '<button class="btn small" type="submit">Search</button></form>')


def _nothing(at: Address, *, plain: bool = False) -> str:
    if at.words or at.model:
        href = "/public" if plain else Address(view="gallery", public=True).href()
        way = f'<a class="btn" href="/public">{"Show all clips"}</a>' if plain else link("Show all clips", href)
        return empty("No clip matches", "Take a word away." if plain else "Take a word away, or choose another model.", action=way)
    return empty("Nothing is published yet", "A clip comes here when its owner presses Publish on its page. Nothing comes here by itself.")


def _pages(page: PublicPage, at: Address, *, plain: bool = False) -> str:
    if page.pages <= 1:
        return ""

    def way(label: str, sheet: int) -> str:
        if not 1 <= sheet <= page.pages:
            return f'<span class="btn off" aria-disabled="true">{label}</span>'
        if plain:
            return f'<a class="btn" href="/public{esc(at.href(sheet=sheet)[1:])}">{label}</a>'
        return link(label, at.href(sheet=sheet))

    return (f'<nav class="pages" aria-label="Pages">{way("← Newer", page.page - 1)}<span>Page {page.page} of {page.pages}</span>'
            f'{way("Older →", page.page + 1)}</nav>')


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{esc(title)} · Sprocket</title><link rel="icon" href="/studio/logo.svg" type="image/svg+xml">'
        f'<link rel="stylesheet" href="/studio/style.css"><style>{STYLE}</style></head><body class="public"><header>'
        '<a class="brand" href="/public"><img src="/studio/logo.svg" alt="" width="26" height="26">Sprocket</a>'
        f'<a class="btn small" href="/signin">Sign in</a></header><main>{body}</main></body></html>'
    )


STYLE = """
@media (prefers-color-scheme:dark){body.public{color-scheme:dark;
--sp-bg:#14110e;--sp-surface:#1c1815;--sp-raised:#272119;--sp-field:#171310;
--sp-line:#332b23;--sp-edge:#4c4136;--sp-ink:#f3ebe0;--sp-muted:#b9ab9b;--sp-faint:#8f8273;--sp-accent:#f5aa45;--sp-link:#f8be74;
--sp-glow:rgba(245,170,69,.28)}}
body.public{margin:0;font:16px/1.5
ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
"Liberation Sans",sans-serif}
.public>header,.public>main{box-sizing:border-box;max-width:1320px;margin:0 auto;padding:0 28px}
.public>header{display:flex;align-items:center;justify-content:space-between;min-height:72px}
.public>main{padding-bottom:64px}
@media (max-width:700px){.public>header,.public>main{padding-inline:16px}}
"""
"""Colours of the night as in `assets/style.css`, where a script sets them; here there is none."""
