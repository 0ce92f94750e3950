"""What the source panel and Extend do: choose a start, take a file in, go on from a frame. All of it comes from a browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.ui import create, length, views
from app.ui.form import INPUT_OF, START, show_model, start_of
from app.ui.html.common import short
from app.ui.html.status import notice_html
from app.ui.loras import fitting, lora_panel, stack_of, take_lora, untaken_lora
from app.ui.parts import OWNER, Changes
from app.ui.source import EXTENDS, model_for, panel, plainly, settled
from app.ui.uploads import folder_of, uploaded
from engine.errors import InvalidRequest, SprocketError
from engine.media.kinds import HEAD_BYTES, kind_of
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from app.ui.actions import Click

NO_MODEL = {
    "i2v": "No model on this machine starts from an image. The Models page has one to download, such as CogVideoX-5b-I2V.",
    "v2v": "No model on this machine changes videos. The Models page has one to download, such as CogVideoX-2b.",
    "t2v": "No model on this machine makes videos from words alone. The Models page has one to download, such as CogVideoX-2b.",
}
MAX_SAID = 400


def source(click: Click) -> Changes:
    """Something that the panel shows has changed: the size, the fit, the strength; or the model, which changes what may be asked for."""
    changes: Changes = {click.parts.source: panel(click.studio, click.values, click.kept)}
    if click.text("model"):
        changes |= create.costs(click.studio, click.parts, click.values, click.kept)
        changes[click.parts.loras] = lora_panel(click.studio, click.values.get("model"), click.kept)
        changes[click.parts.timeline] = length.timeline(click.values, click.kept, views.spec_of(click.studio, click.values.get("model")))
    return changes


def start(click: Click) -> Changes:
    """Words, Image or Video was chosen. What another start has been given stays for when it is chosen again."""
    mode = click.text("mode")
    return _drawn(click, {**click.kept, START: mode}) if mode in INPUT_OF else {}


def use_for(click: Click) -> Changes:
    """The other model that can start so."""
    mode = click.text("mode")
    spec = views.spec_of(click.studio, click.text("model"))
    if spec is None or mode not in spec.modes:
        return {}
    return _with_model(click, spec, {**click.kept, START: mode})


def unsource(click: Click) -> Changes:
    """Without this image or video; the place to drop one stays."""
    name = INPUT_OF[start_of(settled(click.kept, views.spec_of(click.studio, click.values.get("model"))))]
    left = {key: value for key, value in click.kept.items() if key not in (name, EXTENDS)}
    return {**_drawn(click, left), **_not_extending(click)}


def untaken(click: Click) -> Changes:
    """A file did not get here; the browser says why."""
    if click.text("purpose") == "lora":
        return untaken_lora(click, click.text("say")[:MAX_SAID])
    return {click.parts.source: panel(click.studio, click.values, click.kept, click.text("say")[:MAX_SAID])}


def take(click: Click) -> Changes:
    """A file has come in (`uploads.py`): an image or video to start from, or a clip whose settings are wanted. Gone afterwards."""
    path = uploaded(folder_of(click.studio.settings), click.said.get("upload"))
    if path is None:
        return untaken(_saying(click, "That file is not here any more. Choose it again."))
    try:
        return _taken(click, path, click.text("purpose"))
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def _taken(click: Click, path: Path, purpose: str) -> Changes:
    """`purpose`: 'lora', 'input' (to start from), 'restore' (its settings), else whichever the file is good for."""
    if purpose == "lora":
        return take_lora(click, path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    video = kind_of(head).family == "video"
    if purpose == "restore" or (purpose == "any" and (video or head.lstrip().startswith(b"{"))):
        try:
            path = path.rename(path.with_suffix(".json")) if head.lstrip().startswith(b"{") else path  # an upload has no name
            said = "Settings restored from your clip." + create.without(click.studio, str(path))
            return create.fill(click.studio, click.parts, click.studio.request_from_file(path), said)
        except InvalidRequest as error:
            if purpose == "restore" or not video:
                return {click.parts.notice: notice_html(f"Could not restore: {error}", act="hush", label="Dismiss")}
    if purpose.startswith(("known-", "key-")):
        return _placed(click, path, purpose)
    wanted = INPUT_OF[start_of(click.kept)] if purpose == "input" else ""
    try:
        name = click.studio.add_input(path, field=wanted or None)
        return _start_from(click, name, click.studio.input_facts(name).field)
    except SprocketError as error:
        return untaken(_saying(click, plainly(error)))


def _placed(click: Click, path: Path, purpose: str) -> Changes:
    """An image for a place of the clip, or instead of a key frame."""
    try:
        return length.taken(click, click.studio.add_input(path, field="image"), purpose)
    except SprocketError as error:
        return {click.parts.notice: notice_html(plainly(error), act="hush", label="Dismiss")}


def _start_from(click: Click, name: str, field: str) -> Changes:
    """`name` is what the next clip starts from; with another model where the chosen one cannot."""
    mode = next(mode for mode, of in INPUT_OF.items() if of == field)
    kept = {key: value for key, value in click.kept.items() if key != EXTENDS} | {field: name, START: mode}
    spec = views.spec_of(click.studio, click.values.get("model"))
    changes = _not_extending(click)
    if spec is None or mode in spec.modes:
        return {**_drawn(click, kept), **changes}
    other = model_for(mode, click.studio.models(), like=(spec.native_width, spec.native_height))
    if other is None:
        return untaken(_saying(click, NO_MODEL[mode]))
    said = notice_html(f"{spec.name} cannot start from this, so {other.name} is chosen.", act="hush", label="Dismiss")
    return {**_with_model(click, other, kept), **changes, click.parts.notice: said}


def extend(click: Click) -> Changes:
    """A frame of a clip becomes the first frame of the next one, with the clip's words and the lineage kept."""
    studio, said = click.studio, click.text("at")
    if not (said.isascii() and said.isdigit() and len(said) <= 6):
        raise InvalidRequest("at", "must be the number of a frame, from 0.")
    clip, at = studio.clip(click.text("clip"), owner=OWNER), int(said)
    spec = views.spec_of(studio, click.values.get("model"))
    if spec is None or "i2v" not in spec.modes:
        spec = model_for("i2v", studio.models(), like=(clip.width, clip.height))
    if spec is None:
        return {click.parts.notice: notice_html(NO_MODEL["i2v"], act="hush", label="Dismiss", href="/?view=models", link_label="Models")}
    name = studio.add_frame(clip.id, at, owner=OWNER)
    request = replace(_extending(clip, spec, name), loras=fitting(studio, spec, stack_of(clip.recipe.get("request"))))
    notice = f"Going on from frame {at} of “{short(clip.name or clip.prompt, 50)}”. Say what happens next, then press Generate."
    return create.fill(studio, click.parts, request, notice, made_from=clip.id, beside={EXTENDS: f"Frame {at} of your clip"})


def _extending(clip: Any, spec: Any, image: str) -> GenerationRequest:
    """The clip's words and, where the model can, its size."""
    before = clip.recipe.get("request", {}) if isinstance(clip.recipe, dict) else {}
    sized = not spec.fixed_size and clip.width % spec.size_multiple == 0 and clip.height % spec.size_multiple == 0
    sized = sized and clip.width <= spec.max_width and clip.height <= spec.max_height
    negative = before.get("negative") if isinstance(before.get("negative"), str) else ""
    return GenerationRequest(prompt=clip.prompt, negative=negative or "", model=spec.name, image=image,
                             width=clip.width if sized else None, height=clip.height if sized else None)


def _drawn(click: Click, kept: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Changes:
    said = click.values if values is None else values
    return {click.parts.kept: dict(kept), click.parts.source: panel(click.studio, said, kept),
            **create.costs(click.studio, click.parts, said, kept)}


def _with_model(click: Click, spec: Any, kept: Mapping[str, Any]) -> Changes:
    """Another model, with its own recommendations."""
    shown = show_model(spec)
    values = {**click.values, "model": spec.name, **{name: update["value"] for name, update in shown.items() if "value" in update}}
    changes: Changes = {click.parts.form[name]: update for name, update in shown.items()}
    changes[click.parts.loras] = lora_panel(click.studio, spec.name, kept)
    names = views.model_names(click.studio)  # the page's own list may be older than the model
    return {**changes, click.parts.form["model"]: gr.update(choices=names, value=spec.name), **_drawn(click, kept, values)}


def _not_extending(click: Click) -> Changes:
    """Another image is no frame of that clip: the lineage would be wrong."""
    return {click.parts.made_from: "", click.parts.notice: notice_html("")} if click.kept.get(EXTENDS) else {}


def _saying(click: Click, words: str) -> Click:
    return replace(click, said={**click.said, "say": words})


SOURCE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (source, start, use_for, unsource, untaken, take, extend)
