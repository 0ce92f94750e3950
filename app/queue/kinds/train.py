"""Jobs that train a LoRA: the run's own process under `accelerate launch`, watched; its LoRA is put on the shelf.

The trainer has the device to itself: the worker lets its model go first, and takes no other job meanwhile. Cancelling, and a worker that
has to end, pause the run: it saves what it has and goes on exactly there with the next attempt, or with Resume. The job ends when the
trainer has ended, not before: until then it has the device and the run's folder.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import storage
from app.history.leases import Claim
from app.history.records import Job
from app.loras import Loras
from app.queue.launched import Launched
from app.queue.workplace import Attempt, Workplace
from engine.errors import Cancelled, InvalidRequest, SprocketError, StorageBlocked
from engine.events import Event, Preview, Resumed, Stage, StageStarted, StepDone
from engine.memory.placement import Placement
from training.lora.config import TrainConfig
from training.lora.forecast import checkpoint_bytes, choose_memory, lora_numbers
from training.lora.lock import run_lock
from training.lora.processes import check_devices
from training.lora.rundir import ENDS, EXITS, SAVE_SECONDS, SAYS, RunDir, RunState

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
GRACE = 0.75
"""Of the worker's own time to end: so long a trainer has from the wish to pause to the end by force, and never outlives the worker."""
TERMINAL_SECONDS = 600.0
"""The same after Ctrl-C, where nobody but the person waits, and may press it again."""
HELD_SECONDS = SAVE_SECONDS + 5.0
"""A trainer whose worker was killed may save for so long; the next one waits for it."""


class TrainingFailed(SprocketError):
    """The trainer ended without a LoRA; its own words say why."""

    code = "training_failed"


@dataclass(frozen=True, slots=True)
class TrainWork:
    """One attempt at a run."""

    run_dir: RunDir
    config: TrainConfig
    device: str
    notes: tuple[str, ...]
    steps: int
    disk_bytes: int
    models_dir: Path
    datasets_dir: Path
    placement: Placement | None = None

    def run(self, attempt: Attempt) -> Iterator[Event]:
        """Starts the trainer and says what it says, until it ends."""
        attempt.place.models.close()
        yield StageStarted(Stage.LOAD)
        log_file = attempt.settings.job_dir(attempt.job.id) / "training.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._take(attempt)
        grace = GRACE * min(attempt.settings.stop_seconds, attempt.settings.cancel_grace_seconds)
        with log_file.open("ab") as out:
            begins = out.tell()
            command = launch_command(self.run_dir.folder, self.models_dir, self.datasets_dir, self.device, parent=os.getpid(),
                                     processes=self.config.ranks)
            launched = Launched(command, out=out, env=environment())
            try:
                yield from self._watch(attempt, launched)
            except KeyboardInterrupt:
                launched.end(TERMINAL_SECONDS)
                raise
            finally:
                launched.end(grace)
        self._judge(launched.launcher.returncode, attempt, _tail(log_file, begins))

    def _take(self, attempt: Attempt) -> None:
        """The folder, once no other trainer has it; and it says nothing any more of how an earlier attempt ended.

        Raises `InvalidRequest` (run) where another one keeps it, Cancelled, StorageBlocked.
        """
        until = time.monotonic() + HELD_SECONDS
        while True:
            try:
                with run_lock(self.run_dir.folder):
                    self.run_dir.set_state(RunState("waiting", self.run_dir.state().step, self.config.steps))
                return
            except InvalidRequest:
                if time.monotonic() >= until:
                    raise
            if attempt.beat.cancelled():
                raise Cancelled("the run was not begun.")
            time.sleep(LOOK_SECONDS)

    def _watch(self, attempt: Attempt, launched: Launched) -> Iterator[Event]:
        begun, stage, step, shown = False, "", -1, ""
        while launched.alive():
            time.sleep(LOOK_SECONDS)
            if attempt.beat.cancelled():
                return
            state = self.run_dir.state()
            if state.state not in ("running", "previewing", "saving"):
                continue
            if not begun:
                begun = True
                yield StageStarted(Stage.SAMPLE)
                if state.step:
                    yield Resumed(state.step, self.config.steps)
            if (state.state, state.step) != (stage, step):
                stage, step = state.state, state.step
                yield StepDone(Stage.SAMPLE, state.step, self.config.steps, state.seconds_left)
            poster = newest_poster(self.run_dir)
            if poster is not None and str(poster) != shown:
                shown = str(poster)
                yield Preview(state.step, poster.read_bytes())

    def _judge(self, code: int | None, attempt: Attempt, words: str) -> None:
        """Raises what the trainer's end means, if it is none of done, paused and stopped. `words`: its last ones."""
        state = self.run_dir.state()
        if attempt.beat.cancelled():
            raise Cancelled("the run was paused; Resume goes on with it.")
        if code == EXITS["blocked"] or state.state == "blocked":
            raise StorageBlocked(state.message or "the disk is full.")
        if code in (EXITS["done"], EXITS["paused"], EXITS["stopped"]) or state.state in ("done", "paused", "stopped"):
            return
        if state.state == "failed":
            raise TrainingFailed(state.message)
        trouble = storage.problem(attempt.settings, self.disk_bytes)
        if trouble and state.state not in ENDS:  # a full disk may have had no room for its last word
            raise StorageBlocked(trouble)
        raise TrainingFailed(f"the trainer ended unexpectedly (exit code {code}). Resume goes on from its last checkpoint. Its last words: "
                             f"{words or 'none'}")

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        """The LoRA on the shelf, under its hash, so a second attempt does nothing twice; then the row."""
        path = self.run_dir.lora_file(self.config.name)
        detail = self.run_dir.state().state
        if path.is_file() and not self.config.dora:
            detail = f"{detail}; LoRA {Loras(attempt.settings).add(path).name[:12]}"
        attempt.place.store.leases.finalize(attempt.claim, now=time.time())
        attempt.place.store.leases.complete(attempt.claim, now=time.time(), detail=detail)


ROOT = Path(__file__).resolve().parents[3]
LAUNCH_CONFIG = ROOT / "training" / "launch.json"


def launch_command(run: Path, models: Path, datasets: Path, device: str, *, parent: int | None = None, processes: int = 1) -> list[str]:
    """`accelerate launch -m training RUN` with nothing left to the configuration file that `accelerate config` made for other work.

    Several processes without a GPU are started by torch's own launcher (`training.ranks`): accelerate's starts one on a processor,
    whatever it is told.
    """
    work = ["-m", "training", str(run), "--models-dir", str(models), "--datasets-dir", str(datasets),
            *([] if parent is None else ["--parent", str(parent)])]
    if device == "cpu" and processes > 1:
        return [sys.executable, "-m", "training.ranks", str(processes), *work]
    how = ["--cpu"] if device == "cpu" else ["--config_file", str(LAUNCH_CONFIG), *(["--multi_gpu"] if processes > 1 else [])]
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", *how, *work]


def environment() -> dict[str, str]:
    """Of the trainer: it finds this copy of Sprocket, wherever it is started, and has no secret, for it has no use for one."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("SPROCKET_REFINER_KEY", "SPROCKET_DATABASE")}
    return inherited | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def newest_poster(run: RunDir) -> Path | None:
    """Of the last preview clip."""
    return max(run.previews.glob("step-*/0.webp"), default=None)


def _tail(path: Path, begins: int = 0) -> str:
    """The last words of a log from byte `begins` on: what the trainer said of itself, where it did, else the end of what there is."""
    try:
        lines = path.read_bytes()[begins:][-4000:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    own = [line for line in lines if line.startswith(SAYS)]
    return " ".join(own[-1:] or lines[-3:])[:500]


class _Train:
    what = "LoRA training"

    def title(self, request: Mapping[str, Any]) -> str:
        """The LoRA's name."""
        return f"Train {str(request.get('name', 'a LoRA'))[:80]}"

    def resolve(self, place: Workplace, job: Job) -> TrainWork:
        """Raises InvalidRequest for a run that is gone or cannot be read, CannotFit, ModelNotFound, ModelInvalid."""
        run = RunDir(place.settings.training_dir / str(job.request.get("run", "")))
        if not (run.folder / "run.json").is_file():
            raise InvalidRequest("run", "is gone: its folder was deleted. Begin a new one.")
        config, _facts, _created = run.read()
        spec = place.engine.spec(config.model, place.settings.models_dir)
        machine = place.engine.hardware(config.device or None)
        check_devices(machine, config.ranks)
        choice = choose_memory(spec, config, machine)
        kept = (config.keep + 2) * lora_numbers(spec, config) * checkpoint_bytes(config)
        notes = (f"Memory: {choice.bytes / 2**30:.1f} GiB expected; {choice.words}.",)
        folders = (place.settings.models_dir, place.settings.datasets_dir)
        return TrainWork(run, config, machine.device, notes, config.steps, kept, *folders)

    def finish_published(self, place: Workplace, claim: Claim) -> bool:
        """The shelf takes a file twice as once, so publishing again is enough."""
        return False


KIND = _Train()

