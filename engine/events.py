"""What a running job says, in order: stages with their steps and previews in between, then exactly one `ClipWritten`.

Frozen and free of torch, so that a worker can write them to a row and a page can read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Stage(str, Enum):
    """The stages of a job, in the order they happen; no job has all of them."""

    LOAD = "load"
    ENCODE = "encode"
    SAMPLE = "sample"
    INTERPOLATE = "interpolate"
    DECODE = "decode"
    VERIFY = "verify"


GENERATION = (Stage.LOAD, Stage.ENCODE, Stage.SAMPLE, Stage.DECODE, Stage.VERIFY)
"""Those that make a clip out of a request for a model."""


@dataclass(frozen=True, slots=True)
class StageStarted:
    stage: Stage


@dataclass(frozen=True, slots=True)
class StepDone:
    """`step` of `steps` within `stage` is done (sample: denoising steps; decode: frames)."""

    stage: Stage
    step: int
    steps: int
    eta_seconds: float | None
    """Seconds to the end of the whole job, measured on this run; None before there is anything to measure."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Sampling goes on from a checkpoint: steps before `step` were done by an earlier attempt."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class RanksRestarted:
    """A rank died or hung; all were started again, and go on from the last checkpoint. Stages begin anew."""

    why: str
    """For people, as a sentence's end: 'rank 1 was killed (SIGKILL)'."""
    log: str
    """The last lines the rank wrote."""


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Preview:
    """The predicted clean video so far, all frames, small: a film strip as WebP bytes."""

    step: int
    webp: bytes


@dataclass(frozen=True, slots=True)
class CutsFound:
    """Scene cuts within a video that gets more frames: nothing is interpolated across them."""

    seconds: tuple[float, ...]
    """When the new scene begins, in the source, in rising order."""
    faded: bool = False
    """Frames were asked for across it all the same, and one scene fades into the other."""


@dataclass(frozen=True, slots=True)
class SoundLeftOut:
    """The sound of a video that gets more frames can be neither copied nor packed."""


@dataclass(frozen=True, slots=True)
class ClipWritten:
    """The finished, verified, not yet published file."""

    part: Path
    """The file under its temporary name; publishing renames it."""
    poster_webp: bytes
    sha256: str
    size_bytes: int
    frames: int
    width: int
    height: int
    fps: float
    seconds: dict[str, float]
    """Wall seconds by stage name ('load', 'encode', 'sample', 'decode', 'verify')."""
    peak_bytes: int
    """Highest memory of the process (CPU: resident set; CUDA: allocator peak)."""


Event = StageStarted | StepDone | Resumed | RanksRestarted | CheckpointSaved | Preview | CutsFound | SoundLeftOut | ClipWritten
