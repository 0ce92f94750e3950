"""The request resolved against one checkpoint and one machine: nothing optional left. Pure, no torch, milliseconds.

    GenerationRequest + ModelSpec + Hardware --plan--> Plan        or InvalidRequest / CannotFit, with what would do
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine.errors import CannotFit, InvalidRequest
from engine.hardware import Hardware
from engine.memory import Shape, latent_frames, peak_bytes, stage_work
from engine.request import GenerationRequest
from engine.spec import ModelSpec

PLAN_VERSION = 1
MEMORY_SHARE = 0.95
"""Of the free memory a plan may count on; the rest is for what changes between planning and running."""
DEFAULT_STRENGTH = 0.8
"""Of a video to video request, as in diffusers."""
RECENT = 20
"""Timings a forecast looks at, newest last."""


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
    """'resident': all weights stay on the device; 'staged': each component only while it works."""
    tile: tuple[int, int]
    """Pixels (height, width) the decoder works on at once; the clip's own size means no tiling."""
    predicted_bytes: int
    """Highest memory of the device, by the formula in `engine.memory`."""
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
    schema_version: int = PLAN_VERSION

    @property
    def sampled_steps(self) -> int:
        """Steps that are really run, at least 1: with `strength` below 1 the first ones are left out, as in diffusers."""
        return sampled_steps(self.steps, self.strength)

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"spec": self.spec.to_json(), "latent_shape": list(self.latent_shape), "tile": list(self.tile),
                         "work": dict(self.work), "notes": list(self.notes)}

    def request(self) -> GenerationRequest:
        """The request with every field filled in; planning it again gives this plan."""
        return GenerationRequest(prompt=self.prompt, negative=self.negative, model=self.model, seed=self.seed,
                                 frames=self.frames, width=self.width, height=self.height, steps=self.steps,
                                 guidance=self.guidance, scheduler=self.scheduler,
                                 image=self.input if self.mode == "i2v" else None,
                                 video=self.input if self.mode == "v2v" else None,
                                 fit=None if self.mode == "t2v" else self.fit,
                                 strength=self.strength if self.mode == "v2v" else None,
                                 guidance_kind=self.guidance_kind, eta=self.eta)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one finished clip cost on this machine."""

    model: str
    device: str
    work: Mapping[str, float]
    """`Plan.work` of that clip."""
    seconds: Mapping[str, float]
    """`ClipWritten.seconds` of that clip."""


def plan(request: GenerationRequest, spec: ModelSpec, hardware: Hardware) -> Plan:
    """Resolve `request` for `spec` on `hardware`. A missing seed becomes 0; the studio draws one before it gets here.

    Raises `InvalidRequest` for a value this checkpoint cannot run, `CannotFit` if the memory does not suffice.
    """
    check_mode(request, spec)
    frames = _frames(request.frames, spec)
    width = _side("width", request.width, spec.native_width, spec.max_width, spec)
    height = _side("height", request.height, spec.native_height, spec.max_height, spec)
    steps = spec.recommended_steps if request.steps is None else request.steps
    if steps > spec.train_timesteps:
        raise InvalidRequest("steps", f"is {steps}; {spec.name} was trained with {spec.train_timesteps}, so that is the most.",
                             suggestion=spec.train_timesteps)
    guidance = spec.recommended_guidance if request.guidance is None else request.guidance
    strength = _strength(request, steps)
    dtype = _dtype(spec, hardware)
    shape = Shape(frames, height, width, guidance > 1.0)
    residency, tile, need = _placement(spec, shape, dtype, hardware)
    sampled, padding = latent_frames(spec, frames)
    return Plan(
        prompt=request.prompt, negative=request.negative, model=request.model,
        seed=0 if request.seed is None else request.seed,
        frames=frames, width=width, height=height, steps=steps, guidance=float(guidance), guided=shape.guided,
        scheduler=request.scheduler or spec.scheduler, fps=spec.fps, spec=spec,
        latent_shape=(1, sampled, spec.latent_channels, height // spec.spatial_scale, width // spec.spatial_scale),
        latent_padding=padding, dtype=dtype, device=hardware.device, residency=residency, tile=tile,
        predicted_bytes=need,
        work=stage_work(spec, shape, sampled_steps(steps, strength), given_frames={"i2v": 1, "v2v": frames}.get(request.mode, 0)),
        notes=(*_notes(request, spec, hardware, shape, dtype, residency, tile), *_mode_notes(request, spec, frames, steps, strength)),
        mode=request.mode, input=request.image or request.video or "", fit=request.fit or "crop", strength=strength,
        guidance_kind=request.guidance_kind or "constant", eta=_eta(request, spec),
    )


def check_mode(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raises `InvalidRequest` where the checkpoint cannot do what is asked for: it lacks the mode, or its input is missing."""
    if request.mode in spec.modes:
        return
    if request.mode == "i2v":
        raise InvalidRequest("image", f"is given, and {spec.name} does not take one: it makes videos from words. Choose an "
                                      "image-to-video model (`sprocket models list` says which), or leave the image out.")
    if request.mode == "v2v":
        raise InvalidRequest("video", f"is given, and {spec.name} does not take one: it makes videos from an image. Choose a "
                                      "text-to-video model, which can also change videos.")
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


def forecast_seconds(plan: Plan, timings: Sequence[Timing]) -> tuple[float | None, str]:
    """(seconds, basis): wall time of the whole job from this machine's own history, newest timing last.

    Each stage costs its work times the median seconds per work of the same model on the same device. Loading is
    counted at its median too, though a worker that still holds the model skips it. (None, why) without history.
    """
    alike = [t for t in timings if t.model == plan.model and t.device == plan.device][-RECENT:]
    if not alike:
        return None, "nothing measured with this model on this machine yet"
    total = 0.0
    for stage, work in plan.work.items():
        rates = [t.seconds[stage] / t.work[stage] for t in alike if t.work.get(stage) and stage in t.seconds]
        total += median(rates) * work if rates else 0.0
    return total, f"from {len(alike)} clip{'s' if len(alike) > 1 else ''} made on this machine"


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


def _dtype(spec: ModelSpec, hardware: Hardware) -> str:
    """bf16 where the device computes it natively, else fp32. fp16 is never used: T5 overflows in it."""
    return "bf16" if hardware.bf16 else "fp32"


def _placement(spec: ModelSpec, shape: Shape, dtype: str, hardware: Hardware) -> tuple[str, tuple[int, int], int]:
    """(residency, tile, peak bytes) of the first way that fits, from fastest to smallest. Raises `CannotFit`."""
    budget = int(hardware.free_bytes * MEMORY_SHARE)
    for residency, tile in _ways(spec, shape, hardware):
        need = peak_bytes(spec, shape, dtype, device=hardware.device, staged=residency == "staged", tile=tile)
        if need <= budget:
            return residency, tile, need
    raise CannotFit(f"{shape.frames} frames of {shape.width} x {shape.height} with {spec.name} need about {_gb(need)} of "
                    f"memory; {hardware.name} has {_gb(hardware.free_bytes)} free of {_gb(hardware.total_bytes)}. "
                    + _what_fits(spec, shape, dtype, hardware, budget))


def _ways(spec: ModelSpec, shape: Shape, hardware: Hardware) -> list[tuple[str, tuple[int, int]]]:
    whole = (shape.height, shape.width)
    tile = tile_size(spec)
    tiles = [whole, tile] if tile[0] < shape.height or tile[1] < shape.width else [whole]
    # Memory of the processor is where staged weights wait, so staging saves none there.
    homes = ["resident", "staged"] if hardware.device.startswith("cuda") else ["resident"]
    return [(home, size) for home in homes for size in tiles]


def tile_size(spec: ModelSpec) -> tuple[int, int]:
    """Pixels (height, width) of a decoder tile: about half the native size.

    Tiles overlap by a sixth of their height and a fifth of their width; only where these are whole latents do the
    tiles join to the size of the clip.
    """
    unit = spec.spatial_scale
    return (max(1, round(spec.native_height / 2 / (6 * unit))) * 6 * unit,
            max(1, round(spec.native_width / 2 / (5 * unit))) * 5 * unit)


def _what_fits(spec: ModelSpec, shape: Shape, dtype: str, hardware: Hardware, budget: int) -> str:
    """The longest, then the largest smaller clip that would fit, as advice."""
    def fits(smaller: Shape) -> bool:
        return any(peak_bytes(spec, smaller, dtype, device=hardware.device, staged=home == "staged", tile=tile) <= budget
                   for home, tile in _ways(spec, smaller, hardware))

    for frames in range(shape.frames - spec.frame_step, 0, -spec.frame_step):
        if fits(dataclasses.replace(shape, frames=frames)):
            return f"{frames} frames at this size would fit."
    unit = spec.size_multiple
    for percent in range(95, 0, -5):
        height, width = (max(unit, side * percent // 100 // unit * unit) for side in (shape.height, shape.width))
        if not spec.fixed_size and fits(dataclasses.replace(shape, height=height, width=width, frames=1)):
            return f"1 frame of {width} x {height} would fit."
    return "Its weights alone do not fit; free memory, or choose a smaller model."


def _notes(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, shape: Shape, dtype: str, residency: str,
           tile: tuple[int, int]) -> tuple[str, ...]:
    notes = [f"{dtype} on {hardware.name} ({hardware.device})."]
    if request.negative and not shape.guided:
        notes.append("The negative prompt has no effect, because guidance is 1 or less.")
    if residency == "staged":
        notes.append("Weights move to the GPU stage by stage, because they do not fit together.")
    if tile != (shape.height, shape.width):
        notes.append(f"Frames are decoded in tiles of {tile[1]} x {tile[0]} pixels to save memory.")
    if (shape.width, shape.height) != (spec.native_width, spec.native_height):
        notes.append(f"{spec.name} was trained at {spec.native_width} x {spec.native_height}; other sizes may look worse.")
    return tuple(notes)


def _mode_notes(request: GenerationRequest, spec: ModelSpec, frames: int, steps: int, strength: float) -> list[str]:
    notes = []
    if spec.position == "learned" and frames != spec.native_frames:
        notes.append(f"{spec.name} has learned positions for {spec.native_frames} frames only; other counts may look worse.")
    if request.mode == "v2v":
        notes.append(f"The video is changed with strength {strength:g}: {sampled_steps(steps, strength)} of {steps} steps are run.")
    if request.guidance_kind == "as-published":
        notes.append("Guidance swings up and down over the steps, as the published code does.")
    return notes


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
