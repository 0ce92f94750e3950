"""The public gallery for programs:

    client.predict("red", 1, api_name="/public_clips")   -> {clips: [...], page, pages, total}: what others have published, and you
    client.predict("<clip id>", api_name="/publish")     -> {id, published_at}; "/unpublish" takes it back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.history.records import ClipQuery
from app.published import PublicClip
from app.ui.html.common import clip_url, poster_url
from app.ui.parts import OWNER
from engine.errors import InvalidRequest

MAX_WORDS = 200


def checked_search(words: Any, page: Any) -> ClipQuery:
    """Raises InvalidRequest."""
    if words is not None and (not isinstance(words, str) or len(words) > MAX_WORDS):
        raise InvalidRequest("words", f"must be text of at most {MAX_WORDS} characters.")
    if page is not None and (isinstance(page, bool) or not isinstance(page, int) or not 1 <= page <= 10**6):
        raise InvalidRequest("page", f"must be a whole number from 1, not {str(page)[:40]!r}.")
    return ClipQuery(words=words or "", page=page or 1)


def public_json(clip: PublicClip) -> dict[str, Any]:
    """One clip as everybody may know it."""
    return {"id": clip.id, "url": clip_url(clip.id), "poster": poster_url(clip.id), "prompt": clip.prompt, "model": clip.model,
            "seed": clip.seed, "width": clip.width, "height": clip.height, "frames": clip.frames, "fps": clip.fps,
            "bytes": clip.size_bytes, "published_at": clip.published_at, "starts_from": list(clip.starts_from), "recipe": clip.recipe}


def gallery_endpoints(studio: Any) -> tuple[Callable[..., dict], ...]:
    """To be registered by `api.add_endpoints`."""

    def public_clips(words: Any = None, page: Any = None) -> dict:
        """Clips that people here have published, newest first, 24 a page; every one of `words` occurs in the prompt."""
        found = studio.published.page(checked_search(words, page))
        return {"clips": [public_json(clip) for clip in found.clips], "page": found.page, "pages": found.pages, "total": found.total}

    def publish(clip_id: Any = None) -> dict:
        """One of your clips becomes public: video, poster, prompt, model and settings. Answers {id, published_at}."""
        clip = studio.published.publish(clip_id, owner=OWNER)
        return {"id": clip.id, "published_at": clip.published_at}

    def unpublish(clip_id: Any = None) -> dict:
        """One of your clips is only yours again. Answers like /publish."""
        clip = studio.published.unpublish(clip_id, owner=OWNER)
        return {"id": clip.id, "published_at": clip.published_at}

    return public_clips, publish, unpublish
