"""What the studio needs of an engine, and the real one. Tests and the chaos bench put a fake behind the same door."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from app.links import keep, with_link
from app.settings import Settings
from engine.errors import InvalidRequest
from engine.events import Event
from engine.hardware import Hardware, detect
from engine.models.catalogue import find, installed
from engine.plan import Plan
from engine.spec import ModelSpec, read_spec

if TYPE_CHECKING:
    from engine.models.cache import ModelCache


GPU_PROGRAM = 3 * 2**30
"""Of the memory of a process that works on a GPU, what stays as long as it lives: the libraries of CUDA, its context, the imports.
Not measured: above what PyTorch's processes are reported to take, so that less than what is free is promised."""


class Closeable(Protocol):
    def close(self) -> None: ...


class Engine(Protocol):
    """The engine as the queue sees it. Making one costs nothing; weights live in what `open_models` returns."""

    def installed(self, models_dir: Path | None) -> tuple[ModelSpec, ...]: ...

    def spec(self, model: str, models_dir: Path | None) -> ModelSpec:
        """Raises ModelNotFound, ModelInvalid."""

    def hardware(self, device: str | None = None) -> Hardware:
        """What a job of this process could use: memory that this process itself holds counts as free.

        `device`: 'cpu' or 'cuda' where the job asks for one; the plan refuses what is not here.
        """

    def open_models(self) -> Closeable: ...

    def warm_up(self) -> None:
        """Does the slow imports, so that the first job need not wait for them."""

    def reached(self, point: str) -> None:
        """Called at the named points of publishing. Only tests do something here (crash)."""

    def run(self, plan: Plan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], models: Any,
            cancelled: Callable[[], bool], checkpoint_seconds: float, preview_seconds: float,
            inputs: Path | None, loras: Path | None, calibrations: Path | None) -> Iterator[Event]:
        """See `engine.run.run`."""


class SprocketEngine:
    """The real engine. Imports torch only in `run` and `warm_up`."""

    def __init__(self) -> None:
        self._importing = threading.Lock()  # transformers' lazy modules do not bear two threads importing them
        self._models: ModelCache | None = None
        self._link: tuple[float, float] | None = None
        """As the latest fleet measured it; it is kept beside the history."""
        self.folder: Path | None = None
        """Of data; None: the environment's."""

    def installed(self, models_dir: Path | None) -> tuple[ModelSpec, ...]:
        return installed(models_dir=models_dir)

    def spec(self, model: str, models_dir: Path | None) -> ModelSpec:
        return read_spec(find(model, models_dir=models_dir), model)

    def hardware(self, device: str | None = None) -> Hardware:
        fleet = None if self._models is None else self._models.fleet
        held = Counter(_held_on_gpus())
        held.update({} if fleet is None else fleet.held)
        machine = detect(device, held)
        self._keep_link()
        machine = with_link(machine, self._data_dir())
        own = [_resident(pid) for pid in (os.getpid(), *(() if fleet is None else fleet.pids.values()))]
        if machine.device == "cpu":
            return replace(machine, free_bytes=min(machine.total_bytes, machine.free_bytes + sum(own)))
        if machine.ram_bytes is None:
            return machine
        waiting = sum(max(0, size - GPU_PROGRAM) for size in own)  # weights that wait in memory, and make room for another job's
        return replace(machine, ram_bytes=min(detect("cpu").total_bytes, machine.ram_bytes + waiting))

    def _data_dir(self) -> Path:
        return self.folder or Settings().data_dir

    def _keep_link(self) -> None:
        """For the devices between which it was measured, whatever else is looked at."""
        fleet = None if self._models is None else self._models.fleet
        if fleet is not None and fleet.link is not None and fleet.link != self._link:
            self._link = fleet.link
            keep(self._data_dir(), detect("cpu" if fleet.devices[0] == "cpu" else None), fleet.link, time.time())

    def _on_fleet(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            self._keep_link()  # measured as the first job begins
            yield event

    def open_models(self) -> Closeable:
        from engine.models.cache import ModelCache

        self._models = ModelCache()
        return self._models

    def warm_up(self) -> None:
        with self._importing:
            for module in ("engine.run", "engine.models.cogvideox"):
                importlib.import_module(module)

    def reached(self, point: str) -> None:
        pass

    def run(self, plan: Plan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], models: Any,
            cancelled: Callable[[], bool], checkpoint_seconds: float, preview_seconds: float,
            inputs: Path | None, loras: Path | None, calibrations: Path | None) -> Iterator[Event]:
        if plan.devices:
            from engine.parallel.drive import run_on_fleet

            return self._on_fleet(run_on_fleet(
                plan, part=part, workspace=workspace, recipe=recipe, models=models, cancelled=cancelled,
                checkpoint_seconds=checkpoint_seconds, preview_seconds=preview_seconds, inputs=inputs, loras=loras,
                calibrations=calibrations, cores=detect("cpu").cores))
        self.warm_up()
        from engine.run import run

        return run(plan, part=part, workspace=workspace, recipe=recipe, models=models, cancelled=cancelled,
                   checkpoint_seconds=checkpoint_seconds, preview_seconds=preview_seconds, inputs=inputs, loras=loras,
                   calibrations=calibrations)


def _resident(pid: int) -> int:
    """Bytes of memory a process has; 0 for one that is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _held_on_gpus() -> dict[str, int]:
    """Bytes by device that torch's allocator holds for this process, where it has begun; torch is not imported to ask."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    begun = getattr(cuda, "is_initialized", None)  # not yet there while another thread imports torch
    if cuda is None or begun is None or not begun():
        return {}
    return {f"cuda:{number}": int(cuda.memory_reserved(number)) for number in range(cuda.device_count())}


def open_engine(name: str, folder: Path | None = None) -> Engine:
    """The engine behind `module:callable`, for the data in `folder`. Raises InvalidRequest (field 'engine')."""
    module, _, attribute = name.partition(":")
    try:
        made: Engine = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidRequest("engine", f"{name!r} cannot be opened ({error}). Unset SPROCKET_ENGINE.") from error
    if isinstance(made, SprocketEngine):
        made.folder = folder
    return made
