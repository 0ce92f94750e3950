"""The one page that holds Create, Queue, Gallery and Models, and its theme.

One gradio page with four views rather than four gradio pages: a multipage gradio app loads everything anew on each change
of page and forgets a half-typed prompt. Here `assets/studio.js` shows a view at once, the server fills it, and the address bar
says where one is (`address.py`), so links, Back, reload, bookmarks and a second tab work as on any web site.

Panels are `gr.HTML` filled by the pure functions in `html/`; gradio patches them into the page element by element, so a
running video, the focus and the scroll position survive an update. Only the form is made of gradio's own inputs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr

from app.ui import actions, create, inline, watch
from app.ui.address import Address
from app.ui.api import Pages, add_endpoints
from app.ui.html.frame import header_html
from app.ui.parts import Parts, guarded, tell_end, telling

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SANS = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Liberation Sans",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
RELAY = "window.sprocket.start(trigger);"
LOADING = '<p class="loading" role="status">Loading…</p>'
"""Of a page whose first answer is on its way."""
MEMORY_KEY = "sprocket-studio"
PAPER, INK, NIGHT, CREAM = "#f6f2ea", "#241c14", "#14110e", "#f3ebe0"


COLOURS = {
    "background_fill_primary": "var(--sp-surface)",
    "background_fill_secondary": "var(--sp-raised)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_label_background_fill": "transparent",
    "block_label_text_color": "var(--sp-muted)",
    "block_title_text_color": "var(--sp-ink)",
    "block_title_text_weight": "600",
    "block_info_text_color": "var(--sp-muted)",
    "block_shadow": "none",
    "block_padding": "0px",
    "border_color_primary": "var(--sp-line)",
    "border_color_accent": "var(--sp-accent)",
    "color_accent": "var(--sp-accent)",
    "color_accent_soft": "var(--sp-soft)",
    "input_background_fill": "var(--sp-field)",
    "input_background_fill_focus": "var(--sp-field)",
    "input_border_color": "var(--sp-edge)",
    "input_border_color_focus": "var(--sp-accent)",
    "input_border_width": "1px",
    "input_placeholder_color": "var(--sp-faint)",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px var(--sp-glow)",
    "slider_color": "var(--sp-accent)",
    "button_primary_background_fill": "var(--sp-accent)",
    "button_primary_background_fill_hover": "var(--sp-accent-hover)",
    "button_primary_text_color": "var(--sp-on-accent)",
    "button_primary_border_color": "var(--sp-accent)",
    "button_secondary_background_fill": "var(--sp-raised)",
    "button_secondary_background_fill_hover": "var(--sp-line)",
    "button_secondary_text_color": "var(--sp-ink)",
    "button_secondary_border_color": "var(--sp-edge)",
    "body_text_color": "var(--sp-ink)",
    "body_text_color_subdued": "var(--sp-muted)",
    "link_text_color": "var(--sp-link)",
    "link_text_color_hover": "var(--sp-link)",
    "link_text_color_visited": "var(--sp-link)",
    "link_text_color_active": "var(--sp-link)",
    "checkbox_background_color": "var(--sp-field)",
    "checkbox_background_color_selected": "var(--sp-accent)",
    "checkbox_border_color": "var(--sp-edge)",
    "checkbox_border_color_selected": "var(--sp-accent)",
    "checkbox_label_background_fill": "var(--sp-raised)",
    "checkbox_label_background_fill_hover": "var(--sp-line)",
    "checkbox_label_background_fill_selected": "var(--sp-soft)",
    "checkbox_label_border_color": "var(--sp-edge)",
    "checkbox_label_text_color": "var(--sp-ink)",
    "panel_background_fill": "var(--sp-surface)",
    "panel_border_color": "var(--sp-line)",
    "error_background_fill": "var(--sp-surface)",
    "error_border_color": "var(--sp-bad)",
    "error_text_color": "var(--sp-bad)",
}
"""Gradio's theme variables by name -> ours."""


def theme() -> gr.themes.Base:
    """Gradio's inputs in our colours: each points at a variable that `assets/style.css` sets for light and dark."""
    base = gr.themes.Base(font=SANS, font_mono=MONO, radius_size="md", spacing_size="md", text_size="md")
    known = {name: value for name, value in COLOURS.items() if hasattr(base, name)}
    dark = {f"{name}_dark": value for name, value in known.items() if hasattr(base, f"{name}_dark")}
    # Plain colours here: gradio paints the page with them before any style sheet is there.
    return base.set(**known, **dark, body_background_fill=PAPER, body_background_fill_dark=NIGHT)


def head() -> str:
    """What the page has besides gradio: an icon and our script.

    The script is inline. Gradio adds the head while the page runs and waits for no file in it: a script that came later than
    the panels found their chance to connect gone, and every click on them was lost until the next reload.
    """
    script = (ASSETS / "studio.js").read_text(encoding="utf-8")
    return f'<link rel="icon" href="/studio/logo.svg" type="image/svg+xml"><script>{script}</script>'


def build_ui(studio: Any) -> gr.Blocks:
    """All pages and the API endpoints over one studio. Starts nothing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Blocks is built
    with Pages(title="Sprocket", analytics_enabled=False, fill_width=True) as demo:
        header = gr.HTML(header_html(Address(), (), ""), elem_id="header", apply_default_css=False, js_on_load=create.SYNC)
        refusal = gr.HTML("", elem_id="refusal", apply_default_css=False)
        relay = gr.HTML("", elem_id="relay", apply_default_css=False, js_on_load=RELAY)
        with gr.Column(elem_id="main", elem_classes="views"):
            with gr.Row(elem_id="view-create", elem_classes="view", equal_height=False):
                with gr.Column(elem_id="form", scale=5, min_width=320):
                    made = create.build_form(studio)
                with gr.Column(elem_id="screen-column", scale=7, min_width=320):
                    stage, batch = create.build_stage()
            queue = gr.HTML(LOADING, elem_id="view-queue", elem_classes="view", apply_default_css=False)
            gallery = gr.HTML(LOADING, elem_id="view-gallery", elem_classes="view", apply_default_css=False)
            models = gr.HTML(LOADING, elem_id="view-models", elem_classes="view", apply_default_css=False)
            with gr.Column(elem_id="view-train", elem_classes="view"):
                train = gr.HTML(LOADING, elem_id="datasets", apply_default_css=False, js_on_load=create.SYNC)
        parts = _parts(made, header, stage, batch, (queue, gallery, models, train))
        create.wire(studio, parts, made)
        _wire(studio, parts, demo, relay, refusal)
        add_endpoints(studio)
    demo.queue(default_concurrency_limit=8, max_size=64, api_open=False)
    return demo


def _parts(made: dict[str, Any], header: Any, stage: Any, batch: Any, pages: tuple[Any, Any, Any, Any]) -> Parts:
    queue, gallery, models, train = pages
    form = {name: component for name, component in made.items() if name in create.FIELDS or name == "model"}
    return Parts(
        header=header,
        notice=made["notice"],
        forecast=made["forecast"],
        stage=stage,
        queue=queue,
        gallery=gallery,
        models=models,
        train=train,
        form=form,
        many={name: made[name] for name in ("how_many", "per_line", "seconds", "always_refine")},
        source=made["source"],
        words=made["words"],
        choices=made["choices"],
        devices=made["devices"],
        loras=made["loras"],
        timeline=made["timeline"],
        refine=made["refine"],
        batch=batch,
        timer=gr.Timer(watch.POLL_SECONDS, active=False),
        job=gr.State(""),
        seen=gr.State({}),
        at=gr.State("/?view=create"),
        made_from=gr.State(""),
        kept=gr.State({}),
        ticket=gr.State(""),
        memory=gr.BrowserState({}, storage_key=MEMORY_KEY, secret=MEMORY_KEY),
    )


def _wire(studio: Any, parts: Parts, demo: gr.Blocks, relay: Any, refusal: Any) -> None:
    """Events of the frame: the relay of clicks, the opening of a page, the poll. `studio.js` lets them run one at a time."""
    quiet = create.QUIET

    def on_act(at: Any, job: Any, memory: Any, kept: Any, ticket: Any, event: gr.EventData, **values: Any) -> Any:
        return actions.act(event._data, at, job, memory, kept, ticket, studio=studio, parts=parts, values=values)

    def on_load(memory: Any, request: gr.Request) -> Any:
        return watch.attach(memory, request, studio=studio, parts=parts)

    def on_poll(job: Any, seen: Any, at: Any, memory: Any, kept: Any, ticket: Any, event: gr.EventData) -> Any:
        if ticket == "":
            job, at = watch.found_again(event._data, memory, studio=studio)
        return watch.poll(job, seen, at, memory, kept, studio=studio, parts=parts)

    outputs = [*parts.outputs(), refusal]
    asked = [parts.at, parts.job, parts.memory, parts.kept, parts.ticket]
    acted = relay.click(telling(on_act, refusal), asked, outputs, inputs_kwargs=parts.said(), trigger_mode="multiple", **quiet)
    loaded = demo.load(telling(on_load, refusal), [parts.memory], outputs, **quiet)
    parts.timer.tick(None, js="() => window.sprocket.poll()", **quiet)
    polled = relay.tick(
        guarded(on_poll),
        [parts.job, parts.seen, parts.at, parts.memory, parts.kept, parts.ticket],
        [parts.refine, parts.stage, parts.batch, parts.queue, parts.gallery, parts.models, parts.train, parts.header, parts.timer,
         parts.seen],
        trigger_mode="multiple",
        **quiet,
    )
    inline.wire(studio)
    for name, event in (("act", acted), ("opening", loaded), ("poll", polled)):
        tell_end(event, name)
