"""One rank of a fleet: waits for jobs, does its part of each, keeps the model in between. Started by `engine.parallel.launch`.

A thread of its own tells the owner every second that this process lives and whether it waits for other ranks; another listens.
When the owner is gone, so is this process, at once.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client, Connection
from typing import Any

from engine.errors import SprocketError
from engine.lifeline import die_with_parent
from engine.parallel.degrees import Degrees, parse_degrees
from engine.parallel.watch import BEAT_SECONDS, Pulse
from engine.parallel.wire import ADDRESS, AGENT, SECRET, Job, packed


class Line:
    """The connection to the owner; safe to speak into from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.jobs: queue.Queue[Job] = queue.Queue()
        self.cancelled = threading.Event()
        self.pulse: Any = Pulse
        self.busy = threading.Event()
        """Set from the start until ready, and during jobs: then the owner listens."""
        self.busy.set()

    def say(self, *message: Any) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            os._exit(0)

    def beat(self) -> None:
        """Every second while there is work; does not return."""
        while self.busy.wait():
            self.say("pulse", self.pulse())
            time.sleep(BEAT_SECONDS)

    def listen(self) -> None:
        """Does not return."""
        while True:
            try:
                kind, *rest = self._connection.recv()
            except (OSError, EOFError):
                os._exit(0)
            if kind == "job":
                self.cancelled.clear()
                self.busy.set()
                self.jobs.put(rest[0])
            elif kind == "cancel":
                self.cancelled.set()


def main() -> None:
    faulthandler.enable()
    die_with_parent(int(os.environ[AGENT]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the owner, which then ends the ranks
    address = os.environ[ADDRESS]
    line = Line(Client(address, authkey=bytes.fromhex(os.environ[SECRET])))
    line.say("hello", int(os.environ["RANK"]), os.getpid())
    for work in (line.beat, line.listen):
        threading.Thread(target=work, name=work.__name__, daemon=True).start()
    try:
        _serve(line)
    except BaseException:
        line.say("crashed", traceback.format_exc())
        raise


def _serve(line: Line) -> None:
    """Job after job. The first one says which device this rank has, so only then are the ranks joined."""
    import torch

    import engine.models.cogvideox  # what jobs will need: no import later silences this rank
    import engine.run  # noqa: F401
    from engine.models.cache import CHATTY, ModelCache
    from engine.parallel.mesh import Beat, Mesh, join

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rank, models, beat = int(os.environ["RANK"]), ModelCache(), Beat()
    line.pulse = beat.pulse
    meshes: dict[Degrees, Mesh] = {}
    line.say("ready")
    while True:
        if line.jobs.empty():
            line.busy.clear()
        job = line.jobs.get()
        line.busy.set()
        degrees, device = parse_degrees(job.plan.parallel), job.plan.devices[rank]
        if not meshes:
            with beat.exchange():
                join(torch.device(device))
        if degrees not in meshes:
            first = not meshes
            with beat.exchange():
                meshes[degrees] = Mesh(degrees, torch.device(device), beat)
            if first:
                line.say("link", meshes[degrees].link())
        _perform(line, replace(job, plan=replace(job.plan, device=device)), models, meshes[degrees])


def _perform(line: Line, job: Job, models: Any, mesh: Any) -> None:
    import torch

    from engine.run import run

    def tell_held() -> None:
        """However it ended: what this process has of the GPU is no other program's when the next clip is planned."""
        if mesh.device.type == "cuda":
            line.say("held", job.plan.device, torch.cuda.memory_reserved(mesh.device))

    try:
        for event in run(job.plan, part=job.part, workspace=job.workspace, recipe=job.recipe, models=models,
                         cancelled=line.cancelled.is_set, checkpoint_seconds=job.checkpoint_seconds,
                         preview_seconds=job.preview_seconds, inputs=job.inputs, loras=job.loras, calibrations=job.calibrations,
                         mesh=mesh):
            if mesh.leads:
                line.say("event", event)
        tell_held()
        line.say("done")
    except SprocketError as error:
        tell_held()
        line.say("failed", packed(error))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
    sys.stderr.flush()
    os._exit(0)
