"""What the buttons and links in the rendered panels do. `assets/studio.js` sends every click as one event:

    {act: 'cancel', job: '...', search: '?view=queue'}  ->  ACTIONS['cancel'](...)  ->  {component: value}

All of it comes from a browser and is untrusted: unknown acts do nothing, ids go to the studio with the owner, and texts are
checked like any other input.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from app.restoring import stand_in_words
from app.ui import create, train, views
from app.ui.address import Address
from app.ui.choices import CHOICE_ACTIONS
from app.ui.dataset import DATASET_ACTIONS
from app.ui.devices import DEVICE_ACTIONS
from app.ui.form import FIELDS
from app.ui.html.common import short
from app.ui.html.status import notice_html
from app.ui.interpolate_actions import INTERPOLATE_ACTIONS
from app.ui.length import LENGTH_ACTIONS
from app.ui.loras import LORA_ACTIONS
from app.ui.model_actions import MODEL_ACTIONS
from app.ui.parts import OWNER, Changes, Parts, remembered, remembered_batch
from app.ui.public_actions import PUBLIC_ACTIONS
from app.ui.refine import REFINE_ACTIONS, reset
from app.ui.source import panel
from app.ui.source_actions import SOURCE_ACTIONS
from engine.errors import InvalidRequest
from engine.request import GenerationRequest

MAX_NAME = 200
SUGGESTED = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Click:
    """One click with all a handler needs."""

    studio: Any
    parts: Parts
    said: Mapping[str, Any]
    """`data-*` of the element, and the fields of a form."""
    at: Address
    job: str
    """The job on the screen."""
    memory: Any
    kept: Mapping[str, Any] = field(default_factory=dict)
    """What the form keeps beside its components."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the form's components say."""

    def text(self, name: str) -> str:
        value = self.said.get(name)
        return value if isinstance(value, str) else ""


def go(click: Click) -> Changes:
    """Show the place in the address: a link was followed, Back was pressed, a search was sent."""
    at, parts, studio = click.at, click.parts, click.studio
    status = studio.status()
    changes: Changes = {
        parts.at: at.href(),
        parts.timer: gr.Timer(active=True),
        parts.header: views.header(studio, at, remembered(click.memory, "project"), status),
        parts.seen: {"header": views.header_token(at, status)},
    }
    if at.view == "gallery":
        changes[parts.gallery] = views.gallery(studio, at)
    elif at.view == "queue":
        changes[parts.queue] = views.queue(status, views.queue_jobs(studio))
    elif at.view == "models":
        changes[parts.models] = views.models(studio)
    elif at.view == "train":
        changes[parts.train] = train.panel(studio, at)
    elif at.job and at.job != click.job:
        job = views.find_job(studio, at.job)
        here = job.id if job else ""
        tiles, token = views.batch(views.batch_jobs(studio, click.memory, here), here)
        changes |= {parts.stage: views.stage(studio, job, status), parts.job: here, parts.batch: tiles}
        changes[parts.seen] |= {"batch": token, "stage": views.stage_token(job, status)}
    return changes


def refresh(click: Click) -> Changes:
    """Redraw where the click came from."""
    changes = go(click)
    if click.at.view == "create":
        job = views.find_job(click.studio, click.job)
        changes[click.parts.stage] = views.stage(click.studio, job, click.studio.status())
    return changes


def cancel(click: Click) -> Changes:
    click.studio.cancel(click.text("job"), owner=OWNER)
    return refresh(click)


def retry(click: Click) -> Changes:
    job = click.studio.retry(click.text("job"), owner=OWNER)
    return create.show_job(click.studio, click.parts, job, click.memory) if click.at.view == "create" else refresh(click)


def duplicate(click: Click) -> Changes:
    click.studio.duplicate(click.text("job"), owner=OWNER)
    return refresh(click)


def move(click: Click) -> Changes:
    where = click.text("to")
    if where not in ("up", "down", "top", "bottom"):
        raise InvalidRequest("to", "must be up, down, top or bottom.")
    click.studio.move(click.text("job"), owner=OWNER, to=where)
    return refresh(click)


def take_back(click: Click) -> Changes:
    """Edit a waiting job: it leaves the queue, its settings come into the form."""
    job = click.studio.job(click.text("job"), owner=OWNER)
    request = click.studio.take_back(job.id, owner=OWNER)
    notice = "Taken out of the queue. Change what you like, then press Generate."
    return go(at_create(click)) | create.fill(click.studio, click.parts, request, notice, made_from=job.made_from or "")


def edit(click: Click) -> Changes:
    """The settings of a failed job into the form."""
    job = click.studio.job(click.text("job"), owner=OWNER)
    request = create.GenerationRequest.from_mapping(job.request)
    return create.fill(click.studio, click.parts, request, "Settings of the job that failed.", made_from=job.made_from or "")


def remix(click: Click) -> Changes:
    clip = click.studio.clip(click.text("clip"), owner=OWNER)
    request = click.studio.clip_request(clip.id, owner=OWNER)
    notice = f"Remixing “{short(clip.name or clip.prompt, 50)}”. Change the words or a setting, then press Generate."
    notice += create.without(click.studio, clip.id)
    return go(at_create(click)) | create.fill(click.studio, click.parts, request, notice, made_from=clip.id)


def remix_public(click: Click) -> Changes:
    """The settings of somebody's published clip into the form. It is no parent: what others made is not one's own lineage."""
    clip = click.studio.published.clip(click.text("clip"))
    request = click.studio.published.request(clip.id)
    notice = f"Settings of “{short(clip.prompt, 50)}”, seed included."
    if clip.starts_from:
        notice += f" It started from {' and '.join(clip.starts_from)}, which its owner keeps: bring your own."
    notice += stand_in_words(clip.recipe, click.studio.models()) + create.gone_words(click.studio.loras.missing(clip.recipe))
    return go(at_create(click)) | create.fill(click.studio, click.parts, request, notice)


def restore(click: Click) -> Changes:
    clip = click.studio.clip(click.text("clip"), owner=OWNER)
    request = click.studio.clip_request(clip.id, owner=OWNER)
    notice = "Settings restored, seed included." + create.without(click.studio, clip.id)
    return go(at_create(click)) | create.fill(click.studio, click.parts, request, notice)


def again(click: Click) -> Changes:
    """Same settings, another seed, queued at once."""
    clip = click.studio.clip(click.text("clip"), owner=OWNER)
    values = click.studio.clip_request(clip.id, owner=OWNER).to_json() | {"seed": None}
    job = click.studio.submit(values, owner=OWNER, project_id=clip.project_id, made_from=clip.id)
    return create.show_job(click.studio, click.parts, job, click.memory)


def unremix(click: Click) -> Changes:
    """No remix any more. What it starts from stays; it has its own button."""
    return {click.parts.notice: notice_html(""), click.parts.made_from: ""}


def hush(click: Click) -> Changes:
    """The line above the prompt was read."""
    return {click.parts.notice: notice_html("")}


def example(click: Click) -> Changes:
    prompt = create.EXAMPLES.get(click.text("name"))
    return {click.parts.form["prompt"]: prompt, **reset(click, prompt)} if prompt else {}


def fix(click: Click) -> Changes:
    """The suggestion of an error message was taken."""
    name, value = click.text("field"), click.text("value")
    if name not in FIELDS:
        return {}
    if SUGGESTED.fullmatch(value):
        shown: Any = value if name in ("seed", "budget") else float(value) if "." in value else int(value)
        update = gr.update(value=shown)
    elif _is_choice(name, value):
        shown, update = value, gr.update(**FIELDS[name].show(value, views.spec_of(click.studio, click.values.get("model"))))
    else:
        return {}
    shown_by_source = panel(click.studio, {**click.values, name: shown}, click.kept)
    return {click.parts.form[name]: update, click.parts.forecast: create.forecast_html(None), click.parts.source: shown_by_source}


def _is_choice(name: str, value: str) -> bool:
    """Is this one of the words that a request takes there: 'auto' for the precision, 'cfg=2,ulysses=1,ring=1' for parallel?"""
    try:
        return name not in ("prompt", "negative") and bool(GenerationRequest.from_mapping({"prompt": "a video", name: value}))
    except InvalidRequest:
        return False


def forecast(click: Click) -> Changes:
    """A job that this tab watched has ended: what it took is known now. Left empty, the line may say so and is kept."""
    return create.costs(click.studio, click.parts, click.values, click.kept) if click.values.get("prompt") else {}


def favourite(click: Click) -> Changes:
    click.studio.set_favourite(click.text("clip"), click.text("value") == "1", owner=OWNER)
    return refresh(click)


def rename(click: Click) -> Changes:
    click.studio.rename(click.text("clip"), _name(click), owner=OWNER)
    return refresh(click)


def trash(click: Click) -> Changes:
    click.studio.trash(click.text("clip"), owner=OWNER)
    return refresh(click)


def untrash(click: Click) -> Changes:
    click.studio.untrash(click.text("clip"), owner=OWNER)
    return refresh(click)


def project(click: Click) -> Changes:
    """Another project: new clips go there."""
    return _with_project(click, views.project_of(click.studio.projects(owner=OWNER), click.text("project")))


def project_new(click: Click) -> Changes:
    return _with_project(click, click.studio.create_project(_name(click), owner=OWNER).id)


def project_rename(click: Click) -> Changes:
    click.studio.rename_project(click.text("project"), _name(click), owner=OWNER)
    return _with_project(click, click.text("project"))


def dismiss(click: Click) -> Changes:
    """The message about a recovered history was read."""
    click.studio.dismiss_recovery_message()
    return refresh(click)


def at_create(click: Click) -> Click:
    """The same click, as if made on Create, with the screen left as it is."""
    return replace(click, at=Address(view="create", job=click.job))


def _with_project(click: Click, project_id: str) -> Changes:
    memory = {"project": project_id, "job": remembered(click.memory, "job"), "batch": list(remembered_batch(click.memory))}
    return refresh(replace(click, memory=memory)) | {click.parts.memory: memory}


def _name(click: Click) -> str:
    name = " ".join(click.text("name").split())
    if not name or len(name) > MAX_NAME:
        raise InvalidRequest("name", f"must have 1 to {MAX_NAME} characters, not {len(name):,}.")
    return name


ACTIONS: Mapping[str, Callable[[Click], Changes]] = {
    handler.__name__: handler
    for handler in (
        go,
        cancel,
        retry,
        duplicate,
        move,
        take_back,
        edit,
        remix,
        remix_public,
        restore,
        again,
        unremix,
        hush,
        example,
        fix,
        forecast,
        favourite,
        rename,
        trash,
        untrash,
        project,
        project_new,
        project_rename,
        dismiss,
        *MODEL_ACTIONS,
        *SOURCE_ACTIONS,
        *train.TRAIN_ACTIONS,
        *DATASET_ACTIONS,
        *LORA_ACTIONS,
        *CHOICE_ACTIONS,
        *DEVICE_ACTIONS,
        *INTERPOLATE_ACTIONS,
        *REFINE_ACTIONS,
        *LENGTH_ACTIONS,
        *PUBLIC_ACTIONS,
    )
}


def act(data: Any, at: Any, job: Any, memory: Any, kept: Any = None, ticket: Any = None, *, studio: Any, parts: Parts,
        values: Mapping[str, Any] | None = None) -> Changes:
    """One event of the relay. The browser's own address counts; the stored one is for events that carry none.

    `ticket`: '' of a page that the server has forgotten, which is then told to it with the answer.
    """
    said = data if isinstance(data, Mapping) else {}
    handler = ACTIONS.get(str(said.get("act")))
    if handler is None:
        return {}
    search = said.get("search")
    place = Address.parse(search if isinstance(search, str) else at)
    beside = kept if isinstance(kept, Mapping) else {}
    before: Changes = {} if ticket != "" else create.renewed(studio, parts, values or {}) | {parts.job: place.job}
    shown = before.get(parts.job, job)
    changes = before | handler(Click(studio, parts, said, place, shown if isinstance(shown, str) else "", memory, beside, values or {}))
    return changes | {parts.seen: changes.get(parts.seen, {}) | {"acted": str(time.monotonic())}}
