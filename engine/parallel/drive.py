"""One job on a fleet, as `engine.run.run` would do it in one process; and again, from its checkpoint, after a rank died or hung."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled, FleetBroken
from engine.events import CheckpointSaved, Event, RanksRestarted, Stage, StepDone
from engine.parallel.fleet import Fleet, RankLost
from engine.parallel.wire import Job
from engine.plan import Plan, check_executable

if TYPE_CHECKING:
    from engine.models.cache import ModelCache

log = logging.getLogger(__name__)
MOST_LOSSES = 3
"""Losses in a row that came no further than one before, after which it is no accident."""
STAGES = list(Stage)


def run_on_fleet(plan: Plan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], models: ModelCache,
                 cancelled: Callable[[], bool], checkpoint_seconds: float = 30.0, preview_seconds: float = 1.0,
                 inputs: Path | None = None, loras: Path | None = None, calibrations: Path | None = None,
                 cores: int = 1) -> Iterator[Event]:
    """As `engine.run.run`, for a plan with `devices`; the ranks stay warm in `models`.

    `cores`: of this computer, shared among ranks on the processor.
    Raises also `FleetBroken`, with the last words of the rank that failed again and again.
    """
    check_executable(plan)
    job = Job(plan, part, workspace, recipe, checkpoint_seconds, preview_seconds, inputs, loras, calibrations)
    losses, furthest = 0, (0, 0)
    while True:
        if cancelled():
            raise Cancelled("stopped on request.")
        try:
            fleet = _fleet(plan, models, cores)
            for event in fleet.run(job, cancelled):
                if (there := _kept(event)) > furthest:
                    losses, furthest = 0, there
                yield event
            return
        except RankLost as lost:
            _drop(models)
            part.unlink(missing_ok=True)
            losses += 1
            log.warning("%s. Its last lines:\n%s", lost.why, lost.log_tail)
            if losses >= MOST_LOSSES:
                raise FleetBroken(f"{lost.why}, and so it went {losses} times in a row. Ask for fewer devices, or leave parallel out. Its "
                                  f"last words: {_end_of(lost.log_tail)}") from lost
            yield RanksRestarted(lost.why, lost.log_tail)


def _kept(event: Event) -> tuple[int, int]:
    """(stage, step) that a next attempt need not come to again: a checkpoint, or a stage's end. An image is encoded in every attempt,
    so an end counts only where none was further."""
    if isinstance(event, CheckpointSaved):
        return STAGES.index(Stage.SAMPLE), event.step
    if isinstance(event, StepDone) and event.step == event.steps:
        return STAGES.index(event.stage), event.step
    return 0, 0


def _fleet(plan: Plan, models: ModelCache, cores: int) -> Fleet:
    """A fleet on the plan's devices: the warm one, or a new one in its place: a rank keeps its device, and its exchanges with others."""
    if models.fleet is not None and (models.fleet.devices != plan.devices or not models.fleet.alive):
        _drop(models)
    if models.fleet is None:
        models.close()  # what this process holds would be missing on the devices
        threads = max(1, cores // len(plan.devices)) if plan.device == "cpu" else 1
        models.fleet = Fleet(len(plan.devices), devices=plan.devices, threads=threads)
    return models.fleet


def _drop(models: ModelCache) -> None:
    if models.fleet is not None:
        models.fleet.close()
        models.fleet = None


def _end_of(log_tail: str) -> str:
    lines = [line for line in log_tail.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "none."
