"""A request against this machine: its hardware now, its own finished clips, and what a job already went through.

    request + spec + hardware + history + lapses --plan_here--> Plan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.history.records import Clip, Forecast
from app.history.store import Store
from app.queue.door import Engine
from app.settings import Settings
from engine.choices import Policy
from engine.hardware import Hardware
from engine.ladder import Lapse
from engine.lora.planned import plan_with_loras
from engine.memory.corrections import Correction, Measured, corrections
from engine.plan import RECENT, Plan, Timing, disk_need, forecast_stages, plan
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.speed import Speed

ONE_EACH = ("One job per GPU: it is made on one, not divided by {parallel}, with the same frames. `sprocket queue devices together` lets "
            "GPUs share a clip.")


def hardware_on(engine: Engine, device: str | None) -> Hardware:
    """What may be used there, on the best device where none is asked for."""
    return engine.hardware() if device is None else engine.hardware(device)


def plan_here(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, clips: Sequence[Clip], settings: Settings, *,
              policy: Policy | None = None, lapses: Sequence[Lapse] = (), speed: Speed | None = None,
              own_device: bool = False) -> Plan:
    """The plan, its memory corrected by `clips` of this model (`Clips.recent`). `speed`: instead of the installation's.

    `own_device`: every device makes a clip of its own (`app.queue.devices`), so `parallel` is passed over, and a note says so.

    Raises as `plan_with_loras`.
    """
    known = corrections_of(clips, request.model, hardware.device)
    policy = replace(policy or Policy(), corrections=known)
    passed_over = request.parallel if own_device else None
    if passed_over:
        request = replace(request, parallel=None)
    made = plan_with_loras(request, spec, hardware, settings.loras_dir,
                           lambda machine: plan(request, spec, machine, policy, speed or settings.speed, lapses=lapses))
    return replace(made, notes=(*made.notes, ONE_EACH.format(parallel=passed_over))) if passed_over else made


def corrections_of(clips: Sequence[Clip], model: str, device: str) -> tuple[Correction, ...]:
    """What these clips say about forecasts of `model` on `device`."""
    return corrections([one for one in map(measured_of, clips) if one], model, device)


def recent_clips(store: Store, model: str) -> tuple[Clip, ...]:
    """Those that forecasts are made from, newest last."""
    return store.clips.recent(model, limit=RECENT)


def timings_of(clips: Sequence[Clip]) -> list[Timing]:
    return [timing for timing in map(timing_of, clips) if timing]


def timing_of(clip: Clip) -> Timing | None:
    """What a clip cost, out of its recipe; None where the recipe does not say."""
    made, seconds = clip.recipe.get("plan"), clip.recipe.get("seconds")
    if not isinstance(made, dict) or not isinstance(seconds, dict) or not isinstance(made.get("work"), dict):
        return None
    return Timing(model=clip.model, device=str(made.get("device")), work=_numbers(made["work"]), seconds=_numbers(seconds),
                  kind=str(made.get("kind", "")), rounds="hierarchy" in clip.recipe)


def measured_of(clip: Clip) -> Measured | None:
    """The memory a clip took, out of its recipe; None where the recipe does not say."""
    made = clip.recipe.get("plan")
    if not isinstance(made, dict):
        return None
    sizes = _numbers({"forecast": made.get("forecast_bytes"), "peak": clip.recipe.get("peak_bytes")})
    if "forecast" not in sizes or "peak" not in sizes:
        return None
    return Measured(model=clip.model, device=str(made.get("device")), kind=str(made.get("kind", "")),
                    forecast_bytes=sizes["forecast"], measured_bytes=sizes["peak"])


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Recipes come back from files, so what is no plausible measurement is left out."""
    return {str(name): float(value) for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e30}


Weighing = tuple[Plan, Hardware, list[Timing], tuple[Correction, ...]]
"""What `engine.alternatives` is told."""


def weighing(store: Store, made: Plan, hardware: Hardware) -> Weighing:
    """The plan beside what this machine's own clips of its model say."""
    clips = recent_clips(store, made.model)
    return made, hardware, timings_of(clips), corrections_of(clips, made.model, hardware.device)


def forecast_of(store: Store, made: Plan) -> Forecast:
    """What the plan would cost here, and how many jobs come before it."""
    stages, basis = forecast_stages(made, timings_of(recent_clips(store, made.model)))
    return Forecast(seconds=sum(stages.values()) if stages else None, memory_bytes=made.predicted_bytes, basis=basis, notes=made.notes,
                    queued_ahead=store.jobs.ahead_of(), stages=stages, disk_bytes=disk_need(made))
