"""Training runs of one studio: what there is, what a new one would cost, and the wishes of pages and commands. No torch.

    data folder/training/<run>/     a run's own folder (`training.lora.rundir`), which says everything about it

A run works while a queue job of kind 'train' does (`app/queue/kinds/train.py`); pausing ends that job, resuming is a new one. What was
trained lands on the shelf of LoRAs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import NotAllowed, NotFound
from app.history.ids import is_id, new_id
from app.history.records import Job
from app.loras import LoraCard, Loras
from app.queue.kinds import TRAIN
from app.queue.process import this_process
from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError, StorageBlocked
from engine.hardware import Hardware
from engine.models.catalogue import local_folders
from engine.spec import ModelSpec
from training.data.shelf import DATASET_FACT, find_dataset
from training.lora.config import POCKET_WORLD, TrainConfig, from_mapping, may_change
from training.lora.forecast import Choice, choose_memory, step_seconds
from training.lora.lock import run_lock
from training.lora.processes import check_devices
from training.lora.rundir import ACTIVE, RunDir, RunState

if TYPE_CHECKING:
    from app.history.store import Store

PRESETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "quick": ("Quick look", "Does the set teach anything? Few steps, small rank.",
              {"rank": 16, "steps": 300, "learning_rate": 1e-3, "warmup": 10, "eval_steps": 50, "preview_steps": 150}),
    "standard": ("Standard", "A style or a character from 25 clips or more, as the CogVideoX guides have it.",
                 {"rank": 64, "steps": 2000, "learning_rate": 5e-4, "warmup": 100, "schedule": "cosine_with_restarts", "eval_steps": 100,
                  "preview_steps": 500, "save_steps": 250}),
    "thorough": ("Thorough", "A new concept from 100 clips: more layers, more steps, an averaged result.",
                 {"rank": 128, "targets": "attention+ff", "steps": 4000, "learning_rate": 2e-4, "warmup": 200,
                  "schedule": "cosine_with_restarts", "ema": 0.995, "eval_steps": 200, "preview_steps": 1000, "save_steps": 500}),
}
"""Key -> title, what it is for, settings."""
GRACE_SECONDS = 5.0
OWNER_FACT = "owner"
WORKS = "This run works already, or waits for its turn."
LOCAL = "local"
"""Whose a run is that says nothing of it: the command line's."""


@dataclass(frozen=True, slots=True)
class RunCard:
    """One run as lists show it."""

    id: str
    config: TrainConfig
    facts: Mapping[str, Any]
    state: RunState
    created: float
    job: Job | None
    """The queue job that works on it, or waits to."""
    made: bool = False
    """Whether what it trained is there as a LoRA or a model, as of its last export."""

    @property
    def active(self) -> bool:
        return self.job is not None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would cost here."""

    choice: Choice
    seconds: float
    measured: bool
    """By this machine's own runs; else by an assumed speed."""
    total_bytes: int
    free_bytes: int


class Trainings:
    """The runs of one studio."""

    def __init__(self, settings: Settings, store: Store, loras: Loras, *, spec: Callable[[str], ModelSpec],
                 hardware: Callable[[str | None], Hardware], project: Callable[[str | None, str], str],
                 list_model: Callable[[str], str] = str) -> None:
        """`list_model`: puts a model's folder among the studio's models; its name."""
        self._list_model = list_model
        self._settings, self._store, self._loras = settings, store, loras
        self._spec, self._hardware, self._project = spec, hardware, project

    @property
    def folder(self) -> Path:
        return self._settings.training_dir

    # ---- before

    def forecast(self, config: TrainConfig) -> Forecast:
        """Raises `InvalidRequest`, `CannotFit`, `ModelNotFound`, `ModelInvalid`."""
        spec, machine = self._spec(config.model), self._hardware(config.device or None)
        if spec.shown:
            raise InvalidRequest("model", f"{spec.name} is shown frames of the clip that it makes, and LoRAs are not trained on such "
                                          "models here. Choose one that makes videos from words or from a first frame.")
        check_devices(machine, config.ranks)
        choice = choose_memory(spec, config, machine)
        speed = self._speed(config.model, machine.device)
        seconds = config.steps * step_seconds(choice, machine, speed)
        return Forecast(choice, seconds, speed is not None, machine.total_bytes, machine.free_bytes)

    def checked(self, config: TrainConfig, *, owner: str) -> tuple[Forecast, dict[str, Any]]:
        """(what the run would cost, facts that it begins with), before there is a folder, which would hold settings that are wrong for
        good. Raises as `forecast`, and for a dataset that is not here."""
        found = self.forecast(config)
        if config.dataset == POCKET_WORLD:
            return found, {}
        return found, {DATASET_FACT: find_dataset(self._settings.datasets_dir, config.dataset, owner=owner)[0].id}

    def start(self, values: Mapping[str, Any] | TrainConfig, *, owner: str, project_id: str | None = None,
              reserve: bool = False) -> RunCard:
        """A new run and the job that works on it. Raises as `checked`.

        `reserve`: this process will work on it itself; should it die first, the server's worker does.
        """
        config = values if isinstance(values, TrainConfig) else from_mapping(values)
        _forecast, facts = self.checked(config, owner=owner)
        run_id = new_id(time.time())
        RunDir(self.folder / run_id).create(config, {OWNER_FACT: owner} | facts)
        try:
            self._queue(run_id, config, owner, project_id, reserve)
        except SprocketError:
            shutil.rmtree(self.folder / run_id, ignore_errors=True)
            raise
        return self.card(run_id, owner=owner)

    # ---- after

    def cards(self, *, owner: str) -> tuple[RunCard, ...]:
        """The owner's runs, newest first; one whose settings cannot be read is left out."""
        working = self._working(owner)
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if is_id(path.name):
                try:
                    found.append(self._card(path.name, working, owner))
                except (InvalidRequest, NotFound):
                    continue
        return tuple(sorted(found, key=lambda card: card.id, reverse=True))

    def card(self, run_id: str, *, owner: str) -> RunCard:
        """Raises NotFound for a run that is not there, and for somebody else's."""
        return self._card(run_id, self._working(owner), owner)

    def run(self, run_id: str) -> RunDir:
        """Raises NotFound."""
        if not is_id(run_id) or not (self.folder / run_id / "run.json").is_file():
            raise _missing()
        return RunDir(self.folder / run_id)

    def preview_path(self, run_id: str, step: int, number: int, kind: str) -> Path | None:
        """A preview clip ('mp4') or its poster ('webp')."""
        path = self.run(run_id).previews / f"step-{step:08d}" / f"{number}.{kind}"
        return path if kind in ("mp4", "webp") and path.is_file() else None

    def ask(self, run_id: str, wish: str, *, owner: str) -> RunCard:
        """'save', 'preview', 'pause' or 'stop'. A run that still waits for its turn is taken out of the queue by the latter two."""
        card, run = self.card(run_id, owner=owner), self.run(run_id)
        if card.job is None:
            if wish == "stop" and card.state.state in ("paused", "interrupted"):
                if card.state.step and not card.made:
                    raise NotAllowed("This run was cut off, and nothing of it since its last save is a LoRA yet. Resume it, then Stop.")
                words = "Stopped; what was trained can be used." if card.made else "Stopped before its first step."
                run.set_state(RunState("stopped", card.state.step, card.config.steps, words))
                return self.card(run_id, owner=owner)
            raise NotAllowed(f"This run does not work now (it is {card.state.state}). Resume it first.")
        run.ask(wish)
        if wish in ("pause", "stop") and card.job.state.value in ("queued", "blocked", "paused"):
            self._store.jobs.ask_cancel(card.job.id, owner=owner, now=time.time())
            run.set_state(RunState("paused" if wish == "pause" else "stopped", card.state.step, card.config.steps))
        return self.card(run_id, owner=owner)

    def resume(self, run_id: str, *, owner: str, changes: Mapping[str, Any] | None = None, reserve: bool = False) -> RunCard:
        """On from the newest sound checkpoint. `reserve` as for `start`. Raises NotAllowed if it works already or is done, `InvalidRequest`
        for changes that would make another training of it."""
        card, run = self.card(run_id, owner=owner), self.run(run_id)
        if card.job is not None:
            raise NotAllowed(WORKS)
        _left_alone(run)
        after = from_mapping(card.config.to_json() | dict(changes or {}))
        may_change(card.config, after)
        if card.state.state == "done" and after.steps <= card.state.step:
            raise NotAllowed(f"This run is done: {card.state.step} steps. Clone it to train again, or resume with more steps.")
        run.write(after, dict(card.facts))
        run.forget_ends()
        run.set_state(RunState("waiting", card.state.step, after.steps))
        try:
            self._queue(run_id, after, owner, None, reserve)
        except SprocketError:
            run.write(card.config, dict(card.facts))
            run.set_state(card.state)
            raise
        return self.card(run_id, owner=owner)

    def use(self, run_id: str, *, owner: str) -> LoraCard:
        """What the run has trained so far, on the shelf of LoRAs. Raises NotAllowed where nothing has been saved yet."""
        card, run = self.card(run_id, owner=owner), self.run(run_id)
        path = run.lora_file(card.config.name)
        if not path.is_file():
            if card.config.method != "lora":
                raise NotAllowed("This run trains all weights: what it makes is a model, not a LoRA.")
            raise NotAllowed("This run has saved no LoRA yet. Press Save now, and wait for the step to end.")
        return self._loras.add(path)

    def use_model(self, run_id: str, *, owner: str) -> str:
        """The model that a run of all weights has made so far, listed among the models; its name. Raises NotAllowed as `use`."""
        card = self.card(run_id, owner=owner)
        folder = self.run(run_id).model_folder(card.config.name)
        if not folder.is_dir():
            raise NotAllowed("This run has saved no model yet. Press Save now, and wait for the step to end.")
        return self._list_model(str(folder))

    def delete(self, run_id: str, *, owner: str) -> RunCard:
        """With checkpoints and previews; a LoRA on the shelf stays. Raises NotAllowed while it works, and while its model is listed."""
        card, run = self.card(run_id, owner=owner), self.run(run_id)
        if card.job is not None:
            raise NotAllowed("This run works or waits. Stop it first.")
        _left_alone(run)
        listed = [name for name, folder in local_folders(self._settings.models_dir).items()
                  if folder.resolve().is_relative_to(run.folder.resolve())]
        if listed:
            raise NotAllowed(f"The model that this run made is listed as {listed[0]}, and lies in the run's folder. Remove {listed[0]} "
                             "from Models first; then the run can be deleted, and the model with it.")
        shutil.rmtree(run.folder)
        return card

    def alone(self, job: Job) -> Job:
        """`job`, where doing it again puts no second job to work on its run, which forgets that it was to pause. Raises NotAllowed."""
        if job.kind == TRAIN:
            run_id = str(job.request.get("run"))
            if run_id in self._working(job.owner):
                raise NotAllowed(WORKS)
            with suppress(NotFound):  # the job says so itself when its turn comes
                self.run(run_id).forget_ends()
        return job

    # ---- parts

    def _queue(self, run_id: str, config: TrainConfig, owner: str, project_id: str | None, reserve: bool) -> Job:
        request = {"run": run_id, "model": config.model, "name": config.name, "loras": [], "processes": config.ranks,
                   "device": config.device}
        return self._store.jobs.add(owner=owner, project_id=self._project(project_id, owner), request=request,
                                    asked=request | {"at": time.time()}, now=time.time(), steps=config.steps, kind=TRAIN,
                                    max_attempts=self._settings.max_crashes, max_waiting=self._settings.max_waiting,
                                    reserved_by=this_process().to_json() if reserve else None)

    def _working(self, owner: str) -> dict[str, Job]:
        jobs = self._store.jobs.list(owner=owner, active_only=True, limit=1000)
        return {str(job.request.get("run")): job for job in jobs if job.kind == TRAIN}

    def _card(self, run_id: str, working: Mapping[str, Job], owner: str) -> RunCard:
        run = self.run(run_id)
        config, facts, created = run.read()
        if owner_of(facts) != owner:
            raise _missing()
        job, state = working.get(run_id), run.state()
        if job is None and state.state == "waiting" and time.time() - state.at > GRACE_SECONDS:
            state = RunState("interrupted", state.step, state.steps, "Its job is gone; Resume goes on.", at=state.at)
        if job is not None and state.state not in ACTIVE:
            state = RunState("waiting", state.step, config.steps, at=state.at)
        return RunCard(run_id, config, facts, state, created, job, run.result(config).exists())

    def _speed(self, model: str, device: str) -> float | None:
        """Arithmetic a second of this machine's newest run of `model` on such a `device`."""
        for path in sorted(self.folder.iterdir(), reverse=True) if self.folder.is_dir() else ():
            try:
                config, facts, _ = RunDir(path).read()
                kind = str(facts.get("device") or "").partition(":")[0]
                if config.model == model and kind == device.partition(":")[0] and facts.get("flops_per_second"):
                    return float(facts["flops_per_second"])
            except (InvalidRequest, ValueError, TypeError):
                continue
        return None


def owner_of(facts: Mapping[str, Any]) -> str:
    """Whose run it is, by what its folder says."""
    return str(facts.get(OWNER_FACT) or LOCAL)


def _left_alone(run: RunDir) -> None:
    """Raises NotAllowed while a trainer that is no job's has the run: one that still saves, or that `sprocket train resume` started."""
    try:
        with suppress(StorageBlocked), run_lock(run.folder):  # on a full disk, too, a run can be deleted
            pass
    except InvalidRequest as error:
        raise NotAllowed("Another process works on this run. Wait until it has ended, or end it.") from error


def _missing() -> NotFound:
    """Said alike of what is not there and of somebody else's: neither tells that it exists."""
    return NotFound("There is no such training run in this studio.")
