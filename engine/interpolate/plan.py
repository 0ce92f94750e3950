"""A request for more frames resolved against the video it names: sizes, rates, counts, notes, what it will take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from engine.errors import InvalidRequest
from engine.interpolate.request import InterpolateRequest
from engine.media.probe import VideoFacts

LABEL = "motion interpolation"
NOT_GENERATION = "Motion interpolation, not generation: pixels of the video are moved, nothing new is imagined."
SECONDS_PER_PIXEL = 1.2e-7
"""Of one processor core for a frame that is made, encoded and checked (`bench/flow.py`), before this machine has made any itself."""
BASE_BYTES = 120 * 2**20
BYTES_PER_PIXEL = 200
"""Most of it flows and positions, two 32-bit floats a pixel each, and the encoder's own frames."""
SAME = 0.01
"""Frames a second; rates that differ by less are the same (29.97 is not 30, 23.976 from a file is 23.976)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterpolatePlan:
    """Nothing optional left. Times in seconds, sizes in pixels."""

    video: str
    width: int
    """Even, as H.264 wants; an odd column or row of the source is cut off."""
    height: int
    source_frames: int
    source_fps: float
    """The average where it varies."""
    fps: float
    """Of the result."""
    slow: float
    """How many times longer it lasts; 1: as long."""
    frames: int
    """Of the result, as the file's header lets expect; what the clock of the frames gives may be a few less or more."""
    method: str
    sound: bool
    """The source has sound, and it is kept."""
    notes: tuple[str, ...]
    predicted_bytes: int
    device: str = "cpu"
    then: str = ""
    """The second video, where frames come between two (`engine.interpolate.filling`)."""
    between: int = 0
    """How many of them."""

    @property
    def pixels(self) -> int:
        """Of all frames of the result together."""
        return self.frames * self.width * self.height

    @property
    def disk_bytes(self) -> int:
        """Most that is written, generously: the segments, then the file joined of them, and its sound."""
        return 2 * (self.pixels * 3 // 8) + (64 << 20 if self.sound else 0) + 2**20

    def to_json(self) -> dict[str, Any]:
        """For the recipe."""
        return asdict(self) | {"notes": list(self.notes), "work": {"interpolate": self.pixels}}


def plan_interpolation(request: InterpolateRequest, facts: VideoFacts) -> InterpolatePlan:
    """Of a request for flow (of one for generation: `engine.interpolate.smoothing`). Raises InvalidRequest for a video with one frame or
    without a clock, and for a rate that adds no frame."""
    if request.method != "flow":
        raise ValueError(f"{request.method!r} is not planned here")
    if facts.frames < 2:
        raise InvalidRequest("video", f"has {facts.frames} frame; there is nothing between one frame. Choose a video of at least 2.")
    rate = facts.fps or (facts.frames / facts.seconds if facts.seconds > 0 else 0.0)
    if rate <= 0:
        raise InvalidRequest("video", "does not say how fast its frames follow each other. Convert it to an H.264 mp4.")
    slow = request.slow or 1.0
    fps = request.fps if request.fps is not None else rate
    _check_rate(fps, rate, slow, facts.variable)
    width, height = even_size(facts)
    seconds = facts.frames / rate * slow
    sound = facts.sound and slow == 1.0
    return InterpolatePlan(
        video=request.video, width=width, height=height, source_frames=facts.frames, source_fps=rate, fps=fps, slow=slow,
        frames=max(2, round(seconds * fps)), method=request.method, sound=sound,
        notes=_notes(facts, rate, fps, slow, (width, height)), predicted_bytes=memory_of(width, height))


def even_size(facts: VideoFacts) -> tuple[int, int]:
    """(width, height) of the result. Raises InvalidRequest where nothing would be left."""
    width, height = facts.width - facts.width % 2, facts.height - facts.height % 2
    if min(width, height) < 2:
        raise InvalidRequest("video", f"is {facts.width} x {facts.height}; at least 2 x 2 is needed.")
    return width, height


def memory_of(width: int, height: int) -> int:
    """Bytes that motion interpolation takes at most."""
    return BASE_BYTES + BYTES_PER_PIXEL * width * height


def _check_rate(fps: float, rate: float, slow: float, variable: bool) -> None:
    now = rate / slow
    if abs(fps - now) < SAME and not variable:
        raise InvalidRequest("fps", f"is {fps:g}, and the video has {now:.5g} a second already. Ask for more.", suggestion=_double(now))
    if fps < now - SAME:
        slowed = f" slowed down {slow:g} times" if slow > 1 else ""
        raise InvalidRequest("fps", f"is {fps:g}; the video{slowed} has {now:.5g} frames a second, and interpolating only adds frames. "
                                    f"Ask for more than {now:.5g}.", suggestion=_double(now))


def _double(fps: float) -> float:
    return min(round(2 * fps, 3), 120.0)


def _notes(facts: VideoFacts, rate: float, fps: float, slow: float, size: tuple[int, int]) -> tuple[str, ...]:
    notes = [NOT_GENERATION]
    speed = f", {slow:g} times slower" if slow > 1 else ""
    notes.append(f"{rate:.5g} -> {fps:.5g} frames a second{speed}.")
    if facts.variable:
        notes.append("The frame rate of this video varies; its frames are placed by its clock, and the result's rate is constant.")
    if facts.sound and slow > 1:
        notes.append("Its sound is left out, because the video no longer lasts as long as the sound.")
    if size != (facts.width, facts.height):
        notes.append(f"{facts.width} x {facts.height} -> {size[0]} x {size[1]}: H.264 needs even sides, the odd line is cut off.")
    return tuple(notes)


UNHEARD = "Its sound is left out: it can be neither copied nor packed."


def cuts_note(seconds: Sequence[float], faded: bool = False) -> str:
    """What people should know of the scene cuts that were found at these times of the source. `faded`: they were filled all the same."""
    if faded:
        return "No motion leads from the first video to the second: one fades into the other."
    where = ", ".join(f"{at:.2f} s" for at in seconds[:8]) + (", ..." if len(seconds) > 8 else "")
    many = "1 scene cut" if len(seconds) == 1 else f"{len(seconds)} scene cuts"
    return f"{many} found (at {where}): nothing is interpolated across a cut, the last frame before it stays until the next."


@dataclass(frozen=True, slots=True)
class FlowTiming:
    """What one finished interpolation took."""

    pixels: float
    """Of its result."""
    seconds: float


def forecast_seconds(plan: InterpolatePlan, timings: Sequence[FlowTiming]) -> tuple[float, str]:
    """(wall seconds, where they come from): at the median pace of `timings`, else of the machine the bench ran on."""
    paces = [each.seconds / each.pixels for each in timings if each.pixels > 0 and each.seconds > 0]
    if paces:
        return median(paces) * plan.pixels, f"from {len(paces)} made on this machine"
    return SECONDS_PER_PIXEL * plan.pixels, "rough: none made on this machine yet"
