"""The form on Create: request fields <-> gradio components, one table, both directions.

    build_form(spec, models)  ->  {field: component}         made once
    read_form(values)         ->  GenerationRequest          what the person asked for
    show_request(request)     ->  {field: update}            restore, remix, edit
    show_model(spec)          ->  {field: update}            another model was chosen: its own recommendations
    kept_fields(request)      ->  {field: value}             what has no component: it stays with the form (`source.py`)

Components are asked for by field name everywhere (`inputs_kwargs`), never by position. A component's own checks are a
comfort; what counts is `GenerationRequest` and the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from gradio.components import Component

from app.plan_command import parse_bytes
from app.ui import devices
from app.ui.rates import ONE_CLIP, RATES, known_of, rate_of
from engine import request as limits
from engine.errors import InvalidRequest
from engine.plan import DEFAULT_STRENGTH
from engine.request import (
    FITS,
    GUIDANCE_KINDS,
    MAX_BUDGET,
    MAX_GUIDANCE,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    MIN_BUDGET,
    GenerationRequest,
)
from engine.spec import ModelSpec

MODELS_OWN = "model's own"
BEST = "best-that-fits"
"""No wish for a quality."""
GIB = 2**30
ALL_THERE_IS = "all there is"
EVERYDAY_STEPS, EVERYDAY_GUIDANCE = 60, 12.0
START = "start"
"""Beside the kept fields: what the person chose to start from, of 't2v', 'i2v' and 'v2v'."""
INPUT_OF = {"t2v": "", "i2v": "image", "v2v": "video"}
"""The request field that each start needs."""
PLACEHOLDER = "A red ball bounces over a green meadow"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table."""

    build: Callable[[ModelSpec | None], Component]
    read: Callable[[str, Any], Any]
    """(field name, component value) -> request value; raises InvalidRequest."""
    show: Callable[[Any, ModelSpec | None], dict[str, Any]]
    """(request value or None, spec) -> arguments of gr.update."""


def read_text(_name: str, value: Any) -> Any:
    return "" if value is None else value


def read_whole(name: str, value: Any) -> Any:
    """Sliders send 25 or 25.0; a text box sends '25'. Empty means: not said."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        digits = value.strip().replace(",", "").replace(" ", "").replace("_", "")
        if not digits:
            return None
        if not (digits.lstrip("-").isascii() and digits.lstrip("-").isdigit() and len(digits) <= 40):
            raise InvalidRequest(name, f"{value[:40]!r} is not a whole number. Use 0 to 2^63 - 1, or leave it empty.")
        return int(digits)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def read_number(_name: str, value: Any) -> Any:
    return None if value == "" else value


def read_choice(_name: str, value: Any) -> Any:
    return None if value in (None, "", MODELS_OWN) else value


def read_budget(name: str, value: Any) -> int | None:
    """'8' and '8 GiB' are 8 x 2^30 bytes, '512 MiB' half of one. Empty means: all there is."""
    said = "" if value is None else f"{value!r}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if not isinstance(said, str):
        raise InvalidRequest(name, f"must be text or a number, not {type(value).__name__}.")
    if said.strip().casefold() in ("", ALL_THERE_IS, "all"):
        return None
    try:
        return parse_bytes(name, said if any(map(str.isalpha, said)) else f"{said} GiB")
    except InvalidRequest as error:
        low, high = MIN_BUDGET / GIB, MAX_BUDGET / GIB
        raise InvalidRequest(name, f"is {said[:40]!r}; it is {low:g} to {high:,.0f} GiB of memory, alone or with a unit, or empty "
                                   "for all there is.", suggestion=8) from error


def show_budget(value: Any, _spec: ModelSpec | None) -> dict[str, Any]:
    """In GiB, so exactly that it is read back as the same bytes."""
    gib = (value or 0) / GIB
    return {"value": "" if value is None else f"{gib:g}" if float(f"{gib:g}") == gib else repr(gib)}


def read_unless(usual: Any) -> Callable[[str, Any], Any]:
    """What the component shows when nothing was said is not said."""
    return lambda _name, value: None if value in (None, "") or (value == usual and not isinstance(value, bool)) else value


def show_or(usual: Any) -> Callable[[Any, ModelSpec | None], dict[str, Any]]:
    return lambda value, _spec: {"value": usual if value is None else value}


def show_strength(value: Any, _spec: ModelSpec | None) -> dict[str, Any]:
    value = DEFAULT_STRENGTH if value is None else value
    return {"value": value, "minimum": min(0.05, value)}


def show_plain(value: Any, _spec: ModelSpec | None) -> dict[str, Any]:
    return {"value": "" if value is None else value}


def show_seed(value: Any, _spec: ModelSpec | None) -> dict[str, Any]:
    return {"value": "" if value is None else str(value)}


def show_frames(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    if spec is None:
        return {"value": value or 25}
    step = spec.frame_step
    low, high = min(value or step + 1, step + 1), max(spec.max_frames, value or 0)
    return {
        "value": value or spec.native_frames,
        "minimum": low,
        "maximum": high,
        "step": step,
        "info": f"{spec.fps:g} a second",
    }


def show_steps(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    value = value or (spec.recommended_steps if spec else 12)
    return {"value": value, "maximum": MAX_STEPS if value > EVERYDAY_STEPS else EVERYDAY_STEPS}


def show_guidance(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    value = (spec.recommended_guidance if spec else 6.0) if value is None else value
    return {"value": value, "maximum": MAX_GUIDANCE if value > EVERYDAY_GUIDANCE else EVERYDAY_GUIDANCE}


def show_width(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    return {"value": value or (spec.native_width if spec else None), "interactive": not (spec and spec.fixed_size)}


def show_height(value: Any, spec: ModelSpec | None) -> dict[str, Any]:
    return {"value": value or (spec.native_height if spec else None), "interactive": not (spec and spec.fixed_size)}


def show_scheduler(value: Any, _spec: ModelSpec | None) -> dict[str, Any]:
    return {"value": value or MODELS_OWN}


def _side(label: str, spec: ModelSpec | None, show: Callable[[Any, ModelSpec | None], dict[str, Any]]) -> Component:
    return gr.Number(
        label=label,
        step=spec.size_multiple if spec else 16,
        minimum=None,
        elem_id=f"field-{label.lower()}",
        min_width=110,
        **show(None, spec),
    )


FIELDS: Mapping[str, Field] = {
    "prompt": Field(
        lambda _: gr.Textbox(
            label="What should the video show?",
            placeholder=PLACEHOLDER,
            lines=3,
            max_lines=8,
            max_length=MAX_PROMPT_CHARS,
            autofocus=True,
            elem_id="field-prompt",
        ),
        read_text,
        show_plain,
    ),
    "frames": Field(
        lambda spec: gr.Slider(label="Frames", elem_id="field-frames", buttons=[], **show_frames(None, spec)),
        read_whole,
        show_frames,
    ),
    "steps": Field(
        lambda spec: gr.Slider(
            label="Steps",
            minimum=1,
            step=1,
            elem_id="field-steps",
            buttons=[],
            info="more is slower",
            **show_steps(None, spec),
        ),
        read_whole,
        show_steps,
    ),
    "guidance": Field(
        lambda spec: gr.Slider(
            label="Guidance",
            minimum=0,
            step=0.1,
            elem_id="field-guidance",
            buttons=[],
            info="follow the words",
            **show_guidance(None, spec),
        ),
        read_number,
        show_guidance,
    ),
    "seed": Field(
        lambda _: gr.Textbox(label="Seed", placeholder="new each time", max_lines=1, elem_id="field-seed"),
        read_whole,
        show_seed,
    ),
    "negative": Field(
        lambda _: gr.Textbox(
            label="Steer away from",
            placeholder="What you do not want to see",
            lines=2,
            max_length=MAX_PROMPT_CHARS,
            elem_id="field-negative",
        ),
        read_text,
        show_plain,
    ),
    "width": Field(lambda spec: _side("Width", spec, show_width), read_whole, show_width),
    "height": Field(lambda spec: _side("Height", spec, show_height), read_whole, show_height),
    "scheduler": Field(
        lambda _: gr.Radio([MODELS_OWN, "dpm", "ddim"], value=MODELS_OWN, label="Scheduler", elem_id="field-scheduler"),
        read_choice,
        show_scheduler,
    ),
    "guidance_kind": Field(
        lambda _: gr.Radio(
            list(GUIDANCE_KINDS),
            value=GUIDANCE_KINDS[0],
            label="Guidance over the steps",
            info="as-published swings, as others' code does",
            elem_id="field-guidance-kind",
        ),
        read_unless(GUIDANCE_KINDS[0]),
        show_or(GUIDANCE_KINDS[0]),
    ),
    "eta": Field(
        lambda _: gr.Slider(
            label="Eta",
            minimum=0,
            maximum=1,
            step=0.01,
            value=0,
            buttons=[],
            info="fresh noise in each ddim step",
            elem_id="field-eta",
        ),
        read_unless(0),
        show_or(0),
    ),
    "fit": Field(
        lambda _: gr.Radio(
            [("Crop", FITS[0]), ("Pad with bars", FITS[1])],
            value=FITS[0],
            label="Fit",
            info="never stretched",
            elem_id="field-fit",
            elem_classes="for-input",
        ),
        read_unless(FITS[0]),
        show_or(FITS[0]),
    ),
    "strength": Field(
        lambda _: gr.Slider(
            label="Strength",
            maximum=1,
            step=0.01,
            buttons=[],
            info="how far it may change",
            elem_id="field-strength",
            elem_classes="for-video",
            **show_strength(None, None),
        ),
        read_unless(DEFAULT_STRENGTH),
        show_strength,
    ),
    "fps": Field(
        lambda _: gr.Dropdown(
            [ONE_CLIP, *RATES],
            value=ONE_CLIP,
            label="Frames a second",
            info="key frames first, then frames between",
            allow_custom_value=True,
            elem_id="field-fps",
        ),
        lambda _name, value: rate_of(value),
        lambda value, _spec: {"value": ONE_CLIP if value is None else f"{value:g}"},
    ),
    "key_frames": Field(
        lambda _: gr.Textbox(label="Key frames", placeholder="automatic", max_lines=1, elem_id="field-key-frames"),
        read_whole,
        show_seed,
    ),
    "review": Field(
        lambda _: gr.Checkbox(label="Show me the key frames before the rounds", value=False, elem_id="field-review"),
        lambda _name, value: bool(value),
        lambda value, _spec: {"value": bool(value)},
    ),
}
"""All fields but `model`, whose choices depend on the machine, and those that are `KEPT`."""
KNOWN = frozenset(f.name for f in fields(GenerationRequest))


def choice_field(label: str, choices: Sequence[str], info: str, elem_id: str) -> Field:
    """One of a few words, of which the first is what holds when nothing is said."""
    shown = [(_spelled(word), word) for word in choices]
    return Field(
        lambda _: gr.Radio(shown, value=choices[0], label=label, info=info, elem_id=elem_id), read_unless(choices[0]), show_or(choices[0])
    )


NAMES = {"pab": "PAB", "magcache": "MagCache", "taylorseer": "TaylorSeer"}
"""As their authors write them."""


def _spelled(word: str) -> str:
    """'near-lossless' as 'Near lossless', 'int8-dynamic' as 'INT8 dynamic', 'magcache' as 'MagCache'."""
    if word in NAMES:
        return NAMES[word]
    first, _, rest = word.partition("-")
    return " ".join([first.upper() if any(map(str.isdigit, first)) else first.capitalize(), *rest.split("-")]).strip()


WAYS: Mapping[str, Field] = {
    name: choice_field(label, words, info, f"field-{name}")
    for name, label, words, info in (
        ("profile", "Memory", getattr(limits, "PROFILES", ()), "how weights are kept"),
        ("quality", "Quality", (BEST, *limits.QUALITIES), "what may be lost to save memory or time"),
        ("precision", "Precision of the transformer", limits.PRECISIONS, "auto: the planner's; 8 bits and FP16 change the picture"),
        ("cache", "Reuse between steps", getattr(limits, "CACHES", ()), "faster; all but off change the picture"),
    )
    if name in KNOWN and words
} | {"parallel": Field(devices.build, devices.read, devices.show)}
"""How a clip is made rather than what it shows; only what requests know."""
WAYS = {**WAYS, "cfg_gate": Field(
    lambda _: gr.Slider(label="Guided share of steps", minimum=0.05, maximum=1, step=0.05, value=1, buttons=[],
                        info="less is faster and changes the picture", elem_id="field-cfg-gate"),
    read_unless(1), lambda value, _spec: {"value": 1 if value is None else value, "minimum": min(0.05, value or 1)})}
WAYS = {**WAYS, "budget": Field(
    lambda _: gr.Textbox(label="Memory budget", info="GiB it may use", placeholder=ALL_THERE_IS, max_lines=1, elem_id="field-budget",
                         min_width=110),
    read_budget, show_budget)}
FIELDS = {**FIELDS, **WAYS}
KEPT = tuple(f.name for f in fields(GenerationRequest) if f.name not in {*FIELDS, "model", "schema_version"})
"""Request fields without a component: the source panel, a remix or a restored clip brings them, and they go into the next request."""
STAYS = ("fps", "key_frames", "review", "prompt", "negative", "seed", "scheduler", "guidance_kind", "eta", "fit", "strength", *WAYS)
"""Fields that are the person's and not the model's: another model leaves them as they are."""


def model_field(names: Sequence[str], chosen: str | None) -> Component:
    """The one field whose choices are not in the table."""
    return gr.Dropdown(choices=list(names), value=chosen, label="Model", elem_id="field-model", filterable=len(names) > 8)


def read_form(values: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> GenerationRequest:
    """What the components say, and what is `kept` beside them, as a request. Raises `InvalidRequest`.

    Of the inputs only the one that `kept[START]` means is asked for; fit and strength count only where they have something to act on.
    """
    if not values.get("model"):
        raise InvalidRequest("model", "none is chosen. Install one, see `sprocket models list`.")
    read = {name: field.read(name, values.get(name)) for name, field in FIELDS.items()}
    request = {**read, **asked_of(kept or {}), "model": values["model"]}
    if request.get("image") is None and request.get("video") is None and not request.get("given"):
        request["fit"] = None
    if request.get("video") is None:
        request["strength"] = None
    return GenerationRequest.from_mapping(request)


def start_of(kept: Mapping[str, Any]) -> str:
    """'t2v', 'i2v' or 'v2v': what was chosen, else what there is to start from."""
    said = kept.get(START)
    return said if said in INPUT_OF else "i2v" if kept.get("image") else "v2v" if kept.get("video") else "t2v"


def asked_of(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The request fields in `kept`: an input that another start would use is left out."""
    start = start_of(kept)
    inputs = {"image", "video"} - {INPUT_OF[start]}
    return {name: value for name, value in kept.items() if name in KEPT and name not in inputs}


def kept_fields(request: GenerationRequest) -> dict[str, Any]:
    """What the form must keep beside its components to say `request`."""
    said = {name: getattr(request, name) for name in KEPT if getattr(request, name) not in (None, (), "")}
    said = {name: value for name, value in said.items() if name not in ("given", "edits")} | known_of(request)
    return said if request.mode == "t2v" else {**said, START: request.mode}


def kept_words(request: GenerationRequest) -> str:
    """What of `request` is not to be seen at once, for people, after the line that says where the settings are from."""
    said = []
    if request.mode == "i2v":
        said.append("It starts from the same image.")
    if request.mode == "v2v":
        said.append("It changes the same video.")
    if request.guidance_kind not in (None, "constant"):
        said.append(f"Its guidance is {request.guidance_kind}.")
    if request.loras:
        said.append("It uses a LoRA." if len(request.loras) == 1 else f"It uses {len(request.loras)} LoRAs.")
    if request.precision not in (None, "auto"):
        said.append(f"Its transformer is in {request.precision}.")
    if request.cache not in (None, "off"):
        said.append(f"It is made faster with the cache {request.cache}.")
    if request.cfg_gate not in (None, 1.0):
        said.append(f"Its negative prompt is run for {request.cfg_gate:.0%} of the steps.")
    if request.budget is not None:
        said.append(f"It may use at most {request.budget / GIB:.4g} GiB of memory.")
    if request.parallel is not None:
        said.append(f"It is divided over devices ({request.parallel}).")
    return "".join(f" {sentence}" for sentence in said)


def show_request(request: GenerationRequest, spec: ModelSpec | None) -> dict[str, Any]:
    """Updates by field that make the form say `request`. `spec` is of its model, None when that is not installed."""
    updates = {name: gr.update(**field.show(getattr(request, name), spec)) for name, field in FIELDS.items()}
    return updates | ({"model": gr.update(value=request.model)} if spec else {})


def show_model(spec: ModelSpec) -> dict[str, Any]:
    """Updates by field after another model was chosen: its recommendations; prompt, seed and the like stay."""
    return {name: gr.update(**field.show(None, spec)) for name, field in FIELDS.items() if name not in STAYS}
