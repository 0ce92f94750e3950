"""The one error tree of the engine.

    SprocketError                 base; `.code` is stable, the text is for people
      InvalidRequest              a field of the request is wrong (says field, value, limit, way out)
      CannotFit                   legal, but this machine has not the memory or disk for it
        MemoryRanOut              the memory that was forecast to do did not; the job can go on with less
      DeviceLost                  the GPU gave up at work; nothing works on it any more in this process
      ModelNotFound               no such checkpoint on this machine
      ModelInvalid                a checkpoint is there, but broken, foreign or unsafe
      OutputRejected              frames were made, but they are not a video (NaN, black, frozen)
      CheckpointMismatch          a saved sampling state belongs to another job, model or version
      FleetBroken                 ranks that work on one clip together died or hung, again and again
      StorageBlocked              the disk is full or read-only; the work can go on when it is not
      Cancelled                   the owner asked to stop
      AwaitingReview              key frames are ready, and the owner wants to see them before the rounds

A message says what was wrong with the numbers, and what to do.  `Cancelled` and
`AwaitingReview` are control flow, not failures.
"""

from __future__ import annotations


class SprocketError(Exception):
    """Base of every error a person may be shown."""

    code = "error"


class InvalidRequest(SprocketError):
    """One field of a request is wrong.

    `field` is the request field (or command-line option) by name; the message names the value, the limit and the
    way out. `suggestion` is a legal value for the same field where one is known.
    """

    code = "invalid_request"

    def __init__(self, field: str, message: str, *, suggestion: object = None) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.suggestion = suggestion


class CannotFit(SprocketError):
    """The request is legal but larger than this machine; the message says by how much and what would fit."""

    code = "cannot_fit"


class MemoryRanOut(CannotFit):
    """Memory ran out at work, whatever the forecast said.

    `phase`: one of `engine.ladder.PHASES`. `where`: 'device', or 'ram' for the own memory of a GPU's computer. This process
    may hold what it cannot give back, above all on a GPU: go on in another one.
    """

    code = "out_of_memory"

    def __init__(self, message: str, *, phase: str, where: str = "device") -> None:
        super().__init__(message)
        self.phase = phase
        self.where = where


class DeviceLost(SprocketError):
    """The GPU gave up at work (an illegal access, memory that cannot be corrected, a card that is gone).

    CUDA answers every later call of this process with an error too: go on in another one.
    """

    code = "device_lost"


class ModelNotFound(SprocketError):
    """No checkpoint of that name is on this machine."""

    code = "model_missing"


class ModelInvalid(SprocketError):
    """A checkpoint folder is damaged, unsafe (pickled) or of an architecture this engine does not run."""

    code = "model_invalid"


class OutputRejected(SprocketError):
    """The finished frames failed the health check; the job fails instead of showing a broken clip as a success."""

    code = "output_rejected"


class CheckpointMismatch(SprocketError):
    """A saved sampling state does not belong to this plan; sampling starts from step 0."""

    code = "checkpoint_mismatch"


class FleetBroken(SprocketError):
    """A rank died or hung, and starting all of them again did not help; the message ends with the rank's last words."""

    code = "fleet_broken"


class StorageBlocked(SprocketError):
    """Nothing can be written (ENOSPC, EDQUOT, EROFS). The job waits as `blocked`; nothing is lost."""

    code = "disk"


class Cancelled(SprocketError):
    """The owner asked to stop."""

    code = "cancelled"


class AwaitingReview(SprocketError):
    """Key frames are made and stored; the rounds wait for the owner."""

    code = "review"
