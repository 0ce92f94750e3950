"""Jobs that train a LoRA: the run's own process under `accelerate launch`, watched; its LoRA is put on the shelf.

The trainer has the device to itself: the worker lets its model go first, and takes no other job meanwhile. Cancelling, and a worker that
has to end, pause the run: it saves what it has and goes on exactly there with the next attempt, or with Resume.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.history.leases import Claim
from app.history.records import Job
from app.loras import Loras
from app.queue.workplace import Attempt, Workplace
from engine.errors import Cancelled, InvalidRequest, SprocketError, StorageBlocked
from engine.events import Event, Preview, Resumed, Stage, StageStarted, StepDone
from engine.memory.placement import Placement
from training.lora.config import TrainConfig
from training.lora.forecast import choose_memory, lora_numbers
from training.lora.processes import check_devices
from training.lora.rundir import EXITS, RunDir

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
KILL_SECONDS = 25.0
"""From the wish to pause to the end by force: less than the worker's own grace, so that the trainer never outlives it."""


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
        with log_file.open("ab") as out:
            command = launch_command(self.run_dir.folder, self.models_dir, self.datasets_dir, self.device, parent=os.getpid(),
                                     processes=self.config.ranks)
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                       env=environment())
            try:
                yield from self._watch(attempt, process)
            finally:
                _end(process)
        self._judge(process.returncode, attempt, log_file)

    def _watch(self, attempt: Attempt, process: subprocess.Popen[bytes]) -> Iterator[Event]:
        begun, stage, step, shown, wished = False, "", -1, "", 0.0
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            if attempt.beat.cancelled() and not wished:
                wished = time.monotonic()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            if wished and time.monotonic() - wished > KILL_SECONDS:
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

    def _judge(self, code: int | None, attempt: Attempt, log_file: Path) -> None:
        """Raises what the trainer's end means, if it is none of done, paused and stopped."""
        state = self.run_dir.state()
        if attempt.beat.cancelled():
            raise Cancelled("the run was paused; Resume goes on with it.")
        if code == EXITS["blocked"] or state.state == "blocked":
            raise StorageBlocked(state.message or "the disk is full.")
        if code in (EXITS["done"], EXITS["paused"], EXITS["stopped"]) or state.state in ("done", "paused", "stopped"):
            return
        if state.state == "failed":
            raise TrainingFailed(state.message)
        raise TrainingFailed(f"the trainer ended unexpectedly (exit code {code}). Resume goes on from its last checkpoint. Its last words: "
                             f"{_tail(log_file) or 'none'}")

    def publish(self, attempt: Attempt, last: Event | None) -> None:
        """The LoRA on the shelf, under its hash, so a second attempt does nothing twice; then the row."""
        path = self.run_dir.lora_file(self.config.name)
        detail = self.run_dir.state().state
        if path.is_file() and not self.config.dora:
            detail = f"{detail}; LoRA {Loras(attempt.settings).add(path).name[:12]}"
        attempt.place.store.leases.finalize(attempt.claim, now=time.time())
        attempt.place.store.leases.complete(attempt.claim, now=time.time(), detail=detail)


ROOT = Path(__file__).resolve().parents[3]


def launch_command(run: Path, models: Path, datasets: Path, device: str, *, parent: int | None = None, processes: int = 1) -> list[str]:
    """`accelerate launch -m training RUN` with nothing left to a configuration file that may not be there.

    Several processes without a GPU are started by torch's own launcher: accelerate's starts one on a processor, whatever it is told.
    """
    work = ["-m", "training", str(run), "--models-dir", str(models), "--datasets-dir", str(datasets),
            *([] if parent is None else ["--parent", str(parent)])]
    if device == "cpu" and processes > 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *work]
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", *(["--cpu"] if device == "cpu" else []), *work]


def environment() -> dict[str, str]:
    """Of the trainer: it finds this copy of Sprocket, wherever it is started."""
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def newest_poster(run: RunDir) -> Path | None:
    """Of the last preview clip."""
    return max(run.previews.glob("step-*/0.webp"), default=None)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(timeout=5.0)
            return
        except subprocess.TimeoutExpired:
            continue


def _tail(path: Path) -> str:
    try:
        lines = path.read_bytes()[-4000:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return " ".join(lines[-3:])[:500]


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
        kept = (config.keep + 2) * lora_numbers(spec, config) * 4 * 4
        notes = (f"Memory: {choice.bytes / 2**30:.1f} GiB expected; {choice.words}.",)
        folders = (place.settings.models_dir, place.settings.datasets_dir)
        return TrainWork(run, config, machine.device, notes, config.steps, kept, *folders)

    def finish_published(self, place: Workplace, claim: Claim) -> bool:
        """The shelf takes a file twice as once, so publishing again is enough."""
        return False


KIND = _Train()

