"""What Smooth and Slow down do. All of it comes from a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.ui import create
from app.ui.parts import OWNER, Changes
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from app.ui.actions import Click

NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")


def interpolate(click: Click) -> Changes:
    """More frames for a clip, queued at once; the screen shows the job."""
    wish = {name: _number(name, click.text(name)) for name in ("fps", "slow") if click.text(name)}
    job = click.studio.interpolations.submit(click.text("clip"), owner=OWNER, method=click.text("method") or "flow", **wish)
    return create.show_job(click.studio, click.parts, job, click.memory)


def _number(name: str, text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise InvalidRequest(name, "must be a number.")
    return float(text)


INTERPOLATE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (interpolate,)
