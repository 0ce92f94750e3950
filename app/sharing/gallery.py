"""The public gallery as one visitor may use it. Its use-cases are the only ones that show anybody what is another's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from app.errors import NotAllowed
from app.sharing.roles import allowed, has_owner
from app.sharing.settings import SharingSettings
from app.sharing.visitor import ANONYMOUS, Role, Visitor

GALLERY_ROLES: Mapping[str, Role | None] = {
    **dict.fromkeys(("page", "clip", "video", "poster"), Role.VIEWER), **dict.fromkeys(("request", "publish", "unpublish"), Role.MAKER),
    "take_down": Role.ADMIN, "forget": None,
}
"""Use-case -> least role; None: not from a page. One that is not named is for admins."""
PATHS = re.compile(r"/public(/[0-9A-Za-z_-]{1,64})?|/media/clips/[0-9a-z]{32}\.mp4|/media/posters/[0-9a-z]{32}\.webp")
"""What people who have not signed in may read where the gallery is open. What is not published is not found there."""
CLOSED = "The gallery of this studio is for people who have signed in."


class OwnedGallery:
    """Stands before `app.published.PublicGallery`. Whoever has not signed in has no part in it unless `open_gallery` says so."""

    def __init__(self, gallery: Any, who: Callable[[], Visitor | None], limits: SharingSettings) -> None:
        self._gallery, self._who, self._limits = gallery, who, limits

    @property
    def visible(self) -> bool:
        """May this visitor look at it?"""
        return not is_stranger(self._who()) or self._limits.open_gallery

    @property
    def open(self) -> bool:
        """May everybody?"""
        return self._limits.open_gallery

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._gallery, name)
        need = GALLERY_ROLES.get(name, Role.ADMIN)

        def call(*args: Any, **kwargs: Any) -> Any:
            visitor = self._who()
            if not self.visible and name != "unpublish":  # what is one's own may be withdrawn whatever the setting became
                raise NotAllowed(CLOSED)
            if visitor is None and need is Role.VIEWER:
                return found(*args, **kwargs)
            visitor = allowed(visitor, need, f"gallery: {name.replace('_', ' ')}")
            if has_owner(found):
                kwargs["owner"] = visitor.owner
            return found(*args, **kwargs)

        return call


def is_stranger(visitor: Visitor | None) -> bool:
    """Has whoever this is not signed in?"""
    return visitor is None or visitor.owner.startswith(ANONYMOUS)
