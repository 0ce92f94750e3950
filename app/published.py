"""The public gallery: clips that others may look at, by their owner's act, and what of them is shown.

    publish, unpublish    the owner
    take_down             whoever runs the studio
    page, clip, video, poster, request    everybody who is let in

Shown are the video, its poster, the prompt, the model and the settings. Never: whose it is, its name, its project, what it was made from
(clips, images, videos), the words before a refinement. Nothing here hands out a `Clip`; what is shown of a recipe is listed, so that a
field that comes later is hidden until somebody lists it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.checked import checked_id
from app.errors import NotFound
from app.history.records import Clip, ClipQuery
from app.history.recovery import write_stale_sidecars
from app.queue.kinds import GENERATE
from app.restoring import request_of
from engine.errors import SprocketError
from engine.request import GenerationRequest
from engine.video.recipe import told

if TYPE_CHECKING:
    from app.studio import Studio

LOCAL = "local"
SHOWN = ("sprocket", "kind", "label", "app_version", "created", "digitalSourceType", "loras")
SHOWN_REQUEST = ("prompt", "negative", "model", "seed", "frames", "width", "height", "steps", "guidance", "scheduler",
                 "guidance_kind", "eta", "loras", "quality", "precision", "cache", "cfg_gate", "key_frames", "fps", "slow",
                 "method", "between", "schema_version")
"""Of a request: what makes the picture, and nothing that came from its owner's disk."""
SHOWN_MODEL = ("name", "family", "fingerprint", "revision")
STARTS = {"image": "an image", "video": "a video", "given": "images along the way"}
"""Fields that name inputs -> what a clip with one starts from."""


@dataclass(frozen=True, slots=True)
class PublicClip:
    """A clip as others see it."""

    id: str
    prompt: str
    model: str
    seed: int
    width: int
    height: int
    frames: int
    fps: float
    size_bytes: int
    published_at: float
    recipe: dict[str, Any]
    """`public_recipe`."""
    starts_from: tuple[str, ...]
    """Kinds of inputs that are not shown, for people."""


@dataclass(frozen=True, slots=True)
class PublicPage:
    clips: tuple[PublicClip, ...]
    page: int
    pages: int
    total: int


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What others may know of a recipe, which may come from a file."""
    request, model = recipe.get("request"), recipe.get("model")
    shown = {name: recipe[name] for name in SHOWN if name in recipe}
    shown["request"] = {name: value for name, value in (request if isinstance(request, dict) else {}).items() if name in SHOWN_REQUEST}
    if isinstance(model, dict):
        shown["model"] = {name: model[name] for name in SHOWN_MODEL if name in model}
    return shown


def public_view(clip: Clip) -> PublicClip:
    """What others may know of a published clip."""
    request = clip.recipe.get("request")
    asked = request if isinstance(request, dict) and clip.recipe.get("kind", GENERATE) == GENERATE else {}
    return PublicClip(
        id=clip.id, prompt=clip.prompt, model=told(clip.model), seed=clip.seed, width=clip.width, height=clip.height, frames=clip.frames,
        fps=clip.fps, size_bytes=clip.size_bytes, published_at=clip.published_at or 0.0, recipe=public_recipe(clip.recipe),
        starts_from=tuple(words for name, words in STARTS.items() if asked.get(name)))


class PublicGallery:
    """The use-cases. Owns nothing; who may call which is decided by `app.sharing.gallery`."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def page(self, query: ClipQuery | None = None) -> PublicPage:
        """Newest first. Words are looked for in prompts alone."""
        found = self._studio.store.published.page(query or ClipQuery())
        return PublicPage(tuple(public_view(clip) for clip in found.clips), found.page, found.pages, found.total)

    def clip(self, clip_id: str) -> PublicClip:
        """Raises NotFound."""
        return public_view(self._get(clip_id))

    def poster(self, clip_id: str) -> Path:
        """WebP. Raises NotFound."""
        return self._there(self._media(self._get(clip_id), ".webp"))

    def video(self, clip_id: str) -> Path:
        """The mp4 with `public_recipe` in it, made at the first call. Raises NotFound, OutputRejected, StorageBlocked."""
        from engine.video.redact import redacted  # Pillow is not needed to start a command
        from engine.video.signing import credentials

        clip = self._get(clip_id)
        copy = self._copy(clip.id)
        if not copy.is_file():
            redacted(self._there(self._media(clip, ".mp4")), copy, public_recipe(clip.recipe), credentials())
        return copy

    def request(self, clip_id: str) -> GenerationRequest:
        """The settings, for making something of one's own. Raises NotFound, InvalidRequest (no model made it)."""
        return request_of(self.clip(clip_id).recipe, self._studio.models())

    def publish(self, clip_id: str, *, owner: str = LOCAL) -> Clip:
        """Raises NotFound, NotAllowed (in the trash, or its file is missing), OutputRejected (the file cannot be shown)."""
        clip = self._saved(self._studio.store.published.publish(checked_id(clip_id, "clip"), owner=owner, now=time.time()))
        try:
            self.video(clip.id)
        except (SprocketError, OSError):
            self.unpublish(clip.id, owner=owner)  # nothing is public that nobody can watch
            raise
        return clip

    def unpublish(self, clip_id: str, *, owner: str = LOCAL) -> Clip:
        """Raises NotFound."""
        return self._gone(self._studio.store.published.unpublish(checked_id(clip_id, "clip"), owner=owner))

    def take_down(self, clip_id: str) -> None:
        """Anybody's. Raises NotFound."""
        self._gone(self._studio.store.published.unpublish(checked_id(clip_id, "clip")))

    def forget(self, clip_id: str) -> None:
        """The copy that others were given is deleted: the clip is not published any more."""
        self._copy(clip_id).unlink(missing_ok=True)

    def _get(self, clip_id: str) -> Clip:
        return self._studio.store.published.get(checked_id(clip_id, "clip"))

    def _gone(self, clip: Clip) -> Clip:
        self.forget(clip.id)
        return self._saved(clip)

    def _saved(self, clip: Clip) -> Clip:
        write_stale_sidecars(self._studio.settings, self._studio.store)
        return clip

    def _media(self, clip: Clip, ending: str) -> Path:
        return (self._studio.settings.media_dir / clip.file).with_suffix(ending)

    def _copy(self, clip_id: str) -> Path:
        return self._studio.settings.data_dir / "published" / f"{clip_id}.mp4"

    def _there(self, path: Path) -> Path:
        if not path.is_file():
            raise NotFound("The file of this clip is not there any more.")
        return path
