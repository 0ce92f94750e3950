"""The Create page: the form, Generate, the forecast, restore from a file.

form -> Generate -> batch.submit_all -> job ids -> the screen (views.stage), redrawn by watch.poll
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from app.history.records import Job
from app.ui import views
from app.ui.address import Address
from app.ui.batch import MOST_SEEDS, requests_of, submit_all
from app.ui.choices import request_of, words_markup
from app.ui.form import FIELDS, WAYS, kept_fields, kept_words, model_field, read_form, show_model, show_request
from app.ui.html.choices import choices_html
from app.ui.html.common import button
from app.ui.html.devices import devices_html
from app.ui.html.source import ACCEPT
from app.ui.html.status import forecast_html, notice_html, problem_html, stage_html
from app.ui.length import lengthened, seconds_of, seconds_slider, timeline
from app.ui.loras import lora_panel
from app.ui.parts import OWNER, Changes, Parts, guarded, remembered, remembered_batch, tell_end, telling
from app.ui.refine import before_generate, checked_wish, refine_panel, restored
from app.ui.source import panel, parent, settled, waits_for
from app.ui.uploads import MAX_UPLOAD_BYTES, too_large
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
    """The left column. Returns the components by request field, and `generate`, `dice`, `notice`, `forecast`, `source`, ..."""
    specs = studio.models()
    spec = next((s for s in specs if s.name == "pocket"), specs[0] if specs else None)
    made: dict[str, Component] = {"notice": gr.HTML("", elem_id="notice", apply_default_css=False)}
    made["prompt"] = FIELDS["prompt"].build(spec)
    with gr.Row(elem_id="refine-row"):
        made["refine"] = gr.HTML(refine_panel(studio, {"model": spec.name if spec else ""}, {}), elem_id="refine", apply_default_css=False,
                                 js_on_load=SYNC)
        made["always_refine"] = gr.Checkbox(label="Always refine", value=False, elem_id="always-refine", min_width=120)
    gr.HTML(_chips(), elem_id="examples", apply_default_css=False)
    first = panel(studio, {"model": spec.name if spec else None}, {})
    made["source"] = gr.HTML(first, elem_id="source", apply_default_css=False, js_on_load=SYNC)
    with gr.Row(elem_id="source-settings"):
        made["fit"] = FIELDS["fit"].build(spec)
        made["strength"] = FIELDS["strength"].build(spec)
    made["generate"] = gr.Button("Generate", variant="primary", elem_id="generate", size="lg")
    made["forecast"] = gr.HTML(forecast_html(None), elem_id="forecast", apply_default_css=False, js_on_load=SYNC)
    with gr.Group(elem_classes="settings"):
        with gr.Row():
            made["model"] = model_field([s.name for s in specs], spec.name if spec else None)
            made["frames"] = FIELDS["frames"].build(spec)
        with gr.Row():
            made["steps"] = FIELDS["steps"].build(spec)
            made["guidance"] = FIELDS["guidance"].build(spec)
        with gr.Row():
            with gr.Row(elem_classes="seed-row"):
                made["seed"] = FIELDS["seed"].build(spec)
                made["dice"] = gr.Button("Roll dice", elem_id="dice", size="sm", min_width=60)
            made["how_many"] = gr.Slider(
                label="How many", minimum=1, maximum=MOST_SEEDS, step=1, value=1, info="each with its own seed", elem_id="how-many",
                buttons=[],
            )
        with gr.Row(elem_id="memory-row"):
            made["profile"] = WAYS["profile"].build(spec)
            made["budget"] = WAYS["budget"].build(spec)
        made["words"] = gr.HTML("", elem_id="words", apply_default_css=False)
        made["choices"] = gr.HTML(choices_html(None), elem_id="choices", apply_default_css=False)
    with gr.Accordion("Length and smoothness", open=False, elem_id="length"):
        with gr.Row():
            made["fps"] = FIELDS["fps"].build(spec)
            made["seconds"] = seconds_slider()
        with gr.Row():
            made["key_frames"] = FIELDS["key_frames"].build(spec)
        made["timeline"] = gr.HTML(timeline({}, {}), elem_id="timeline", apply_default_css=False)
        made["review"] = FIELDS["review"].build(spec)
    made |= _more(studio, spec)
    gr.HTML(_restore(), elem_id="restore-row", apply_default_css=False)
    return made


def _more(studio: Any, spec: Any) -> dict[str, Component]:
    """The folded settings."""
    made: dict[str, Component] = {}
    with gr.Accordion("More settings", open=False, elem_id="more"):
        made["negative"] = FIELDS["negative"].build(spec)
        with gr.Row():
            made["width"] = FIELDS["width"].build(spec)
            made["height"] = FIELDS["height"].build(spec)
        made["per_line"] = gr.Checkbox(label="One video for each line of the prompt", value=False, elem_id="per-line")
        made["scheduler"] = FIELDS["scheduler"].build(spec)
        made["guidance_kind"] = FIELDS["guidance_kind"].build(spec)
        made["eta"] = FIELDS["eta"].build(spec)
        made |= {name: field.build(spec) for name, field in WAYS.items() if name not in ("profile", "budget", "parallel", "cfg_gate")}
        made["cfg_gate"] = WAYS["cfg_gate"].build(spec)
        made["parallel"] = WAYS["parallel"].build(spec)
        made["devices"] = gr.HTML(devices_html(None), elem_id="devices", apply_default_css=False, js_on_load=SYNC)
        stack = lora_panel(studio, spec.name if spec else None, {})
        made["loras"] = gr.HTML(stack, elem_id="loras", apply_default_css=False, js_on_load=SYNC)
    return made


def build_stage() -> tuple[Component, Component]:
    """The right column: the screen, and below it the other videos of a batch."""
    stage = gr.HTML(stage_html(None), elem_id="stage", apply_default_css=False, js_on_load=SYNC)
    return stage, gr.HTML("", elem_id="batch", apply_default_css=False)


QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "preprocess": False}
"""How the page's events run. Without the components' own checks of a value: a click sends the whole form, and what a component refuses
(a clip of 0.75 s beside a slider that begins at 1, a model newer than the page) gradio says nowhere; every click would be lost."""


def wire(studio: Any, parts: Parts, made: Mapping[str, Component]) -> None:
    """Events of the Create page."""
    quiet = QUIET
    bind = functools.partial(functools.partial, studio=studio, parts=parts)
    generated = made["generate"].click(
        telling(named(bind(generate)), parts.forecast, clears=False),
        [parts.made_from, parts.kept, parts.ticket, parts.memory],
        parts.outputs(),
        inputs_kwargs=parts.said(),
        trigger_mode="once",
        **quiet,
    )
    tell_end(generated, "generate")
    # `prompt` on blur only: a forecast does not depend on it, save for its length.
    costly = ("frames", "steps", "guidance", "width", "height", "scheduler", "eta", "strength", "fps", "key_frames", *WAYS)
    changing = [*(parts.form[name].change for name in costly), *(each.change for each in parts.many.values())]
    gr.on(
        [*changing, parts.form["seed"].blur],
        guarded(named(bind(forecast))),
        [parts.kept],
        [parts.forecast, parts.words],
        inputs_kwargs=parts.said(),
        trigger_mode="always_last",
        **quiet,
    )
    parts.form["prompt"].blur(
        guarded(named(bind(forecast_words))),
        [parts.kept],
        [parts.forecast, parts.words],
        inputs_kwargs=parts.said(),
        trigger_mode="always_last",
        **quiet,
    )
    chosen = parts.form["model"].input(guarded(named(bind(choose_model))), [parts.form["model"]], list(parts.form.values()), **quiet)
    # What the source panel shows follows in the page's own line of events, so that no late answer undoes a file just dropped.
    shown = [parts.form[name].input for name in ("frames", "steps", "width", "height", "fit", "strength")]
    chosen.success(None, js="() => window.sprocket.source('chosen')", **quiet)
    gr.on(shown, None, js="() => window.sprocket.source()", **quiet)
    parts.form["fps"].input(None, None, js="() => window.sprocket.length()", **quiet)
    made["dice"].click(None, None, [parts.form["seed"]], js="() => window.sprocket.dice()", api_visibility="private")


def named(handler: functools.partial) -> Any:
    """A partial with the name gradio and the log ask for."""
    functools.update_wrapper(handler, handler.func)
    vars(handler).pop("__wrapped__", None)  # gradio would inspect the full signature, bound arguments included
    return handler


FORGOTTEN = ("The studio was started again since this page was opened. What you typed is still here; an image, a video, LoRAs or a remix "
             "are to be chosen again.")


def renewed(studio: Any, parts: Parts, values: Mapping[str, Any]) -> Changes:
    """A page whose ticket is empty: the server knows nothing of it but what its fields say. Its panels say so, too."""
    model, said = values.get("model"), dict(values)
    return {parts.notice: notice_html(FORGOTTEN, act="hush", label="Dismiss"), parts.made_from: "", parts.kept: {},
            parts.ticket: uuid.uuid4().hex, parts.source: panel(studio, said, {}), parts.loras: lora_panel(studio, model, {}),
            parts.timeline: timeline(said, {}, views.spec_of(studio, model)), parts.refine: refine_panel(studio, said, {})}


def generate(made_from: Any, kept: Any, ticket: Any, memory: Any, *, studio: Any, parts: Parts, **values: Any) -> Changes:
    """Generate was pressed: queue the job and show it, or say what is wrong where the forecast stands."""
    how_many, per_line = values.get("how_many") or 1, values.get("per_line")
    if ticket == "":  # every page gets one as it opens; made without what it has lost, it would not be what was asked for
        return {**renewed(studio, parts, values), parts.notice: notice_html(""),
                parts.forecast: problem_html(f"{FORGOTTEN} Then press Generate again.")}
    try:
        project = views.project_of(studio.projects(owner=OWNER), remembered(memory, "project"))
        said = settled(kept, views.spec_of(studio, values.get("model")))
        if waits_for(said):  # made from words alone it would not be what was asked for; the line under the button says so
            return {parts.forecast: forecast_html(None, waits_for=waits_for(said))}
        if (first := before_generate(studio, parts, values, said)) is not None:
            return first
        request = read_form(*lengthened(values, checked_wish(values, said), views.spec_of(studio, values.get("model"))))
        wanted = requests_of(request, how_many, per_line)
        jobs = submit_all(studio, wanted, project_id=project, ticket=ticket or None, made_from=parent(made_from, said))
    except SprocketError as error:
        return {parts.forecast: problem(error)}
    batch = {"batch": [job.id for job in jobs]} if len(jobs) > 1 else {}
    shown = show_job(studio, parts, jobs[0], {"project": remembered(memory, "project"), **batch})
    return shown | {parts.forecast: forecast_markup(studio, values, kept, ahead=False)}  # an earlier problem is solved


def show_job(studio: Any, parts: Parts, job: Job, memory: Any) -> Changes:
    """The Create page with `job` on its screen, in the address and in the browser's memory."""
    here, status = Address(view="create", job=job.id), studio.status()
    tiles, token = views.batch(views.batch_jobs(studio, memory, job.id), job.id)
    batch = list(remembered_batch(memory)) if tiles else []
    return {
        parts.batch: tiles,
        parts.stage: views.stage(studio, job, status),
        parts.header: views.header(studio, here, remembered(memory, "project"), status),
        parts.seen: {"stage": views.stage_token(job, status), "header": views.header_token(here, status), "batch": token},
        parts.job: job.id,
        parts.at: here.href(),
        parts.timer: gr.Timer(active=True),
        parts.ticket: uuid.uuid4().hex,
        parts.memory: {"project": remembered(memory, "project"), "job": job.id, "batch": batch},
    }


LABELS = {"negative": "Steer away from", "budget": "Memory budget", "profile": "Memory", "precision": "Precision of the transformer",
          "cache": "Reuse between steps", "cfg_gate": "Guided share of steps", "fps": "Frames a second", "parallel": "Devices",
          "guidance_kind": "Guidance over the steps", "loras": "LoRAs"}
"""Fields that the page calls otherwise than requests do."""


def label_of(field: str) -> str:
    """What the page calls a request field."""
    return LABELS.get(field, field.replace("_", " ").capitalize())


def problem(error: SprocketError) -> str:
    """A bad setting as markup, with its way out."""
    if isinstance(error, InvalidRequest):
        words = f"{label_of(error.field)}: {error.message}"
        return problem_html(words, field=error.field if error.field in FIELDS else None, suggestion=error.suggestion)
    return problem_html(str(error))


def forecast(kept: Any, *, studio: Any, parts: Parts, **values: Any) -> Changes:
    """A setting changed: what would it cost now."""
    return costs(studio, parts, values, kept)


def forecast_words(kept: Any, *, studio: Any, parts: Parts, **values: Any) -> Any:
    """The prompt was left. Left empty, often for Generate: its answer must not be painted over by a forecast."""
    return forecast(kept, studio=studio, parts=parts, **values) if values.get("prompt") else gr.skip()


def costs(studio: Any, parts: Parts, values: Mapping[str, Any], kept: Any) -> Changes:
    """What the form's settings would cost, wherever that is shown."""
    line = forecast_markup(studio, values, kept)
    try:
        words = words_markup(studio, request_of(studio, values, kept))
    except SprocketError:  # the line says it
        words = ""
    return {parts.forecast: line, parts.words: words}


def forecast_markup(studio: Any, values: Mapping[str, Any], kept: Any = None, *, ahead: bool = True) -> str:
    """The line under the button for what the form says. An empty prompt is not yet a mistake.

    `ahead`: also how many jobs would run before; not right after a submit, where the job itself would be counted.
    """
    said = settled(kept, views.spec_of(studio, values.get("model")))
    if waits_for(said):
        return forecast_html(None, waits_for=waits_for(said))
    try:
        wish, beside = lengthened(values, said, views.spec_of(studio, values.get("model")))
        request = read_form({**wish, "prompt": values.get("prompt") or "a video"}, beside)
        count = len(requests_of(request, values.get("how_many") or 1, values.get("per_line")))
        return forecast_line(studio, request, ahead=ahead, count=count)
    except SprocketError as error:
        return problem(error)


def forecast_line(studio: Any, request: GenerationRequest, *, ahead: bool = True, count: int = 1) -> str:
    """The forecast for `count` such requests; raises what the plan raises."""
    spec = views.spec_of(studio, request.model)
    length = (request.frames or spec.native_frames) / (request.fps or spec.fps) if spec else None
    found = studio.forecast(request, owner=OWNER)
    levels = found.notes[0] if request.hierarchical else ""
    return forecast_html(found if ahead else replace(found, queued_ahead=0), seconds_of_video=length, count=count, levels=levels)


def choose_model(model: Any, *, studio: Any, parts: Parts) -> Changes:
    """Another model: its own recommendations. The forecast follows from the changed sliders."""
    return {parts.form[name]: update for name, update in show_model(studio.spec(model)).items()}


def fill(studio: Any, parts: Parts, request: GenerationRequest, notice: str, *, made_from: str = "",
         beside: Mapping[str, Any] | None = None) -> Changes:
    """The form says `request`; the line above it says why. `beside`: what else the form keeps."""
    spec = views.spec_of(studio, request.model)
    kept = {**kept_fields(request), **restored(request), **(beside or {})}
    changes: Changes = {parts.form[name]: update for name, update in show_request(request, spec).items()}
    if spec is None:
        notice = f"{notice} Its model, {request.model}, is not on this machine: choose another."
    else:  # the page's own list may be older than the model; and it may be a folder that was named on the command line
        names = dict.fromkeys([*views.model_names(studio), request.model])
        changes[parts.form["model"]] = gr.update(choices=list(names), value=request.model)
    notice += "" if beside else kept_words(request)
    label, act = ("Not a remix", "unremix") if made_from and not beside else ("Dismiss", "hush")
    changes |= {parts.notice: notice_html(notice, act=act, label=label), parts.made_from: made_from, parts.kept: kept,
                parts.source: panel(studio, request.to_json(), kept), parts.timeline: timeline(request.to_json(), kept, spec),
                parts.loras: lora_panel(studio, request.model, kept),
                parts.refine: refine_panel(studio, request.to_json(), kept), parts.many["seconds"]: seconds_of(request)}
    try:
        changes[parts.forecast] = forecast_line(studio, request)
    except SprocketError as error:
        changes[parts.forecast] = problem(error)
    return changes


def without(studio: Any, source: str) -> str:
    """Sentences for what made a clip (its id or file) and is not on this machine as it was: its model's name, LoRAs. '' where all is."""
    return studio.stand_in(source, owner=OWNER) + gone_words(studio.missing_loras(source, owner=OWNER))


def gone_words(gone: list[str]) -> str:
    """The sentence itself; `gone`: LoRAs as people know them."""
    return f" Not on this machine: the LoRA{'s' if len(gone) > 1 else ''} {', '.join(gone)}." if gone else ""


def _chips() -> str:
    chips = "".join(button(name, "example", kind="chip-btn", name=name) for name in EXAMPLES)
    label = '<span class="quiet" id="examples-label">Try</span>'
    return f'<div class="examples">{label}<div role="group" aria-labelledby="examples-label">{chips}</div></div>'


def _restore() -> str:
    """Where a clip's settings come back. The data attributes are for every upload of the page, see `studio.js`."""
    way = button("Restore settings from a clip…", "choose", kind="small", purpose="restore", accept=ACCEPT["any"], most=MAX_UPLOAD_BYTES,
                 large=too_large(MAX_UPLOAD_BYTES))
    return f'<div class="restore-line">{way}<p class="quiet">or drop a Sprocket mp4, an image or a video anywhere here</p></div>'
