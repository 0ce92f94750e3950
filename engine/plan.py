"""The request resolved against one checkpoint and one machine: nothing optional left. Pure, no torch, milliseconds.

    GenerationRequest + ModelSpec + Hardware --plan--> Plan        or InvalidRequest / CannotFit, with what would do
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from engine.cache.measured import words, work_share
from engine.choices import Policy, Way, choose, unsupported
from engine.errors import CannotFit, InvalidRequest, ModelNotFound
from engine.hardware import Hardware
from engine.interpolate.planning import HierarchyPlan, plan_hierarchy, request_of
from engine.interpolate.shown import at_once, check_shown, shown_notes
from engine.ladder import Lapse, told
from engine.memory import Forecast, Placement, Shape, latent_frames, stage_work
from engine.memory.corrections import placement_kind
from engine.parallel.planned import Ways, divide
from engine.plan_notes import memory_notes, mode_notes, speed_notes, way_notes
from engine.precision import LOSS, asked_for, check_precision, compute_dtype, precision_notes, worse
from engine.recovery import way_after
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.speed import LOSSY, Speed, choose_kernel, compiling_pays

PLAN_VERSION = 1
DEFAULT_STRENGTH = 0.8
"""Of a video to video request, as in diffusers."""
RECENT = 20
"""Timings a forecast looks at, newest last."""
DEFAULT = Policy()
DEFAULT_SPEED = Speed()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything `engine.run.run` needs, and nothing it must still decide."""

    prompt: str
    negative: str
    model: str
    seed: int
    frames: int
    width: int
    height: int
    steps: int
    guidance: float
    guided: bool
    """False where guidance is 1 or less: the negative prompt then has no effect and the work halves."""
    scheduler: str
    """'dpm' or 'ddim'."""
    fps: float
    spec: ModelSpec
    latent_shape: tuple[int, int, int, int, int]
    """(1, latent frames incl. padding, channels, height, width)."""
    latent_padding: int
    """First latent frames to drop before decoding (CogVideoX 1.5)."""
    dtype: str
    """'bf16' or 'fp32'."""
    device: str
    """'cpu' or 'cuda:N'."""
    residency: str
    """Of the transformer: 'resident': on the device; 'staged': only while it works; 'streamed': block by block."""
    tile: tuple[int, int]
    """Pixels (height, width) the decoder works on at once; the clip's own size means no tiling."""
    predicted_bytes: int
    """Highest memory of the device: `forecast.device_bytes`."""
    placement: Placement
    """Precision and place of every component, passes, chunks and tiles."""
    forecast: Forecast
    """Memory by stage, by the formulas in `engine.memory`."""
    profile: str
    """'fast', 'balanced' or 'tiny'."""
    quality: str
    """'lossless', or 'near-lossless' or 'fast' where a choice changes the picture; the notes name it."""
    allowed: str
    """The quality the user allowed: a word as in `quality`; '' for the best that fits."""
    budget: int
    """Bytes of the device's memory the job may use; 0 for all that is free."""
    wanted_device: str
    """'cpu' or 'cuda' where the user asked for one; '' for the GPU where there is one."""
    precision: str
    """Of the transformer, where the user asked for one; else 'auto'. What it is, the placement says."""
    work: Mapping[str, float]
    """Work by stage, see `engine.memory.stage_work`."""
    notes: tuple[str, ...]
    """What a person should know about these choices."""
    mode: str = "t2v"
    """'t2v', 'i2v' or 'v2v'."""
    input: str = ""
    """Name of the image or video to start from, in the folder of inputs; '' for words alone."""
    fit: str = "crop"
    """'crop' or 'pad'."""
    strength: float = 1.0
    """Share of the steps that is run; below 1 only where a video is changed."""
    guidance_kind: str = "constant"
    eta: float = 0.0
    loras: tuple[tuple[str, float], ...] = ()
    """(name of the file in the folder of LoRAs, weight), in the order they are added up."""
    attention: str = "native"
    """The attention kernel, see `engine.speed`."""
    attention_asked: bool = False
    """True where the installation names this kernel: if it fails, the job does. Else torch's own takes its place."""
    compile: bool = False
    """The transformer's blocks are compiled."""
    cache: str = "off"
    """'off', or a cache of `engine.cache`, which changes the picture."""
    cfg_gate: float = 1.0
    """Share of the steps that run the negative prompt's half; below 1 only with guidance, and it changes the picture."""
    given: tuple[tuple[int, str], ...] = ()
    """(frame number, name of an input): frames that the model is shown, where it takes such (`engine.interpolate.shown`)."""
    hierarchy: HierarchyPlan | None = None
    """Key frames first, then rounds between them; None: one clip at once."""
    wish: str = ""
    """The words that the prompt was refined from; '' where it was not."""
    refiner: str = ""
    parallel: str = ""
    """`engine.parallel.degrees.Degrees` as text; '' for one device."""
    devices: tuple[str, ...] = ()
    """Of each rank; empty for one device."""
    schema_version: int = PLAN_VERSION

    @property
    def sampled_steps(self) -> int:
        """Steps that are really run, at least 1: with `strength` below 1 the first ones are left out, as in diffusers."""
        return sampled_steps(self.steps, self.strength) if self.hierarchy is None else self.hierarchy.steps

    @property
    def frames_shown(self) -> dict[int, str]:
        """Frame number -> name of an input, ascending, of a model that is shown frames; empty for every other."""
        if not self.spec.shown or self.hierarchy is not None:
            return {}
        return dict(sorted([*self.given, *([(0, self.input)] if self.mode == "i2v" else [])]))

    @property
    def shape(self) -> Shape:
        """What memory formulas need to know of the clip."""
        return Shape(self.frames, self.height, self.width, self.guided,
                     encoded_frames(self.mode, self.frames, self.spec.shown, self.given), self.cache)

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"spec": self.spec.to_json(), "latent_shape": list(self.latent_shape), "tile": list(self.tile),
                         "placement": self.placement.to_json(), "forecast": self.forecast.to_json(),
                         "work": dict(self.work), "notes": list(self.notes), "loras": [list(pair) for pair in self.loras],
                         "hierarchy": {} if self.hierarchy is None else self.hierarchy.to_json(),
                         "devices": list(self.devices), "given": [list(pair) for pair in self.given]}

    def request(self) -> GenerationRequest:
        """The request with every field filled in; planning it again gives this plan."""
        if self.hierarchy is not None:
            return request_of(self)
        return GenerationRequest(prompt=self.prompt, negative=self.negative, model=self.model, seed=self.seed,
                                 frames=self.frames, width=self.width, height=self.height, steps=self.steps,
                                 guidance=self.guidance, scheduler=self.scheduler,
                                 image=self.input if self.mode == "i2v" else None,
                                 video=self.input if self.mode == "v2v" else None,
                                 fit=None if self.mode == "t2v" and not self.given else self.fit, given=self.given,
                                 strength=self.strength if self.mode == "v2v" else None,
                                 guidance_kind=self.guidance_kind, eta=self.eta, loras=self.loras, profile=self.profile,
                                 quality=self.allowed or None, precision=asked_for(self.precision), budget=self.budget or None,
                                 device=self.wanted_device or None, cache=self.cache, cfg_gate=self.cfg_gate,
                                 parallel=self.parallel or None, wish=self.wish or None, refiner=self.refiner or None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one finished clip cost on this machine."""

    model: str
    device: str
    work: Mapping[str, float]
    """`Plan.work` of that clip."""
    seconds: Mapping[str, float]
    """`ClipWritten.seconds` of that clip."""
    kind: str = ""
    """`engine.memory.corrections.placement_kind` of its placement; '' where it is not known."""
    rounds: bool = False
    """It was made of key frames and rounds, whose work is counted in other units."""


def plan(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, policy: Policy = DEFAULT, speed: Speed = DEFAULT_SPEED, *,
         lapses: Sequence[Lapse] = (), way: Way | None = None) -> Plan:
    """Resolve `request` for `spec` on `hardware`. A missing seed becomes 0; the studio draws one before it gets here.

    `policy`: which of the ways that fit is taken where the request does not say; by default the fastest this version can
    run, lossless if one fits. `speed`: the attention kernel and compiling, as the installation says. `lapses`: how often
    this job already ran out of memory; it then goes on one rung lower. `way`: this one, whatever `policy` prefers.

    Raises `InvalidRequest` for a value this checkpoint cannot run, `CannotFit` if the memory does not suffice.
    """
    shown = at_once(request, spec)
    if request.hierarchical and not shown:
        return plan_hierarchy(request, spec, lambda wish, model: plan(wish, model, hardware, policy, speed, lapses=lapses), hardware.device)
    check_mode(request, spec)
    hardware, policy = _within(request, hardware), _wished(request, policy)
    frames = _frames(request.frames, spec)
    check_shown(request, spec, frames)
    width = _side("width", request.width, spec.native_width, spec.max_width, spec)
    height = _side("height", request.height, spec.native_height, spec.max_height, spec)
    steps = spec.recommended_steps if request.steps is None else request.steps
    if steps > spec.train_timesteps:
        raise InvalidRequest("steps", f"is {steps}; {spec.name} was trained with {spec.train_timesteps}, so that is the most.",
                             suggestion=spec.train_timesteps)
    guidance = spec.recommended_guidance if request.guidance is None else request.guidance
    strength = _strength(request, steps)
    dtype = compute_dtype(policy.precision, hardware)
    check_precision(policy.precision, policy.quality, hardware)
    cache, gate = _shortcuts(request, guidance, policy)
    encoded = encoded_frames(request.mode, frames, spec.shown, request.given)
    shape = Shape(frames, height, width, guidance > 1.0, encoded, cache)
    kernel = _kernel(speed, hardware, spec, dtype, policy)
    division = divide(request.parallel, spec, shape, hardware, Ways(gate < 1, kernel))
    hardware = division.hardware
    way = way or _way(request, spec, shape, dtype, hardware, policy, lapses)
    work = division.sooner(_work(spec, shape, sampled_steps(steps, strength), gate), height // spec.spatial_scale)
    compiled = not division.devices and compiling_pays(speed, hardware, work=work["sample"], residency=way.placement.transformer.residency,
                              feed_forward=way.placement.feed_forward)
    sampled, padding = latent_frames(spec, frames)
    return Plan(
        prompt=request.prompt, negative=request.negative, model=request.model,
        seed=0 if request.seed is None else request.seed,
        frames=frames, width=width, height=height, steps=steps, guidance=float(guidance), guided=shape.guided,
        scheduler=request.scheduler or spec.scheduler, fps=spec.fps, spec=spec,
        latent_shape=(1, sampled, spec.latent_channels, height // spec.spatial_scale, width // spec.spatial_scale),
        latent_padding=padding, dtype=dtype, device=hardware.device, residency=way.placement.transformer.residency,
        tile=way.placement.tile, predicted_bytes=way.forecast.device_bytes, placement=way.placement, forecast=way.forecast,
        profile=policy.profile, quality=_quality(way, policy.precision, lossy=kernel in LOSSY or (cache, gate) != ("off", 1.0)),
        allowed=policy.quality or "", precision=policy.precision or "auto", budget=request.budget or 0, wanted_device=request.device or "",
        work=work, attention=kernel, attention_asked=speed.attention != "auto", compile=compiled,
        notes=(*shown_notes(request, spec, frames), *way_notes(request, spec, hardware, shape, dtype, way), *speed_notes(kernel, compiled),
               *mode_notes(request, spec, frames, steps, sampled_steps(steps, strength), strength), *memory_notes(way, policy),
               *words(cache, gate), *precision_notes(policy.precision, hardware), *division.notes, *told(lapses, way.placement)),
        mode=request.mode, input=request.image or request.video or "", fit=request.fit or "crop", strength=strength,
        guidance_kind=request.guidance_kind or "constant", eta=_eta(request, spec),
        given=request.given if shown else (), loras=request.loras, cache=cache, cfg_gate=gate, parallel=division.text,
        devices=division.devices, wish=request.wish or "", refiner=request.refiner or "",
    )


def _kernel(speed: Speed, hardware: Hardware, spec: ModelSpec, dtype: str, policy: Policy) -> str:
    """The attention kernel. Raises `InvalidRequest` for one that loses more than the quality allows."""
    kernel = choose_kernel(speed.attention, hardware, head=spec.width // spec.heads, compute=dtype)
    if kernel in LOSSY and policy.quality not in (None, "fast"):
        raise InvalidRequest("attention", f"is {kernel!r}, which multiplies in 8 bits and so changes the picture, and quality is "
                                          f"{policy.quality}. Use quality fast, or set SPROCKET_ATTENTION to auto.", suggestion="auto")
    return kernel


def _way(request: GenerationRequest, spec: ModelSpec, shape: Shape, dtype: str, hardware: Hardware, policy: Policy,
         lapses: Sequence[Lapse]) -> Way:
    if lapses:
        return way_after(spec, shape, dtype, hardware, policy, lapses)
    try:
        return choose(spec, shape, dtype, hardware, policy)
    except CannotFit as error:
        if request.budget != hardware.free_bytes:
            raise
        raise CannotFit(f"{error} The budget of {request.budget / 1e9:.1f} GB is the limit here; raise it or leave it out to use "
                        "all that is free.") from error


def _wished(request: GenerationRequest, policy: Policy) -> Policy:
    """`policy` with what the request says on top."""
    return replace(policy, profile=request.profile or policy.profile, quality=request.quality or policy.quality,
                   precision=asked_for(request.precision) or policy.precision)


def _within(request: GenerationRequest, hardware: Hardware) -> Hardware:
    """`hardware` with no more free memory than the request's budget. Raises `InvalidRequest` where it asks for another device."""
    kind = "cpu" if hardware.device == "cpu" else "cuda"
    if request.device is not None and request.device != kind:
        raise InvalidRequest("device", f"is {request.device}, and the one here is {kind} ({hardware.name}). Use {kind}, or leave "
                                       "device out.", suggestion=kind)
    return hardware if request.budget is None else replace(hardware, free_bytes=min(hardware.free_bytes, request.budget))


def check_mode(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raises `InvalidRequest` where the checkpoint cannot do what is asked for: it lacks the mode, or its input is missing."""
    if request.mode in spec.modes or (request.hierarchical and request.mode != "v2v"):
        return
    if request.mode == "i2v":
        raise InvalidRequest("image", f"is given, and {spec.name} does not take one: it makes videos from words. Choose an "
                                      "image-to-video model (`sprocket models list` says which), or leave the image out.")
    if request.mode == "v2v":
        raise InvalidRequest("video", f"is given, and {spec.name} does not take one: it makes videos from an image. Choose a "
                                      "text-to-video model, which can also change videos.")
    if spec.shown:
        raise InvalidRequest("given", f"names no frames; {spec.name} is shown the first frame and the last. Give an image for each.")
    raise InvalidRequest("image", f"is missing; {spec.name} makes videos from a first frame. Give an image, or choose a "
                                  "text-to-video model.")


def sampled_steps(steps: int, strength: float) -> int:
    """How many of `steps` are run at `strength`; rounds down as diffusers' `get_timesteps`."""
    return min(int(steps * strength), steps)


def _strength(request: GenerationRequest, steps: int) -> float:
    if request.mode != "v2v":
        return 1.0
    strength = DEFAULT_STRENGTH if request.strength is None else request.strength
    if sampled_steps(steps, strength) < 1:
        if request.strength is None:  # a single step: all of it
            return 1.0
        least = math.ceil(1000 / steps) / 1000
        raise InvalidRequest("strength", f"is {strength:g}; of {steps} steps not one would be run. Use at least {least:g}, or "
                                         "more steps.", suggestion=least)
    return strength


def _eta(request: GenerationRequest, spec: ModelSpec) -> float:
    if request.eta and (request.scheduler or spec.scheduler) != "ddim":
        raise InvalidRequest("eta", f"is {request.eta:g}; only the ddim scheduler has it, and this clip is made with "
                                    f"{request.scheduler or spec.scheduler}. Choose scheduler ddim, or leave eta out.")
    return request.eta or 0.0


def _shortcuts(request: GenerationRequest, guidance: float, policy: Policy) -> tuple[str, float]:
    """(cache, gate) of the request. Both are lossy, so a wish for better quality refuses them."""
    cache, gate = request.cache or "off", 1.0 if request.cfg_gate is None else request.cfg_gate
    if gate < 1 and guidance <= 1:
        raise InvalidRequest("cfg_gate", f"is {gate:g}, and guidance {guidance:g} runs no negative prompt that could be left out. Use "
                                         "guidance above 1, or leave cfg_gate out.")
    for field, value, exact in (("cache", cache, "off"), ("cfg_gate", gate, 1.0)):
        if value != exact and policy.quality in ("lossless", "near-lossless"):
            raise InvalidRequest(field, f"is {value}, which changes the picture more than quality {policy.quality} allows. Ask for "
                                        f"quality fast, or leave {field} out.")
    return cache, gate


def encoded_frames(mode: str, frames: int, shown: str, given: tuple[tuple[int, str], ...]) -> int:
    """Frames of the image or video that is encoded first, at most at once."""
    if shown == "masked":  # a video as long as the clip, most of it blank
        return frames if given or mode == "i2v" else 0
    return {"i2v": 1, "v2v": frames}.get(mode, 1 if shown else 0)


def _quality(way: Way, precision: str | None, *, lossy: bool) -> str:
    """What the notes explain: 'lossless', 'near-lossless' or 'fast'."""
    own = "fast" if lossy else "near-lossless" if way.quality == "tiles" else way.quality
    return worse(own, LOSS.get(precision or "", "lossless"))


def _work(spec: ModelSpec, shape: Shape, steps: int, gate: float) -> dict[str, float]:
    """Work by stage; of sampling only what is not left out."""
    work = stage_work(spec, shape, steps, given_frames=shape.given)
    return work | {"sample": work["sample"] * work_share(shape.cache, gate, steps, shape.guided)}


def forecast_seconds(plan: Plan, timings: Sequence[Timing]) -> tuple[float | None, str]:
    """(seconds, basis): wall time of the whole job, see `forecast_stages`; (None, why) without history."""
    stages, basis = forecast_stages(plan, timings)
    return (sum(stages.values()) if stages else None), basis


def forecast_stages(plan: Plan, timings: Sequence[Timing], *, alike_only: bool = False) -> tuple[dict[str, float], str]:
    """({stage: wall seconds}, basis) from this machine's own history, newest timing last; ({}, why) without any.

    Each stage costs its work times the median seconds per work of the same model on the same device, both with rounds or both
    without, and with the same kind of placement if it was ever used (`alike_only`: not otherwise). Loading is counted at its
    median too, though a worker that still holds the model skips it.
    """
    mine = [t for t in timings if t.model == plan.model and t.device == plan.device]
    known = [t for t in mine if t.rounds == (plan.hierarchy is not None)][-RECENT:]
    alike = [t for t in known if t.kind == placement_kind(plan.placement)] or ([] if alike_only else known)
    if not alike:
        return {}, f"nothing {'like it ' if mine else ''}measured with this model on this machine yet"
    found = {}
    for stage, work in plan.work.items():
        rates = [t.seconds[stage] / t.work[stage] for t in alike if t.work.get(stage) and stage in t.seconds]
        if rates:
            found[stage] = median(rates) * work
    return found, f"from {len(alike)} clip{'s' if len(alike) > 1 else ''} made on this machine"


def disk_need(plan: Plan) -> int:
    """Bytes a job may write, generously: twice a poorly compressed clip, and its saved sampling states."""
    pixels = plan.frames * plan.width * plan.height
    kept = 3 * pixels if plan.hierarchy is not None else 0  # each frame, until the file is whole
    return kept + 2 * (pixels * 3 // 8) + 3 * (2 * math.prod(plan.latent_shape) * 4) + 2**20


def _frames(wish: int | None, spec: ModelSpec) -> int:
    frames, step, top = spec.native_frames if wish is None else wish, spec.frame_step, spec.max_frames
    if frames > top:
        best = top - (top - 1) % step
        raise InvalidRequest("frames", f"is {frames}; {spec.name} makes at most {top}. Use {best}.", suggestion=best)
    if (frames - 1) % step:
        below = frames - (frames - 1) % step
        near = min((n for n in (below, below + step) if n <= top), key=lambda n: abs(n - frames))
        other = below + step if near == below else below
        also = f" (or {other})" if other <= top else ""
        raise InvalidRequest("frames", f"is {frames}; {spec.name} makes {step}k + 1 frames (1, {step + 1}, {2 * step + 1}, "
                                       f"...), at most {top}. The nearest is {near}{also}.", suggestion=near)
    return frames


def _side(name: str, wish: int | None, native: int, top: int, spec: ModelSpec) -> int:
    value, unit = native if wish is None else wish, spec.size_multiple
    if spec.fixed_size and value != native:
        raise InvalidRequest(name, f"is {value}; {spec.name} runs only at its own {spec.native_width} x "
                                   f"{spec.native_height}. Use {native}.", suggestion=native)
    if value > top:
        raise InvalidRequest(name, f"is {value}; {spec.name} makes at most {top} pixels here. Use {top}.", suggestion=top)
    if value % unit or value < unit:
        near = min(max(unit, (value + unit // 2) // unit * unit), top - top % unit)
        raise InvalidRequest(name, f"is {value}; {spec.name} needs a multiple of {unit}. The nearest is {near}.",
                             suggestion=near)
    return value


def check_executable(plan: Plan) -> None:
    """Raises `ModelNotFound` where the weights are not here, `CannotFit` where this version cannot do what `plan` says."""
    if not plan.spec.installed:
        raise ModelNotFound(f"{plan.spec.name} is not on this machine; only facts about it are, enough to plan and not to run. "
                            "Fetch its files first.")
    if plan.cache == "pab" and plan.placement.feed_forward == "chunked":
        raise CannotFit("the cache pab keeps the attention of every block, and this plan works in chunks because memory is short. Choose "
                        "the cache magcache or taylorseer, which keep nothing of that size, or off.")
    if reasons := unsupported(plan.placement, plan.dtype, plan.device):
        raise CannotFit(f"this plan would {', '.join(reasons)}; this version of Sprocket can forecast that and not run it. Plan "
                        "again with more memory, or ask for fewer frames or a smaller size.")
