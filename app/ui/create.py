"""The Create page: the form, Generate, the forecast, restore from a file.

form -> Generate -> studio.submit -> job id -> the screen (views.stage), redrawn by watch.poll
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.history.records import Job
from app.ui import views
from app.ui.address import Address
from app.ui.form import FIELDS, kept_fields, kept_words, model_field, read_form, show_model, show_request
from app.ui.html.common import button
from app.ui.html.status import forecast_html, notice_html, problem_html, stage_html
from app.ui.parts import OWNER, Changes, Parts, guarded, remembered, tell_end
from engine.errors import InvalidRequest, SprocketError
from engine.request import GenerationRequest

SYNC = "window.sprocket.sync(element); watch('value', () => window.sprocket.sync(element));"
"""Every redraw of such a panel tells `studio.js`."""
EXAMPLES = {
    "bouncing ball": "a red ball bounces over a green meadow",
    "rising star": "a yellow star rises slowly in the night sky",
    "growing heart": "a blue heart grows in a plain studio",
    "spinning ring": "a purple ring spins quickly over the sea",
    "crossing triangle": "an orange triangle moves from left to right in the desert",
    "falling square": "a green square falls in the snow",
}
"""All from the world the embedded model knows."""


def build_form(studio: Any) -> dict[str, Component]:
    """The left column. Returns the components by request field, and `generate`, `dice`, `notice`, `forecast`, `file`."""
    specs = studio.models()
    spec = next((s for s in specs if s.name == "pocket"), specs[0] if specs else None)
    made: dict[str, Component] = {"notice": gr.HTML("", elem_id="notice", apply_default_css=False)}
    made["prompt"] = FIELDS["prompt"].build(spec)
    gr.HTML(_chips(), elem_id="examples", apply_default_css=False)
    made["generate"] = gr.Button("Generate", variant="primary", elem_id="generate", size="lg")
    made["forecast"] = gr.HTML(forecast_html(None), elem_id="forecast", apply_default_css=False, js_on_load=SYNC)
    with gr.Group(elem_classes="settings"):
        with gr.Row():
            made["model"] = model_field([s.name for s in specs], spec.name if spec else None)
            made["frames"] = FIELDS["frames"].build(spec)
        with gr.Row():
            made["steps"] = FIELDS["steps"].build(spec)
            made["guidance"] = FIELDS["guidance"].build(spec)
        with gr.Row(elem_classes="seed-row"):
            made["seed"] = FIELDS["seed"].build(spec)
            made["dice"] = gr.Button("Roll dice", elem_id="dice", size="sm", min_width=60)
    with gr.Accordion("More settings", open=False, elem_id="more"):
        made["negative"] = FIELDS["negative"].build(spec)
        with gr.Row():
            made["width"] = FIELDS["width"].build(spec)
            made["height"] = FIELDS["height"].build(spec)
        made["scheduler"] = FIELDS["scheduler"].build(spec)
    with gr.Row(elem_id="restore-row"):
        made["file"] = gr.UploadButton("Restore settings from a clip…", file_types=[".mp4", ".json"], elem_id="restore", size="sm")
        gr.HTML('<p class="quiet">or drop a Sprocket mp4 anywhere here</p>', elem_id="restore-hint", apply_default_css=False)
    return made


def build_stage() -> Component:
    """The right column."""
    return gr.HTML(stage_html(None), elem_id="stage", apply_default_css=False, js_on_load=SYNC)


def wire(studio: Any, parts: Parts, made: Mapping[str, Component]) -> None:
    """Events of the Create page."""
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    bind = functools.partial(functools.partial, studio=studio, parts=parts)
    generated = made["generate"].click(
        guarded(named(bind(generate))),
        [parts.made_from, parts.kept, parts.ticket, parts.memory],
        parts.outputs(),
        inputs_kwargs=dict(parts.form),
        trigger_mode="once",
        **quiet,
    )
    tell_end(generated, "generate")
    # `prompt` on blur only: a forecast does not depend on it, save for its length.
    changing = [parts.form[name].change for name in ("frames", "steps", "guidance", "width", "height", "scheduler")]
    gr.on(
        [*changing, parts.form["seed"].blur],
        guarded(named(bind(forecast))),
        [parts.kept],
        [parts.forecast],
        inputs_kwargs=dict(parts.form),
        trigger_mode="always_last",
        **quiet,
    )
    parts.form["prompt"].blur(
        guarded(named(bind(forecast_words))),
        [parts.kept],
        [parts.forecast],
        inputs_kwargs=dict(parts.form),
        trigger_mode="always_last",
        **quiet,
    )
    parts.form["model"].input(guarded(named(bind(choose_model))), [parts.form["model"]], list(parts.form.values()), **quiet)
    made["dice"].click(None, None, [parts.form["seed"]], js="() => window.sprocket.dice()", api_visibility="private")
    parts.file.upload(guarded(named(bind(restore_file))), [parts.file], parts.outputs(), **quiet)


def named(handler: functools.partial) -> Any:
    """A partial with the name gradio and the log ask for."""
    functools.update_wrapper(handler, handler.func)
    vars(handler).pop("__wrapped__", None)  # gradio would inspect the full signature, bound arguments included
    return handler


def generate(made_from: Any, kept: Any, ticket: Any, memory: Any, *, studio: Any, parts: Parts, **values: Any) -> Changes:
    """Generate was pressed: queue the job and show it, or say what is wrong where the forecast stands."""
    try:
        project = views.project_of(studio.projects(owner=OWNER), remembered(memory, "project"))
        job = studio.submit(
            read_form(values, kept),
            owner=OWNER,
            project_id=project,
            idempotency_key=ticket or None,
            made_from=made_from or None,
        )
    except SprocketError as error:
        return {parts.forecast: problem(error)}
    shown = show_job(studio, parts, job, memory)
    return shown | {parts.forecast: forecast_markup(studio, values, kept, ahead=False)}  # an earlier problem is solved


def show_job(studio: Any, parts: Parts, job: Job, memory: Any) -> Changes:
    """The Create page with `job` on its screen, in the address and in the browser's memory."""
    here, status = Address(view="create", job=job.id), studio.status()
    return {
        parts.stage: views.stage(studio, job, status),
        parts.header: views.header(studio, here, remembered(memory, "project"), status),
        parts.seen: {"stage": views.stage_token(job, status), "header": views.header_token(here, status)},
        parts.job: job.id,
        parts.at: here.href(),
        parts.timer: gr.Timer(active=True),
        parts.ticket: uuid.uuid4().hex,
        parts.memory: {"project": remembered(memory, "project"), "job": job.id},
    }


def problem(error: SprocketError) -> str:
    """A bad setting as markup, with its way out."""
    if isinstance(error, InvalidRequest):
        return problem_html(str(error), field=error.field if error.field in FIELDS else None, suggestion=error.suggestion)
    return problem_html(str(error))


def forecast(kept: Any, *, studio: Any, parts: Parts, **values: Any) -> Changes:
    """A setting changed: what would it cost now."""
    return {parts.forecast: forecast_markup(studio, values, kept)}


def forecast_words(kept: Any, *, studio: Any, parts: Parts, **values: Any) -> Any:
    """The prompt was left. Left empty, often for Generate: its answer must not be painted over by a forecast."""
    return forecast(kept, studio=studio, parts=parts, **values) if values.get("prompt") else gr.skip()


def forecast_markup(studio: Any, values: Mapping[str, Any], kept: Any = None, *, ahead: bool = True) -> str:
    """The line under the button for what the form says. An empty prompt is not yet a mistake.

    `ahead`: also how many jobs would run before; not right after a submit, where the job itself would be counted.
    """
    try:
        request = read_form({**values, "prompt": values.get("prompt") or "a video"}, kept)
        return forecast_line(studio, request, ahead=ahead)
    except SprocketError as error:
        return problem(error)


def forecast_line(studio: Any, request: GenerationRequest, *, ahead: bool = True) -> str:
    """The forecast for a request; raises what the plan raises."""
    spec = views.spec_of(studio, request.model)
    length = (request.frames or spec.native_frames) / spec.fps if spec else None
    found = studio.forecast(request, owner=OWNER)
    return forecast_html(found if ahead else replace(found, queued_ahead=0), seconds_of_video=length)


def choose_model(model: Any, *, studio: Any, parts: Parts) -> Changes:
    """Another model: its own recommendations. The forecast follows from the changed sliders."""
    return {parts.form[name]: update for name, update in show_model(studio.spec(model)).items()}


def fill(studio: Any, parts: Parts, request: GenerationRequest, notice: str, *, made_from: str = "") -> Changes:
    """The form says `request`; the line above it says why."""
    spec = views.spec_of(studio, request.model)
    if spec is None:
        notice = f"{notice} Its model, {request.model}, is not on this machine: choose another."
    changes: Changes = {parts.form[name]: update for name, update in show_request(request, spec).items()}
    notice += kept_words(request)
    label = "Not a remix" if made_from else "Dismiss" if request.mode == "t2v" else "Without it"
    act = "unremix" if made_from or request.mode != "t2v" else "hush"
    changes |= {parts.notice: notice_html(notice, act=act, label=label), parts.made_from: made_from, parts.kept: kept_fields(request)}
    try:
        changes[parts.forecast] = forecast_line(studio, request)
    except SprocketError as error:
        changes[parts.forecast] = problem(error)
    return changes


def restore_file(path: Any, *, studio: Any, parts: Parts) -> Changes:
    """A clip was dropped: its settings into the form. The upload is deleted at once."""
    file = Path(str(path))
    cleared: Changes = {parts.file: None}
    try:
        request = studio.request_from_file(file)
    except InvalidRequest as error:
        return {parts.notice: notice_html(f"Could not restore: {error}", act="unremix", label="Dismiss"), **cleared}
    finally:
        file.unlink(missing_ok=True)
    return {**fill(studio, parts, request, "Settings restored from your clip."), **cleared}


def _chips() -> str:
    chips = "".join(button(name, "example", kind="chip-btn", name=name) for name in EXAMPLES)
    label = '<span class="quiet" id="examples-label">Try</span>'
    return f'<div class="examples">{label}<div role="group" aria-labelledby="examples-label">{chips}</div></div>'
