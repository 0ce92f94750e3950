"""What Publish, Unpublish and Take down do. All of it comes from a browser; whose a clip is and who may is
decided behind `studio`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.ui.parts import OWNER, Changes
from app.ui.views import gallery

if TYPE_CHECKING:
    from app.ui.actions import Click


def publish(click: Click) -> Changes:
    click.studio.published.publish(click.text("clip"), owner=OWNER)
    return _again(click)


def unpublish(click: Click) -> Changes:
    click.studio.published.unpublish(click.text("clip"), owner=OWNER)
    return _again(click)


def take_down(click: Click) -> Changes:
    click.studio.published.take_down(click.text("clip"))
    return _again(click)


def _again(click: Click) -> Changes:
    return {click.parts.gallery: gallery(click.studio, click.at)}


PUBLIC_ACTIONS: tuple[Callable[[Click], Changes], ...] = (publish, unpublish, take_down)
