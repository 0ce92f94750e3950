"""What Smooth, Slow down and Fill between do. All of it comes from a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.ui import create, views
from app.ui.parts import OWNER, Changes, remembered
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from app.ui.actions import Click

MAX_WORDS = 200
UPLOADED = "your video"
NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")


def interpolate(click: Click) -> Changes:
    """More frames for a clip, or for a video that was brought in, queued at once; the screen shows the job."""
    wish: dict[str, Any] = {name: _number(name, click.text(name)) for name in ("fps", "slow") if click.text(name)}
    wish["method"] = click.text("method") or "flow"
    if click.text("video"):
        project = views.project_of(click.studio.projects(owner=OWNER), remembered(click.memory, "project"))
        job = click.studio.interpolations.submit_input(click.text("video"), owner=OWNER, title=UPLOADED, project_id=project, **wish)
    else:
        job = click.studio.interpolations.submit(click.text("clip"), owner=OWNER, **wish)
    return create.show_job(click.studio, click.parts, job, click.memory)


def fill(click: Click) -> Changes:
    """Frames between a clip and the one that was chosen to follow it."""
    job = click.studio.interpolations.submit(click.text("clip"), owner=OWNER, method=click.text("method") or "flow",
                                             then=click.text("then"), between=round(_number("between", click.text("between"))))
    return create.show_job(click.studio, click.parts, job, click.memory)


def fill_search(click: Click) -> Changes:
    """Another choice of clips that may follow this one."""
    return {click.parts.gallery: views.gallery(click.studio, click.at, click.text("words")[:MAX_WORDS])}


def _number(name: str, text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InvalidRequest(name, "must be a number.")
    return float(text)


INTERPOLATE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (interpolate, fill, fill_search)
