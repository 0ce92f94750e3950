"""The frames between two videos: from the last of the first to the first of the second, and all of it as one clip. Pure, no torch.

    first   ... 0 0 0 0                      frames of both stay as they are
    between         . . . . . . .            made: by rounds that halve the distance, or by optical flow
    second                        0 0 0 0 ...

A round's windows see frames of both videos beyond the gap, as far apart as the round's own: they say how things move into it
and out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.errors import InvalidRequest
from engine.interpolate.adapter import read_facts
from engine.interpolate.levels import Block, Hierarchy, Level
from engine.interpolate.plan import NOT_GENERATION, InterpolatePlan, even_size, memory_of
from engine.interpolate.planning import HierarchyPlan, block_request, blocks_at_once, rounds_work
from engine.interpolate.request import DEFAULT_BETWEEN, MAX_BETWEEN, InterpolateRequest
from engine.interpolate.smoothing import Origin, stage_two_for
from engine.media.probe import VideoFacts
from engine.request import MAX_FPS, MAX_KEY_FRAMES, MIN_FPS, GenerationRequest
from engine.spec import ModelSpec, read_spec

if TYPE_CHECKING:
    from engine.plan import Plan

SAME_RATE = 0.01
"""Frames a second; rates that differ by less are the same."""
BEYOND = 2
"""Frames of each video that a window of a round sees beyond the gap, where it has room for no more."""


@dataclass(frozen=True, slots=True)
class Gap(Hierarchy):
    """Rounds over the frames between two videos. Their own frames are the key frames."""

    first: int
    """Frames of the first video."""
    between: int

    @property
    def second(self) -> int:
        return self.frames - self.first - self.between

    @property
    def key_fps(self) -> float:
        return self.fps

    @property
    def keys(self) -> tuple[int, ...]:
        return *range(self.first), *range(self.first + self.between, self.frames)

    def is_key(self, index: int) -> bool:
        return not self.first <= index < self.first + self.between

    def sentence(self) -> str:
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        return f"{self.between} frames between {self.first} and {self.second} in {rounds}: {self.frames} frames at {self.fps:g} fps"


def gap(first: int, between: int, second: int, fps: float, slots: int) -> Gap:
    """The rounds. `between`: 2^rounds - 1; `slots`: of a window, at least 3."""
    rounds = int(math.log2(between + 1))
    frames, begin, end = first + between + second, first - 1, first + between
    levels, there = [], first + second
    for number in range(1, rounds + 1):
        apart = 2 ** (rounds - number)
        blocks = _windows(begin, end, apart, frames, slots)
        there += sum(len(block.makes) for block in blocks)
        levels.append(Level(number, fps / apart, there, blocks))
    return Gap(frames, fps, first + second, rounds, (), tuple(levels), first, between)


def _windows(begin: int, end: int, apart: int, frames: int, slots: int) -> tuple[Block, ...]:
    """The blocks that bring the frames from `begin` to `end` `apart` from each other. Each frame is made in a window that has the known
    ones on either side of it."""
    grid = list(range(begin, end + 1, apart))
    absent = frozenset(grid[1:-1:2])
    wanted = max(slots, len(grid) + 2 * BEYOND)
    while len(grid) < wanted and (grid[0] >= apart or grid[-1] + apart < frames):
        if grid[0] >= apart:
            grid.insert(0, grid[0] - apart)
        if grid[-1] + apart < frames and len(grid) < wanted:
            grid.append(grid[-1] + apart)
    width = min(slots, len(grid))
    blocks: list[Block] = []
    made: set[int] = set()
    start = 0
    while made < absent:
        shown = tuple(grid[start:start + width])
        makes = tuple(frame for frame in shown[1:-1] if frame in absent - made)
        made.update(makes)
        if makes:
            blocks.append(Block(shown, tuple(frame for frame in shown if frame not in absent), makes))
        # The next one begins at the last known frame of this one: where frames beyond the gap shift the grid, that is not its end.
        start = min(start + width - (2 if shown[-1] in absent else 1), len(grid) - width)
    return tuple(blocks)


def check_pair(request: InterpolateRequest, first: VideoFacts, second: VideoFacts) -> float:
    """Frames a second of both. Raises `InvalidRequest` for two videos that cannot be one clip."""
    for name, facts in (("video", first), ("then", second)):
        if facts.frames < 1 or facts.fps <= 0 or facts.variable:
            raise InvalidRequest(name, "has no constant frame rate, which a clip of two needs. Smooth it first, by flow, to the rate of "
                                       "the other one.")
    sizes = [(facts.width - facts.width % 2, facts.height - facts.height % 2) for facts in (first, second)]
    if sizes[0] != sizes[1]:
        (a, b), (c, d) = sizes
        raise InvalidRequest("then", f"is {c} x {d}, and the first one {a} x {b}. Frames are never stretched: choose two of one size, or "
                                     "make one of them anew in the size of the other.")
    if abs(first.fps - second.fps) >= SAME_RATE:
        slower, rate = ("video", second.fps) if first.fps < second.fps else ("then", first.fps)
        raise InvalidRequest("then", f"has {second.fps:.5g} frames a second, and the first one {first.fps:.5g}. Smooth {slower} to "
                                     f"{rate:.5g} fps first, then fill between.")
    return first.fps


def plan_flowed(request: InterpolateRequest, first: VideoFacts, second: VideoFacts) -> InterpolatePlan:
    """Of a request for optical flow across the gap. Raises as `check_pair`."""
    rate = check_pair(request, first, second)
    between = request.between or DEFAULT_BETWEEN
    width, height = even_size(first)
    frames = first.frames + between + second.frames
    notes = [NOT_GENERATION, f"{first.frames} + {between} + {second.frames} frames at {rate:.5g} a second. Where no motion leads from the "
                             "last frame of the first video to the first of the second, one fades into the other."]
    return InterpolatePlan(
        video=request.video, then=request.then, between=between, width=width, height=height,
        source_frames=first.frames + second.frames, source_fps=rate, fps=rate, slow=1.0, frames=frames, method="flow", sound=False,
        notes=(*notes, *sound_note(first, second)), predicted_bytes=memory_of(width, height))


def plan_filled(request: InterpolateRequest, first: VideoFacts, second: VideoFacts, origin: Origin, spec: ModelSpec,
                plan_one: Callable[[GenerationRequest, ModelSpec], Plan], device: str) -> Plan:
    """Of a request for generated frames across the gap. Arguments and errors as of `engine.interpolate.smoothing.plan_smoothed`."""
    folder, adapter = stage_two_for(spec)
    rate = check_pair(request, first, second)
    if not MIN_FPS <= rate <= MAX_FPS:
        raise InvalidRequest("then", f"has {rate:.5g} frames a second; a model makes clips of {MIN_FPS:g} to {MAX_FPS:g}. For other rates "
                                     "use flow.")
    if first.frames + second.frames > MAX_KEY_FRAMES:
        raise InvalidRequest("then", f"has {second.frames} frames, and the first one {first.frames}; frames are generated between videos "
                                     f"of at most {MAX_KEY_FRAMES} together. For longer ones use flow.")
    facts = read_facts(adapter)
    levels = gap(first.frames, _doubling(request.between or DEFAULT_BETWEEN), second.frames, rate, facts.slots)
    interpolator = read_spec(folder, folder.name)
    bare = GenerationRequest(prompt=origin.prompt, model=spec.name, seed=origin.seed, width=first.width, height=first.height)
    block = plan_one(block_request(bare, interpolator), interpolator)
    made = HierarchyPlan(levels=levels, stage_one="video", clip_frames=0, interpolator=interpolator, adapter=adapter, facts=facts,
                         blocks_at_once=blocks_at_once(device, facts.slots, block), inputs=(), edits=(), review=False, image=False,
                         first_steps=0, video=request.video, then=request.then)
    notes = (levels.sentence() + ".", f"The frames of both stay as they are; those between are generated by {interpolator.name} and "
                                      f"its stage-two weights, {levels.blocks} blocks, from the words of the first.",
             *sound_note(first, second))
    return replace(block, model=spec.name, spec=spec, frames=levels.frames, fps=rate, hierarchy=made, fit="crop", mode="t2v", input="",
                   work=rounds_work(made, None, block), notes=(*notes, *block.notes))


def _doubling(between: int) -> int:
    """Checked: one less than a power of two. Raises `InvalidRequest`."""
    if between & (between + 1) or between > MAX_BETWEEN:
        usable = [2**n - 1 for n in range(1, 8) if 2**n - 1 <= MAX_BETWEEN]
        near = min(usable, key=lambda each: abs(each - between))
        raise InvalidRequest("between", f"is {between}; each round halves the distance, so a model makes {', '.join(map(str, usable))}. "
                                        "Or use flow, which makes any number.", suggestion=near)
    return between


def sound_note(first: VideoFacts, second: VideoFacts) -> tuple[str, ...]:
    return ("Their sound is left out: there is none for the frames between.",) if first.sound or second.sound else ()
