"""`accelerate launch -m training RUN`: works on the run in that folder until it is done, paused or cannot go on.

Exit codes: 0 done, 10 paused, 11 stopped, 12 the disk is full, 1 failed. The folder says why.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from engine.errors import SprocketError, StorageBlocked
from engine.hardware import detect
from engine.models.catalogue import find
from engine.spec import read_spec
from training.lora.lock import run_lock
from training.lora.processes import check_division, first_process
from training.lora.rundir import EXITS, SAVE_SECONDS, SAYS, RunDir, RunState


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m training", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, made by `sprocket train` or the page")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--datasets-dir", type=Path)
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s training %(levelname)s %(name)s: %(message)s")
    for chatty in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    run, stopping = RunDir(options.run), threading.Event()
    if options.parent is not None:
        threading.Thread(target=_end_with, args=(options.parent, lambda: stopping.is_set() or run.asked("pause") or run.asked("stop")),
                         daemon=True).start()
    try:
        with run_lock(run.folder) if first_process(os.environ) else contextlib.nullcontext():
            return EXITS[_worked(run, options, stopping)]
    except SprocketError as error:  # the folder is another process's, and what it says of itself stands
        print(f"{SAYS}{error}", file=sys.stderr)
        return EXITS[_end_of(error)]


def _end_of(error: SprocketError) -> str:
    return "blocked" if isinstance(error, StorageBlocked) else "failed"


def _worked(run: RunDir, options: argparse.Namespace, stopping: threading.Event) -> str:
    """How the run ended, which its folder says too, whatever it was."""
    try:
        return _work(run, options, stopping)
    except SprocketError as error:
        print(f"{SAYS}{error}", file=sys.stderr)
        state, end = run.state(), _end_of(error)
        run.settle(RunState(end, state.step, state.steps, str(error)))
        run.tell("error", text=str(error), code=error.code)
        return end


def _work(run: RunDir, options: argparse.Namespace, stopping: threading.Event) -> str:
    config, _facts, _created = run.read()
    spec = read_spec(find(config.model, models_dir=options.models_dir), config.model)
    machine = detect(config.device or None)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: its sums in one order
    from training.lora.opening import samples_of
    from training.lora.session import Session, stop_on_signals
    from training.lora.trackers import Trackers
    from training.lora.world import of_rank, the_world

    check_division(config, spec, int(os.environ.get("WORLD_SIZE", "1")))
    machine = of_rank(machine, os.environ)
    world = the_world(machine, config.sequence_parallel)
    trackers = Trackers(config.trackers if world.rank == 0 else (), config.name, run.folder / "trackers", config.to_json())
    session = Session(run, spec, machine, samples_of(run, config, options.datasets_dir), world=world, trackers=trackers,
                      stopping=stopping)
    stop_on_signals(session)
    return session.work()


def _end_with(parent: int, asked: Callable[[], bool]) -> None:
    """Nobody is left to give the device to when the one who asked is gone; the next attempt goes on from the checkpoint. A trainer that was
    `asked` to stop is about to save: it has `SAVE_SECONDS` for that, and ends by itself."""
    while psutil.pid_exists(parent):
        time.sleep(1.0)
    until = time.monotonic() + SAVE_SECONDS
    while asked() and time.monotonic() < until:
        time.sleep(0.1)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # everything is stored; taking torch apart in order costs seconds
