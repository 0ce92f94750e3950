"""What a fleet's owner and its ranks say to each other. No torch.

    rank -> owner    ("hello", rank, pid)  ("pulse", Pulse)  ("ready",)
                     ("event", Event)  ("held", device, bytes)  ("done",)  ("failed", Failure)  ("crashed", text)
    owner -> rank    ("job", Job)  ("cancel",)           the end of the connection: end yourself

Over a local connection of `multiprocessing` that both ends have to prove a secret for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import errors
from engine.plan import Plan

ADDRESS, SECRET, AGENT = "SPROCKET_FLEET_ADDRESS", "SPROCKET_FLEET_SECRET", "SPROCKET_FLEET_AGENT"
"""Environment of a rank: where its owner listens, the secret in hexadecimal, the pid of the launcher."""
STORE = "SPROCKET_RANKS_STORE"
"""The file by which ranks of one computer find each other."""


@dataclass(frozen=True, slots=True)
class Job:
    """One call of `engine.run.run`, but for what each process has of its own."""

    plan: Plan
    part: Path
    workspace: Path
    recipe: Mapping[str, Any]
    checkpoint_seconds: float
    preview_seconds: float
    inputs: Path | None
    loras: Path | None
    calibrations: Path | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of the engine on its way to another process; what it says of itself comes along."""

    kind: str
    text: str
    attributes: Mapping[str, Any]


def packed(error: errors.SprocketError) -> Failure:
    return Failure(type(error).__name__, str(error), dict(vars(error)))


def unpacked(failure: Failure) -> errors.SprocketError:
    """The inverse of `packed`. An error this module does not know becomes a `SprocketError`."""
    kind = getattr(errors, failure.kind, errors.SprocketError)
    made: errors.SprocketError = kind.__new__(kind)
    Exception.__init__(made, failure.text)
    vars(made).update(failure.attributes)
    return made
