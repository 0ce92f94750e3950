"""Everything that makes frames. Knows no user, no page, no database.

Importing this package never imports torch; `engine.run` does. The two verbs stand in modules of the same name:
`engine.plan.plan` and `engine.run.run`.
"""

from engine.errors import (
    Cancelled,
    CannotFit,
    InvalidRequest,
    ModelInvalid,
    ModelNotFound,
    OutputRejected,
    SprocketError,
    StorageBlocked,
)
from engine.hardware import Hardware, detect
from engine.models.catalogue import find, installed
from engine.plan import Plan, Timing, forecast_seconds
from engine.request import GenerationRequest
from engine.spec import ModelSpec, read_spec

__all__ = [
    "Cancelled",
    "CannotFit",
    "GenerationRequest",
    "Hardware",
    "InvalidRequest",
    "ModelInvalid",
    "ModelNotFound",
    "ModelSpec",
    "OutputRejected",
    "Plan",
    "SprocketError",
    "StorageBlocked",
    "Timing",
    "detect",
    "find",
    "forecast_seconds",
    "installed",
    "read_spec",
]
