"""What a plan tells people of how their clip is made, a sentence for each thing worth knowing. Pure, no torch."""

from __future__ import annotations

from engine.choices import Policy, Way
from engine.hardware import Hardware
from engine.memory import Shape
from engine.memory.corrections import placement_kind
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.speed import LOSSY


def way_notes(request: GenerationRequest, spec: ModelSpec, hardware: Hardware, shape: Shape, dtype: str, way: Way) -> tuple[str, ...]:
    notes = [f"{dtype} on {hardware.name} ({hardware.device})."]
    placement = way.placement
    if request.negative and not shape.guided:
        notes.append("The negative prompt has no effect, because guidance is 1 or less.")
    for part, home in placement.homes.items():
        name = part.replace("_", " ")
        if home.precision != dtype:
            notes.append(f"The {name}'s weights are kept in {home.precision.upper()}, which changes the picture a little.")
        if home.residency == "streamed":
            notes.append(f"The {name} passes through the device block by block, from {'memory' if home.source == 'ram' else 'disk'}.")
    staged = [part.replace("_", " ") for part, home in placement.homes.items() if home.residency == "staged"]
    if len(staged) == len(placement.homes):
        notes.append("Weights move to the GPU stage by stage, because they do not fit together.")
    elif staged:
        notes.append(f"On the device only while at work: {', '.join(staged)}.")
    if placement.feed_forward == "chunked":
        notes.append("The feed-forward works in chunks to save memory; the result is the same.")
    if placement.passes == 2:
        notes.append("The two halves of guidance run one after the other to save memory.")
    if placement.decode == "banded":
        notes.append("Frames are decoded band by band to save memory; the result is that of decoding them whole.")
    if not placement.exact:
        notes.append(f"Frames are decoded in tiles of {placement.tile[1]} x {placement.tile[0]} pixels to save memory; "
                     "seams and colours may differ a little from an exact decode.")
    if (shape.width, shape.height) != (spec.native_width, spec.native_height):
        notes.append(f"{spec.name} was trained at {spec.native_width} x {spec.native_height}; other sizes may look worse.")
    return tuple(notes)


def speed_notes(kernel: str, compiled: bool) -> list[str]:
    notes = []
    if kernel in LOSSY:
        notes.append(f"Attention multiplies in 8 bits ({kernel}), which changes the picture a little.")
    elif kernel != "native":
        notes.append(f"Attention kernel: {kernel}.")
    if compiled:
        notes.append("The transformer's blocks are compiled first; the first step of a new size takes longer, all others less.")
    return notes


def mode_notes(request: GenerationRequest, spec: ModelSpec, frames: int, steps: int, sampled: int, strength: float) -> list[str]:
    notes = []
    if spec.position == "learned" and frames != spec.native_frames:
        notes.append(f"{spec.name} has learned positions for {spec.native_frames} frames only; other counts may look worse.")
    if request.mode == "v2v":
        notes.append(f"The video is changed with strength {strength:g}: {sampled} of {steps} steps are run.")
    if request.guidance_kind == "as-published":
        notes.append("Guidance swings up and down over the steps, as the published code does.")
    return notes


def memory_notes(way: Way, policy: Policy) -> list[str]:
    """Said only where it matters: what this machine's own jobs changed about the forecast."""
    kind = placement_kind(way.placement)
    return [f"Jobs like this took {one.ratio:.2f} times the memory that formulas say, in {one.jobs} clips made on this machine; the "
            "forecast is corrected by that." for one in policy.corrections if one.kind == kind and abs(one.ratio - 1) >= 0.05]
