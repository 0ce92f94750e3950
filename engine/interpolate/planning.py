"""A hierarchical request against its models and this machine. Pure, no torch.

    request -> levels -> the plan of stage 1 (a clip of the model, its frames far apart) + the plan of a block of stage 2

The key frames are made by the model that was asked for: as a clip over the whole action, of which key frames are taken (from
words alone, or from a given first frame where the model takes one), or, where other key frames are given, by the stage-two
model itself, which takes any set of known frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidRequest
from engine.interpolate.adapter import FILE, Facts, read_facts
from engine.interpolate.levels import Hierarchy, hierarchy, rate_words
from engine.models.catalogue import POCKET_I2V, embedded, pocket_dir
from engine.request import GenerationRequest
from engine.spec import ModelSpec, read_spec

if TYPE_CHECKING:
    from engine.plan import Plan

POCKET_STAGE2 = "pocket-stage2"
MOST_AT_ONCE = 13
"""Key frames that the stage-two model makes in one block, where some are given."""
BLOCKS_AT_ONCE = {"cpu": 2, "cuda": 8}
"""Most blocks in one batch: a processor gains little from more."""
SMALL = 4 * 2**30
"""A batch whose memory stays below this is taken whatever the plan of one clip says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HierarchyPlan:
    """What `engine.interpolate.hierarchy_run` needs beside the plan of the whole clip."""

    levels: Hierarchy
    stage_one: str
    """How key frames are made: 'clip' (from words), 'image' (a clip from the given first frame), 'slots' (by the stage-two model), or
    'video' (they are the frames of one)."""
    clip_frames: int
    """Of the clip that key frames are taken from; 0 for 'slots'."""
    interpolator: ModelSpec
    """The model that the adapter stands on."""
    adapter: Path
    facts: Facts
    blocks_at_once: int
    inputs: tuple[tuple[int, str], ...]
    """(frame number, name of an input) of given frames."""
    edits: tuple[tuple[int, int | str], ...]
    review: bool
    image: bool
    """True where frame 0 was given as the request's image."""

    first_steps: int
    """Denoising steps of stage 1."""
    video: str = ""
    """Name of the input whose frames the key frames are."""
    then: str = ""
    """Of a second one, whose frames come after those that are made between (`engine.interpolate.filling`)."""

    @property
    def steps(self) -> int:
        """Denoising steps of all stages and blocks."""
        again = sum(isinstance(what, int) for _, what in self.edits)
        return self.first_steps + (again + self.levels.blocks) * self.facts.steps

    def to_json(self) -> dict[str, Any]:
        """What a recipe and a clip's page say of it."""
        levels = self.levels
        return {"sentence": levels.sentence(), "key_frames": levels.key_frames, "key_fps": levels.key_fps, "fps": levels.fps,
                "stride": levels.stride, "frames": levels.frames, "stage_one": self.stage_one, "interpolator": self.interpolator.name,
                **({"between": [index for index in range(levels.frames) if not levels.is_key(index)]} if self.then else {}),
                "given": [index for index, _ in self.inputs], "edited": [index for index, _ in self.edits],
                "levels": [{"fps": level.fps, "frames": level.frames, "blocks": len(level.blocks), "makes": level.makes}
                           for level in levels.levels]}


def stage_two_of(spec: ModelSpec) -> tuple[Path, Path] | None:
    """(folder of the model that frames between frames are made with, its adapter); None where the model has none.

    The embedded models share one; any other model may have a `stage2.safetensors` in its own folder.
    """
    folders = embedded()
    if spec.path.resolve() in {folder.resolve() for folder in folders.values()}:
        adapter = pocket_dir().with_name(POCKET_STAGE2) / FILE
        return (folders[POCKET_I2V], adapter) if adapter.is_file() else None
    adapter = spec.path / FILE
    return (spec.path, adapter) if adapter.is_file() else None


def plan_hierarchy(request: GenerationRequest, spec: ModelSpec, plan_one: Callable[[GenerationRequest, ModelSpec], Plan],
                   device: str) -> Plan:
    """The plan of the whole clip. `plan_one`: plans an ordinary request for this machine; `device`: its device.

    Raises `InvalidRequest`, `CannotFit` (as `plan_one`), `ModelInvalid` (a damaged adapter).
    """
    levels, facts, found = levels_of(request, spec)
    interpolator = read_spec(found[0], found[0].name)
    inputs = ((0, request.image), *request.given) if request.image else request.given
    how, clip = _stage_one(levels, spec)
    if how == "slots":
        _check_slots(request, spec, interpolator)
    bare = replace(request, frames=None, key_frames=None, fps=None, given=(), edits=(), review=False, image=None, fit=None)
    wish = replace(bare, frames=clip or None)
    if how == "image":
        wish = replace(wish, image=inputs[0][1], fit=request.fit)
    first = plan_one(wish, spec) if how != "slots" else None
    second = plan_one(block_request(bare, interpolator), interpolator)
    base = first or second
    plan = HierarchyPlan(levels=levels, stage_one=how, clip_frames=clip, interpolator=interpolator, adapter=found[1], facts=facts,
                         blocks_at_once=blocks_at_once(device, facts.slots, second), inputs=tuple(inputs), edits=request.edits,
                         review=request.review, first_steps=first.sampled_steps if first else facts.steps,
                         image=request.image is not None)
    _check_edits(request, levels)
    return replace(base, model=request.model, spec=spec, frames=levels.frames, fps=levels.fps, hierarchy=plan, fit=request.fit or "crop",
                   work=rounds_work(plan, first, second), predicted_bytes=max(base.predicted_bytes, second.predicted_bytes),
                   mode="i2v" if how == "image" else "t2v", input=inputs[0][1] if how == "image" else "",
                   notes=(_sentence(levels), *base.notes, *_notes(plan, interpolator)))


def levels_of(request: GenerationRequest, spec: ModelSpec) -> tuple[Hierarchy, Facts, tuple[Path, Path]]:
    """The levels of a request, the adapter's facts, and where model and adapter lie. Raises `InvalidRequest`, `ModelInvalid`."""
    found = stage_two_of(spec)
    if found is None:
        raise InvalidRequest("key_frames", f"or a frame rate is asked for, and {spec.name} has no stage-two weights ({FILE} in its folder) "
                                           "which make frames between frames. Use the model pocket, or make the clip at the model's own "
                                           "rate and smooth it with `sprocket interpolate CLIP --method flow`.", suggestion="pocket")
    facts = read_facts(found[1])
    given = [index for index, _ in request.given] + ([0] if request.image else [])
    fps = request.fps if request.fps is not None else spec.fps
    levels = hierarchy(request.frames, fps, request.key_frames, given, most_keys=spec.max_frames, slots=facts.slots)
    keyed = set(levels.given_keys)
    if keyed and (keyed != {0} or "i2v" not in spec.modes) and levels.key_frames > MOST_AT_ONCE:
        raise InvalidRequest("key_frames", f"is {levels.key_frames}, and some of them are given; at most {MOST_AT_ONCE} can then be made "
                                           "together. Use fewer: each round doubles them.", suggestion=MOST_AT_ONCE)
    return levels, facts, found


def stage_one_plan(plan: Plan) -> Plan:
    """The ordinary plan of the clip that key frames are taken from."""
    made = plan.hierarchy
    assert made is not None and made.clip_frames
    frames = made.clip_frames
    _, _, channels, height, width = plan.latent_shape
    from engine.memory import latent_frames

    sampled, padding = latent_frames(plan.spec, frames)
    return replace(plan, hierarchy=None, frames=frames, fps=plan.spec.fps, latent_shape=(1, sampled, channels, height, width),
                   latent_padding=padding)


def stage_two_plan(plan: Plan) -> Plan:
    """A plan by which the model cache loads the stage-two model."""
    made = plan.hierarchy
    assert made is not None
    return replace(plan, hierarchy=None, spec=made.interpolator, model=made.interpolator.name, loras=())


def request_of(plan: Plan) -> GenerationRequest:
    """`Plan.request` of a hierarchical plan."""
    made = plan.hierarchy
    assert made is not None
    inputs = dict(made.inputs)
    image = inputs.pop(0) if made.image else None
    bare = replace(plan, hierarchy=None, frames=plan.spec.native_frames, mode="t2v", input="").request()
    return dataclasses.replace(bare, frames=plan.frames, fps=plan.fps, key_frames=made.levels.key_frames, image=image,
                               given=tuple(inputs.items()), edits=made.edits, review=made.review,
                               fit=plan.fit if made.inputs or made.edits else None)


def texts(plan: Plan) -> tuple[str, ...]:
    """The prompts of a hierarchical plan as the models read them: with the words for each rate."""
    made = plan.hierarchy
    if made is None:
        return (plan.prompt,)
    rates = [level.fps for level in made.levels.levels] + [made.levels.key_fps]
    return tuple(rate_words(fps) + plan.prompt for fps in rates)


def _stage_one(levels: Hierarchy, spec: ModelSpec) -> tuple[str, int]:
    """(how, frames of the clip)."""
    keyed = set(levels.given_keys)
    step = spec.frame_step
    clip = max(spec.native_frames, -(-(levels.key_frames - 1) // step) * step + 1)
    if not keyed and "t2v" in spec.modes:
        return "clip", clip
    if keyed == {0} and "i2v" in spec.modes:
        return "image", clip
    return "slots", 0


def _check_slots(request: GenerationRequest, spec: ModelSpec, interpolator: ModelSpec) -> None:
    """Raises `InvalidRequest` for what says how a clip of the model is made, where the key frames come out of none."""
    usual = {"loras": ((),), "scheduler": (None, interpolator.scheduler, spec.scheduler), "eta": (None, 0.0), "cache": (None, "off"),
             "cfg_gate": (None, 1.0)}
    said = [name for name, values in usual.items() if getattr(request, name) not in values]
    if said:
        first, others = said[0], f", nor have {', '.join(said[1:])}" if said[1:] else ""
        instead = "give no frames but the first" if "i2v" in spec.modes else "give no frames"
        raise InvalidRequest(first, f"has no effect here{others}: key frames around given ones are made by the stage-two model, and not "
                                    f"out of a clip. Leave that out, or {instead}.",
                             suggestion=None if first == "loras" else usual[first][-1])


def block_request(bare: GenerationRequest, interpolator: ModelSpec) -> GenerationRequest:
    """An ordinary request whose plan says how the stage-two model's weights are kept."""
    image = None if "t2v" in interpolator.modes else "0" * 64 + ".png"
    return replace(bare, frames=interpolator.native_frames, image=image, loras=(), cache=None, cfg_gate=None, scheduler=None, eta=None)


def blocks_at_once(device: str, slots: int, second: Plan) -> int:
    """Blocks of `slots` latent frames in one batch: no more than `second`, a clip of the stage-two model itself, has in one pass, as
    that is what its memory was planned for; more where that stays small."""
    planned = second.latent_shape[1] * (2 if second.guided and second.placement.passes == 1 else 1)
    small = SMALL * planned // (second.predicted_bytes * slots)
    return max(1, min(BLOCKS_AT_ONCE[device.partition(":")[0]], max(planned // slots, small)))


def rounds_work(plan: HierarchyPlan, first: Plan | None, second: Plan) -> dict[str, float]:
    """Work by stage: the clip of stage 1, and the rounds counted in its units of slots and steps."""
    work = dict((first or second).work)
    per_slot = second.work["sample"] / (second.latent_shape[1] * second.sampled_steps * (2 if second.guided else 1))
    rounds = plan.levels.slots * plan.facts.steps * per_slot
    frame = second.work["decode"] / second.frames
    work["sample"] = (first.work["sample"] + first.work["decode"] if first else 0.0) + rounds + 2 * plan.levels.frames * frame
    work["decode"] = work["verify"] = work["verify"] / (first or second).frames * plan.levels.frames
    return work


def _check_edits(request: GenerationRequest, levels: Hierarchy) -> None:
    for index, what in request.edits:
        if index not in levels.keys:
            raise InvalidRequest("edits", f"names frame {index}, which is no key frame; they are {levels.stride} frames apart, 0 to "
                                          f"{levels.frames - 1}.")
        if isinstance(what, int) and index in levels.given:
            raise InvalidRequest("edits", f"would make frame {index} anew, which is given. Replace it by another image instead.")


def _sentence(levels: Hierarchy) -> str:
    return levels.sentence() + "."


def _notes(plan: HierarchyPlan, interpolator: ModelSpec) -> tuple[str, ...]:
    notes = [f"The rounds have {plan.levels.blocks} blocks, made with {interpolator.name} and its stage-two weights."]
    if plan.levels.given:
        late = [index for index in plan.levels.given if index % plan.levels.stride]
        notes.append(f"{len(plan.levels.given)} frames are given and stay as they are."
                     + (f" Frame {late[0]} is no key frame; it is known from the round on that reaches it." if late else ""))
    if plan.facts.base and plan.facts.base != interpolator.fingerprint:
        notes.append("The stage-two weights were trained on other weights of this model; frames between may be worse.")
    return tuple(notes)
