"""Keeping a page true: what it shows when it opens, and what changes while it is open.

    attach(address, memory)   load, reload, second tab: ?job=, else the browser's memory, else the owner's newest active job
    poll(...)                 every half second while something can change; sends nothing when nothing did

All state is in the history; a page holds only tokens of what it has already drawn.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import gradio as gr

from app.history.records import Job
from app.queue.kinds import GENERATE
from app.ui import create, train, views
from app.ui.address import Address
from app.ui.form import kept_fields, show_request
from app.ui.html.queue import queue_token
from app.ui.length import seconds_of, timeline
from app.ui.loras import lora_panel
from app.ui.parts import OWNER, Changes, Parts, remembered
from app.ui.refine import poll_token, refine_panel, restored
from app.ui.source import panel
from engine.errors import InvalidRequest
from engine.request import GenerationRequest

POLL_SECONDS = 0.5
FRESH_SECONDS = 3600.0
"""A job that ended so recently is still shown to the browser that asked for it."""


def attach(memory: Any, request: gr.Request, *, studio: Any, parts: Parts) -> Changes:
    """A page has opened at the address in `request`."""
    at = Address.of(dict(request.query_params)) if request is not None else Address()
    job, status = job_to_show(studio, at, memory), studio.status()
    stage = views.stage(studio, job, status)
    tiles, token = views.batch(views.batch_jobs(studio, memory, job.id if job else ""), job.id if job else "")
    if at.job and job is None:
        stage = stage.replace("Nothing is running", "That job is not here")
    changes: Changes = {
        parts.header: views.header(studio, at, remembered(memory, "project"), status),
        parts.stage: stage,
        parts.batch: tiles,
        parts.job: job.id if job else "",
        parts.at: at.href(),
        parts.seen: {"stage": views.stage_token(job, status), "header": views.header_token(at, status), "batch": token},
        parts.ticket: uuid.uuid4().hex,
        parts.timer: gr.Timer(active=True),
        **first_costs(studio, parts),
    }
    names = views.model_names(studio)  # one may have come since the page was built
    changes[parts.form["model"]] = gr.update(choices=names)
    changes[parts.loras] = lora_panel(studio, "pocket" if "pocket" in names else next(iter(names), None), {})
    if job is not None:
        changes |= form_of(studio, parts, job)
        chosen = {"value": job.request["model"]} if job.request.get("model") in names else {}
        changes[parts.form["model"]] = gr.update(choices=names, **chosen)
    if at.view == "models":
        changes[parts.models] = views.models(studio)
    if at.view == "train":
        changes[parts.train] = train.panel(studio, at)
    if at.view == "gallery":
        changes[parts.gallery] = views.gallery(studio, at)
    if at.view == "queue":
        changes[parts.queue] = views.queue(status, views.queue_jobs(studio))
    return changes


def form_of(studio: Any, parts: Parts, job: Job) -> Changes:
    """The form as it was when the job on the screen was asked for. The seed stays open: it was drawn for that job."""
    if job.kind != GENERATE:
        return {}
    try:
        request = GenerationRequest.from_mapping(job.request | {"seed": None})
    except InvalidRequest:
        return {}
    updates = show_request(request, views.spec_of(studio, request.model))
    kept = {**kept_fields(request), **restored(request)}
    return {**{parts.form[name]: update for name, update in updates.items()}, parts.kept: kept,
            parts.source: panel(studio, request.to_json(), kept), parts.timeline: timeline(request.to_json(), kept),
            parts.loras: lora_panel(studio, request.model, kept),
            parts.refine: refine_panel(studio, request.to_json(), kept), parts.many["seconds"]: seconds_of(request)}


def job_to_show(studio: Any, at: Address, memory: Any) -> Job | None:
    """The job a page opens with."""
    if at.job:
        return views.find_job(studio, at.job)
    last = views.find_job(studio, remembered(memory, "job"))
    if last is not None and not last.state.ended:
        return last
    fresh = last is not None and time.time() - (last.finished_at or 0.0) < FRESH_SECONDS
    return studio.current_job(owner=OWNER) or (last if fresh else None)


def found_again(data: Any, memory: Any, *, studio: Any) -> tuple[str, str]:
    """(job, address) of a page that the server has forgotten, as it was started again: the browser's own address, told with each tick,
    says what is on the screen."""
    search = data.get("search") if isinstance(data, dict) else None
    at = Address.parse(search)
    job = job_to_show(studio, at, memory)
    return job.id if job else "", at.href()


def first_costs(studio: Any, parts: Parts) -> Changes:
    """For the form as it is built: every value the model's own."""
    specs = studio.models()
    if not specs:
        return {parts.forecast: create.problem_html("No model is on this machine. See `sprocket doctor`.")}
    spec = next((s for s in specs if s.name == "pocket"), specs[0])
    return create.costs(studio, parts, {"model": spec.name}, None)


def poll(job_id: Any, seen: Any, at: Any, memory: Any, kept: Any = None, *, studio: Any, parts: Parts) -> Any:
    """One tick: redraw what changed, `gr.skip()` when nothing did, and stop ticking when nothing can change."""
    seen = dict(seen) if isinstance(seen, dict) else {}
    place, status, changes = Address.parse(at), studio.status(), Changes()

    def changed(name: str, token: str) -> bool:
        different = seen.get(name) != token
        seen[name] = token
        return different

    job = views.find_job(studio, job_id if isinstance(job_id, str) else "")
    if job is not None and changed("stage", views.stage_token(job, status)):
        changes[parts.stage] = views.stage(studio, job, status)
    if job is not None and place.view == "create":
        tiles, token = views.batch(views.batch_jobs(studio, memory, job.id), job.id)
        if changed("batch", token):
            changes[parts.batch] = tiles
    refining = poll_token(studio, kept)
    if refining and changed("refine", refining):
        changes[parts.refine] = refine_panel(studio, {}, kept)
    if place.view == "queue":
        jobs = views.queue_jobs(studio)
        if changed("queue", queue_token(jobs, status.worker_alive)):
            changes[parts.queue] = views.queue(status, jobs)
    if place.view == "models" and changed("models", studio.hub.token()):
        changes[parts.models] = views.models(studio, seen.get("said"))
    if place.view == "train" and changed("train", train.token(studio, place)):
        changes[parts.train] = train.panel(studio, place, str(seen.get("train said") or ""))
    if changed("header", views.header_token(place, status)):
        changes[parts.header] = views.header(studio, place, remembered(memory, "project"), status)
        if place.view == "gallery" and not place.clip:
            changes[parts.gallery] = views.gallery(studio, place)  # a job began or ended: there may be a new clip
    waits = refining or place.view in ("queue", "models", "train") or status.queued + status.running
    if not waits and (job is None or job.state.ended):
        changes[parts.timer] = gr.Timer(active=False)
    return {**changes, parts.seen: seen} if changes else gr.skip()
