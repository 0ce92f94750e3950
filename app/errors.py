"""Errors of the studio, next to the engine's (`engine.errors`): the same tree, the same rule for messages."""

from __future__ import annotations

from engine.errors import CannotFit, InvalidRequest, ModelInvalid, ModelNotFound, SprocketError


class NotFound(SprocketError):
    """No such job, clip or project for this owner. Foreign ids and unknown ids are not told apart."""

    code = "not_found"


class NotAllowed(SprocketError):
    """The thing exists, but what was asked does not go with its present state; the message says which would."""

    code = "not_allowed"


class DataDirBusy(SprocketError):
    """Another server already works on this data directory."""

    code = "data_dir_busy"


class SchemaTooNew(SprocketError):
    """The history was written by a newer Sprocket; this one does not touch it."""

    code = "schema_too_new"


class HistoryBusy(SprocketError):
    """Another process held the history's write lock for longer than the busy timeout. Trying again is right."""

    code = "history_busy"


class HistoryUnreachable(HistoryBusy):
    """The database server does not answer, or broke off. Trying again is right."""

    code = "history_unreachable"


class HistoryDamaged(SprocketError):
    """SQLite says the database file is malformed or is no database."""

    code = "history_damaged"


class LeaseLost(SprocketError):
    """A write was fenced out: the job now belongs to another worker (or its owner ended it). Abandon the attempt."""

    code = "lease_lost"


class HubGated(SprocketError):
    """The hub has the model, but this user may not fetch it yet."""

    code = "hub_gated"


class HubMissing(SprocketError):
    """The hub knows no such repository, revision or file (or hides it from this user)."""

    code = "hub_missing"


class HubOffline(SprocketError):
    """This machine was told not to use the network."""

    code = "hub_offline"


class HubUnreachable(SprocketError):
    """The hub does not answer, or broke off. Asking again is right."""

    code = "hub_unreachable"


class HubDamaged(SprocketError):
    """What came is not what the hub's own checksum promises."""

    code = "hub_damaged"


def exit_code(error: SprocketError) -> int:
    """Of a command that ends with `error`: 2 bad request (a name that is not there is one), 3 cannot fit this machine, 1 any other."""
    if isinstance(error, InvalidRequest | NotFound | ModelNotFound | ModelInvalid):
        return 2
    return 3 if isinstance(error, CannotFit) else 1
