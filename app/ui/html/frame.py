"""The frame around the pages: name, navigation, projects, light or dark."""

from __future__ import annotations

from collections.abc import Sequence

from app.history.records import Project
from app.ui.address import Address
from app.ui.html.common import button, esc, short

PAGES = (("create", "Create"), ("queue", "Queue"), ("gallery", "Gallery"), ("train", "Train"), ("models", "Models"))


def header_html(
    at: Address,
    projects: Sequence[Project],
    current: str,
    *,
    busy: int = 0,
    blocked: str | None = None,
    message: str | None = None,
    account: str = "",
) -> str:
    """The bar on top. `busy`: jobs that run or wait; `blocked`: why nothing can be written; `message`: what happened to
    the history, until it is dismissed; `account`: markup for whoever is signed in."""
    links = "".join(_nav(view, word, at, busy) for view, word in PAGES)
    bad = f'<p class="banner bad" role="alert">Nothing can be written: {esc(blocked)}</p>' if blocked else ""
    told = (
        f'<div class="banner told" role="alert"><span>{esc(message)}</span>{button("Dismiss", "dismiss", kind="small")}</div>'
        if message
        else ""
    )
    return (
        f'<div class="top" data-view="{at.view}"><a class="skip" href="#main">Skip to the page</a>'
        '<a class="brand" href="/?view=create" data-act="go"><span class="logo" aria-hidden="true"></span>Sprocket</a>'
        f'<nav class="nav" aria-label="Pages">{links}</nav><div class="top-end">{_projects(projects, current)}{account}'
        '<button type="button" class="btn icon theme" data-act="theme" aria-label="Light or dark" title="Light or dark"></button>'
        f"</div></div>{bad}{told}"
    )


def _nav(view: str, word: str, at: Address, busy: int) -> str:
    here = ' aria-current="page"' if view == at.view else ""
    count = f'<span class="count" title="{busy} running or waiting">{busy}</span>' if view == "queue" and busy else ""
    return f'<a href="/?view={view}" data-act="go" data-page="{view}"{here}>{word}{count}</a>'


def _projects(projects: Sequence[Project], current: str) -> str:
    chosen = next((p for p in projects if p.id == current), None)
    rows = "".join(
        f'<li><button type="button" class="pick{" on" if p.id == current else ""}" data-act="project" data-project="{esc(p.id)}"'
        f"{' aria-current=true' if p.id == current else ''}><span>{esc(short(p.name, 40))}</span>"
        f'<span class="quiet">{p.clips} clip{"" if p.clips == 1 else "s"}</span></button></li>'
        for p in projects
    )
    rename = (
        ""
        if chosen is None
        else (
            f'<form data-act="project_rename" data-project="{esc(chosen.id)}"><label><span class="sr">New name of this project</span>'
            f'<input name="name" value="{esc(chosen.name)}" maxlength="80" required autocomplete="off"></label>'
            '<button class="btn small" type="submit">Rename</button></form>'
        )
    )
    return (
        f'<details class="menu"><summary title="Project"><span class="folder" aria-hidden="true"></span><span class="sr">Project: </span>'
        f'<span class="menu-name">{esc(short(chosen.name if chosen else "Project", 24))}</span></summary>'
        '<div class="menu-box"><h2>Projects</h2>'
        f'<ul>{rows}</ul>{rename}<form data-act="project_new"><label><span class="sr">Name of a new project</span>'
        '<input name="name" placeholder="New project" maxlength="80" required autocomplete="off"></label>'
        '<button class="btn small" type="submit">Make</button></form></div></details>'
    )
