"""`sprocket plan`: what a clip would take on a machine, before anything is fetched or bought.

No weights, no GPU; this machine's history where there is one.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app.errors import HistoryBusy, HistoryDamaged, SchemaTooNew
from app.history.opening import open_store
from app.history.records import Clip
from app.links import with_link
from app.parallel_view import check_gpus, choices_json, choices_text, link_json
from app.planning import corrections_of, plan_here, recent_clips, timings_of
from app.settings import Settings
from engine.alternatives import Alternatives, alternatives
from engine.choices import Policy, unsupported
from engine.errors import InvalidRequest, ModelNotFound, StorageBlocked
from engine.facts import is_published, published, published_ids
from engine.hardware import Hardware, detect
from engine.models.catalogue import find
from engine.plan import Plan, disk_need, forecast_stages
from engine.request import DEVICES, MAX_BUDGET, MIN_BUDGET, GenerationRequest
from engine.spec import ModelSpec, read_spec
from engine.speed import Speed

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
LEAST, MOST = MIN_BUDGET, MAX_BUDGET
SOME_IMAGE = "0" * 64 + ".png"
"""A stand-in for the first frame; a plan never opens it."""
HOMES = {"resident": "on the device", "staged": "on the device while it works", "streamed": "block by block"}


def parse_bytes(field: str, text: str) -> int:
    """'8GiB' -> 8 x 2^30, '8GB' -> 8 x 10^9, '512 MiB', '1.5TB'; a bare number is bytes.

    Raises `InvalidRequest(field)` for anything else, for what is not above zero, and for sizes no device has.
    """
    found = re.fullmatch(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|nan|[+-]?inf(?:inity)?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    if not found or found[2] not in UNITS:
        raise InvalidRequest(field, f"{text[:40]!r} is not an amount of memory. Write a number and a unit, for example 8GiB "
                                    "(8 x 2^30 bytes) or 8GB (8 x 10^9 bytes).", suggestion="8GiB")
    number = float(found[1])
    if math.isnan(number) or number <= 0:
        raise InvalidRequest(field, f"is {text[:40]!r}; it must be more than 0, for example 8GiB.", suggestion="8GiB")
    size = number * UNITS[found[2]]  # may be infinity, which is more than any device has
    if size < LEAST:
        hint = " A bare number counts bytes; write the unit, as in 8GiB." if not found[2] else ""
        raise InvalidRequest(field, f"is {text[:40]!r}, which is {size:,.0f} bytes; nothing runs below {LEAST / 2**20:.0f} MiB.{hint}",
                             suggestion="8GiB")
    if size > MOST:
        raise InvalidRequest(field, f"is {text[:40]!r}, which is more than {MOST / 2**40:.0f} TiB; no device has that. Write the "
                                    "memory of one device, for example 80GiB.", suggestion="80GiB")
    return int(size)


def resolve(model: str, models_dir: Path | None) -> ModelSpec:
    """The spec of an installed model or folder, else of a published checkpoint. Raises `ModelNotFound`, `ModelInvalid`."""
    try:
        name = Path(model).name if Path(model).is_absolute() else model  # as clips made with it say, whose seconds are looked up by it
        return read_spec(find(model, models_dir=models_dir), name)
    except ModelNotFound as error:
        if is_published(model):
            return published(model)
        raise ModelNotFound(f"{error} Published checkpoints can be planned without their weights: "
                            f"{', '.join(published_ids())}.") from error


def machine(budget: str | None, ram: str | None, device: str | None) -> Hardware:
    """The hardware asked for: this machine's, or an imagined device with `budget` of free memory."""
    if device is not None and device not in DEVICES:
        raise InvalidRequest("device", f"{device[:40]!r} is not known. Use one of {', '.join(DEVICES)}.")
    here = detect()
    if budget is not None:
        size = parse_bytes("budget", budget)
        kind = device or "cuda"
        here = Hardware(device="cpu" if kind == "cpu" else "cuda:0", name=f"a {kind} device with {size / 2**30:.1f} GiB",
                        total_bytes=size, free_bytes=size, cores=here.cores,
                        bf16=here.bf16 if kind == "cpu" and here.device == "cpu" else True)
    elif device == "cuda" and not here.device.startswith("cuda"):
        raise InvalidRequest("budget", "is missing, and there is no GPU here to take it from. Say how much memory the GPU has, "
                                       "for example --budget 8GiB.", suggestion="8GiB")
    elif device == "cpu" and here.device != "cpu":
        raise InvalidRequest("budget", "is missing. Say how much memory the processor may use, for example --budget 32GiB.",
                             suggestion="32GiB")
    if ram is not None:
        size = parse_bytes("ram", ram)
        if here.device == "cpu":
            raise InvalidRequest("ram", "is for plans on a GPU; the budget of a processor is its memory. Leave it out.")
        here = replace(here, ram_bytes=size)
    return here


def plan_command(
    model: Annotated[str, typer.Option(help="An installed model, a folder, or a published checkpoint by its hub id.")] = "pocket",
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="The model's rule holds, e.g. 8k + 1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 or less halves the work.")] = None,
    profile: Annotated[str, typer.Option(help="fast, balanced or tiny.")] = "fast",
    quality: Annotated[str | None, typer.Option(help="lossless, near-lossless or fast; left out: the best that fits.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the transformer: auto, bf16, fp16, fp32, int8, int8-dynamic, fp8, fp8-dynamic.")
                         ] = None,
    budget: Annotated[str | None, typer.Option(help="Free memory of the device, e.g. 8GiB; left out: this machine's.")] = None,
    ram: Annotated[str | None, typer.Option(help="Free memory of the GPU's computer, e.g. 32GiB.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; with --budget cuda if left out.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Also the ways to divide the clip over 2 to so many devices like this one.")] = None,
    now: Annotated[bool | None, typer.Option("--now/--later", help="Only what this version can run, or also what it can only "
                                             "forecast; left out: now for a model that is here.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", envvar="SPROCKET_DATA_DIR", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """How a clip would be made within a memory budget, and what it would take. Needs no weights and no GPU."""
    check_gpus(gpus)
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    hardware, spec = machine(budget, ram, device), resolve(model, settings.models_dir)
    hardware = hardware if budget else with_link(hardware, settings.data_dir)
    policy = Policy(profile=profile, quality=quality, executable=spec.installed if now is None else now)
    clips = _clips(settings, spec.name)
    request = GenerationRequest(prompt="a clip to be planned", model=spec.name, width=width, height=height, frames=frames,
                                steps=steps, guidance=guidance, precision=precision, image=None if "t2v" in spec.modes else SOME_IMAGE,
                                given=some_last(spec, frames))
    made = plan_here(request, spec, hardware, clips, settings, policy=policy, speed=Speed() if budget else settings.speed)
    timings, known = timings_of(clips), corrections_of(clips, spec.name, hardware.device)
    choices = alternatives(made, hardware, timings, known) if policy.executable else None
    stages = forecast_stages(made, timings)
    if as_json:
        several = {} if gpus is None else {"parallel": choices_json(made, hardware, gpus), "link": link_json(hardware)}
        print(json.dumps(report(made, stages, choices) | several))
    else:
        print(text(made, stages, choices) + ("" if gpus is None else "\n" + choices_text(made, hardware, gpus)))


def some_last(spec: ModelSpec, frames: int | None) -> tuple[tuple[int, str], ...]:
    """A stand-in for the last frame, where the model is shown one."""
    return (((frames or spec.native_frames) - 1, SOME_IMAGE),) if spec.shown == "ends" else ()


def _clips(settings: Settings, model: str) -> tuple[Clip, ...]:
    """This machine's own clips of the model; none where there is no history, which is not made for this."""
    if not settings.on_server and not settings.db_path.is_file():
        return ()
    try:
        store = open_store(settings, repair=False)
    except (HistoryBusy, HistoryDamaged, SchemaTooNew, StorageBlocked):  # a plan can do without
        return ()
    try:
        return recent_clips(store, model)
    finally:
        store.close()


def report(made: Plan, stages: tuple[dict[str, float], str], choices: Alternatives | None) -> dict[str, Any]:
    """The plan as JSON values. `runs`: this version can make the clip, here; `missing`: what it would need for that.

    `stages`: seconds by stage and where they are from, see `forecast_stages`.
    """
    values = made.to_json()
    spec, missing = values.pop("spec"), list(unsupported(made.placement, made.dtype, made.device))
    for field in ("prompt", "negative", "seed", "input"):  # of the stand-in request
        del values[field]
    return {"model": {name: spec[name] for name in ("name", "path", "installed", "family", "component_parameters", "component_bytes")},
            "plan": values, "forecast": values.pop("forecast") | {
                "seconds": sum(stages[0].values()) if stages[0] else None, "stage_seconds": stages[0], "basis": stages[1],
                "job_disk_bytes": disk_need(made)},
            "choices": None if choices is None else {"words": [one.to_json() for one in choices.words],
                                                     "every": [one.to_json() for one in choices.every]},
            "runs": made.spec.installed and not missing, "missing": missing}


def text(made: Plan, stages: tuple[dict[str, float], str], choices: Alternatives | None) -> str:
    """The plan for a person."""
    forecast, lines = made.forecast, [f"{made.spec.name}: {made.frames} frames of {made.width} x {made.height}, {made.steps} steps"]
    for part, home in made.placement.homes.items():
        count = made.spec.component_parameters[part]
        source = "" if home.residency == "resident" else f", waits in {'memory' if home.source == 'ram' else 'files'}"
        lines.append(f"  {part.replace('_', ' '):14}{count / 1e9:5.2f} B numbers   {home.precision:5} {HOMES[home.residency]}{source}")
    lines.append(f"  {'peak':14}" + ", ".join(f"{stage} {size / 2**30:.2f}" for stage, size in forecast.stages.items())
                 + f" GiB; with the program {forecast.device_bytes / 2**30:.2f} GiB on {made.device}")
    lines.append(f"  {'memory':14}{forecast.ram_bytes / 2**30:.1f} GiB of the computer's own, {forecast.disk_bytes / 1e9:.1f} GB on disk")
    lines.append(f"  {'clip':14}at most {disk_need(made) / 2**20:.0f} MiB on disk while it is made")
    seconds = ", ".join(f"{stage} {time:.1f}" for stage, time in stages[0].items())
    lines.append(f"  {'time':14}" + (f"{sum(stages[0].values()):.0f} s ({seconds}), {stages[1]}" if stages[0] else stages[1]))
    for one in choices.words if choices is not None else ():
        cost = f", {one.times:.2f} times this plan's time" if one.seconds is None else f", {one.seconds:.0f} s"
        lines.append(f"  {one.word:14}{one.peak_bytes / 2**30:.2f} GiB{cost}, {one.quality}{' (this plan)' if one.chosen else ''}")
    lines += [f"  - {note}" for note in made.notes]
    if missing := unsupported(made.placement, made.dtype, made.device):
        lines.append(f"  This version cannot run it yet: it would have to {'; '.join(missing)}. `--now` plans what it can.")
    if not made.spec.installed:
        lines.append("  The model's files are not on this machine; these numbers come from bundled facts about it.")
    return "\n".join(lines)
