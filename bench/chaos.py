"""Faults at random moments, then count: jobs lost, clips published twice, bad files seen.

    python -m bench.chaos [--faults 500] [--kills] [--seed 1] [--keep DIR]

Half are kill -9 (with --kills: all); the others stop a process past its lease, fill the disk, or make the clock jump by an hour
(`chaos_faults.py`; the data folder is a small disk of its own where this user may mount one). Three kinds of victims are killed:
`web` (the process that takes requests and watches the worker; its worker dies with it), `worker`, and `writer` (the worker in the moment
it writes, checks or publishes a file). There is always work: the web process keeps a few jobs waiting. The engine is the fake of the tests
(twelve steps, a checkpoint after each, a real small mp4); queue, history, supervisor and publishing are the real ones. A watcher opens
every mp4 the moment it becomes visible. Exit code 0 only if every count that must be 0 is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.errors import HistoryBusy  # noqa: E402
from app.history.records import JobState  # noqa: E402
from app.history.sidecar import read_sidecar  # noqa: E402
from app.queue.supervisor import Supervisor  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.studio import Studio, open_studio  # noqa: E402
from bench.chaos_faults import KILLS, Trouble, small_disk  # noqa: E402
from engine.digest import file_sha256  # noqa: E402
from engine.errors import SprocketError, StorageBlocked  # noqa: E402
from engine.lifeline import die_with_parent  # noqa: E402
from engine.video.probe import probe  # noqa: E402
from tests.fakes import SPEC, STEPS  # noqa: E402

WRITING = ("decode", "verify")
SETTLE_SECONDS = 180.0
WAITING_JOBS = 4
LEASE_SECONDS = 1.6


@dataclass
class Tally:
    """What happened and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    acked: set[str] = field(default_factory=set)
    bad_seen: set[str] = field(default_factory=set)
    """Files that were visible under their final name and were not whole, at any moment."""
    findings: dict[str, int] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not any(self.findings.values())


def settings_for(folder: Path) -> Settings:
    """A lease is short where a process is stopped past it, and the ballast fits the small disk."""
    lease = float(os.environ.get("CHAOS_LEASE", "0"))
    quick = {"lease_seconds": lease, "heartbeat_seconds": lease / 4, "ballast_bytes": 2 << 20} if lease else {"ballast_bytes": 0}
    return Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0, preview_seconds=0.0, max_waiting=1000, **quick)


def web(folder: Path, first: int, taking: bool) -> None:
    """The victim: supervises, and takes requests from number `first` on, each acknowledged once it is durable."""
    die_with_parent(os.getppid())  # the bench may itself be stopped
    settings = settings_for(folder)
    studio = open_studio(settings)
    supervisor = Supervisor(settings, studio.store)
    supervisor.start()
    print("ready", flush=True)
    number = first
    while True:
        with contextlib.suppress(StorageBlocked, HistoryBusy):  # said to whoever asks; nothing was acknowledged
            if taking and len(studio.jobs(active_only=True)) < WAITING_JOBS:
                # The key makes it harmless to repeat a request that was killed between its commit and its acknowledgement.
                job = studio.submit({"prompt": f"chaos {number}", "seed": number}, idempotency_key=f"request-{number}")
                print(f"ack {number} {job.id}", flush=True)
                number += 1
        time.sleep(0.05)


class Web:
    """One life of the victim; remembers what it acknowledged."""

    def __init__(self, folder: Path, tally: Tally, step_seconds: float, *, first: int = 0, taking: bool = True,
                 more: Mapping[str, str] = MappingProxyType({})) -> None:
        self.next = first
        self._tally = tally
        env = os.environ | {"FAKE_STEP_SECONDS": str(step_seconds), "PYTHONPATH": str(ROOT), **more}
        with (folder.parent / "web.log").open("ab") as log:
            command = [sys.executable, "-m", "bench.chaos", "--web", str(folder), str(first), str(int(taking))]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            if words == ["ready"]:
                self.ready.set()
            elif len(words) == 3 and words[0] == "ack":
                self._tally.acked.add(words[2])
                self.next = int(words[1]) + 1

    def worker(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if "app.queue.worker" in " ".join(child.cmdline()):
                    return child
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(timeout=5.0)  # what it acknowledged before it died counts


class Watcher:
    """Opens every published mp4 at once, and again when it has changed; what is not whole is a bad file seen."""

    def __init__(self, media: Path, tally: Tally) -> None:
        self._media, self._tally = media, tally
        self._seen: dict[Path, tuple[int, int]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            for path in self._media.glob("*/*.mp4"):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    mark = (stat.st_ino, stat.st_size)
                    if self._seen.get(path) != mark:
                        self._seen[path] = mark
                        if not whole(path):
                            self._tally.bad_seen.add(path.name)

    def close(self) -> None:
        self._end.set()
        self._thread.join()


def whole(path: Path) -> bool:
    try:
        facts = probe(path)
    except SprocketError:
        return False
    return (facts.frames, facts.width, facts.height) == (SPEC.native_frames, SPEC.native_width, SPEC.native_height)


def strike(victim: str, running: Web, folder: Path, dice: random.Random) -> bool:
    """Kills one victim. False when there is none to be found."""
    if victim == "web":
        running.kill()
        return True
    if victim == "writer":
        wait_for(lambda: any(state == "finalizing" or stage in WRITING for state, stage in held(folder)))
        time.sleep(dice.random() * 0.04)
    worker = running.worker()
    if worker is None:
        return False
    with contextlib.suppress(psutil.Error):
        worker.kill()
        return True
    return False


def at_work(folder: Path) -> bool:
    """Has a worker begun to sample or write?"""
    return any(stage in ("sample", *WRITING) for _state, stage in held(folder))


def held(folder: Path) -> list[tuple[str, str | None]]:
    """(state, stage) of the jobs in a worker's hands."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(folder / "history.db", timeout=1.0)) as c:
        return c.execute("SELECT state, stage FROM jobs WHERE state IN ('running', 'finalizing')").fetchall()
    return []


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when `true()` is, or when the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.005)


def run_chaos(folder: Path, *, kills: int, seed: int, step_seconds: float = 0.06, pause: float = 1.5,
              settle: float = SETTLE_SECONDS, say: bool = False, trouble: Trouble | None = None) -> Tally:
    """Does `kills` faults at random moments, lets the rest finish, and examines what is left in `folder` (new or empty).

    `pause`: longest time in seconds a victim lives after it is ready. `trouble`: other faults besides kills.
    """
    dice, tally = random.Random(seed), Tally()
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    watcher = Watcher(folder / "media", tally)
    more = trouble.environment() if trouble else {}
    running = Web(folder, tally, step_seconds, more=more)
    try:
        while sum(tally.kills.values()) < kills:
            running.ready.wait(30.0)
            if dice.random() < 0.75:  # else the victim may die while it starts, which takes longer than a job
                wait_for(lambda: at_work(folder))
            time.sleep(dice.random() * pause)
            fault = dice.choice(trouble.kinds() if trouble else KILLS)
            if happen(fault, running, folder, dice, trouble):
                tally.kills[fault] += 1
                if say and sum(tally.kills.values()) % 25 == 0:
                    print(f"  {sum(tally.kills.values())} faults, {len(tally.acked)} jobs acknowledged", flush=True)
            if running.process.poll() is not None:
                running = Web(folder, tally, step_seconds, first=running.next, more=more)
        running.kill()
        if trouble:
            trouble.calm()
        running = Web(folder, tally, step_seconds, taking=False, more=more)
        settle_down(folder, settle)
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()
        watcher.close()
    examine(folder, tally)
    tally.facts["seconds"] = round(time.monotonic() - begun)
    return tally


def happen(fault: str, running: Web, folder: Path, dice: random.Random, trouble: Trouble | None) -> bool:
    """One fault, kill or other. False when there was nobody for it."""
    if fault in KILLS or trouble is None:
        return strike(fault, running, folder, dice)
    stopped = running.worker() if fault == "stop worker" else psutil.Process(running.process.pid) if fault == "stop web" else None
    return trouble.do(fault, stopped)


def settle_down(folder: Path, seconds: float) -> None:
    """Waits until all jobs have ended, or the time is up."""
    studio = open_studio(settings_for(folder))
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and studio.jobs(active_only=True, limit=1):
            time.sleep(0.2)
    finally:
        studio.close()


def examine(folder: Path, tally: Tally) -> None:
    """Starts and stops the studio once more, as if a few minutes later, so that its recovery runs; then compares."""
    settings = settings_for(folder)
    for path in folder.rglob("*.part"):
        os.utime(path, (0, 0))
    studio = open_studio(settings)
    supervisor = Supervisor(settings, studio.store)
    supervisor.start()
    supervisor.close()
    try:
        _compare(studio, settings, tally)
    finally:
        studio.close()


def _compare(studio: Studio, settings: Settings, tally: Tally) -> None:
    every = studio.jobs(limit=100_000)
    states = {job.id: job.state for job in every}
    rows = studio.store.clips.files()
    files = sorted(settings.media_dir.glob("*/*.mp4"))
    per_job = Counter(studio.clip(clip_id).job_id for clip_id, _file, _missing in rows)
    bad = set(tally.bad_seen)
    for clip_id, file, _missing in rows:
        path, clip = settings.media_dir / file, studio.clip(clip_id)
        told = read_sidecar(settings.media_dir, path.with_suffix(".json"))
        sound = (path.exists() and whole(path) and file_sha256(path) == clip.sha256 and told is not None
                 and told.sha256 == clip.sha256 and path.with_suffix(".webp").exists())
        if not sound:
            bad.add(file)
    integrity = studio.store.database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
    tally.findings = {
        "jobs lost": sum(states.get(job_id) is not JobState.DONE for job_id in tally.acked),
        "duplicate publishes": sum(count - 1 for count in per_job.values()) + max(0, len(files) - len(rows)),
        "bad or half files seen": len(bad),
        "clips without their file": sum(missing for _id, _file, missing in rows),
        "unfinished files left": len(list(settings.data_dir.rglob("*.part"))),
        "database errors": int(integrity != "ok"),
    }
    log = [event for job in every for event in studio.job_events(job.id)]
    tally.facts |= {
        "jobs acknowledged": len(tally.acked), "clips published": len(rows),
        "attempts": sum(job.attempt for job in every),
        "attempts that resumed in the middle": sum(job.resumed_from is not None for job in every),
        "files adopted after a crash": sum("recovered" in event.detail for event in log),
        "files in trash": len(list(settings.trash_dir.iterdir())),
        "steps per job": STEPS,
    }


def show(tally: Tally) -> None:
    kinds = ", ".join(f"{count} {victim}" for victim, count in sorted(tally.kills.items()))
    print(f"{'faults':36} {sum(tally.kills.values()):6}   ({kinds})")
    for name, value in (tally.facts | tally.findings).items():
        print(f"{name:36} {value!s:>6}{'' if name not in tally.findings else '   ok' if value == 0 else '   BAD'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--kills", action="store_true", help="kill -9 alone, on the ordinary disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="use this new folder and leave it behind (with --kills)")
    parser.add_argument("--web", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.web:
        web(Path(options.web[0]), int(options.web[1]), options.web[2] == "1")
        return 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = (options.keep or Path(temporary)) / "data"
        if options.kills:
            tally = run_chaos(folder, kills=options.faults, seed=options.seed, say=True)
        else:
            os.environ["CHAOS_LEASE"] = str(LEASE_SECONDS)
            with small_disk(folder) as mounted:
                trouble = Trouble(folder if mounted else None, Path(temporary) / "clock", LEASE_SECONDS, random.Random(options.seed + 1))
                tally = run_chaos(folder, kills=options.faults, seed=options.seed, step_seconds=0.03, pause=0.6, say=True, trouble=trouble)
                show(tally)
            return 0 if tally.sound else 1
        show(tally)
    return 0 if tally.sound else 1


if __name__ == "__main__":
    sys.exit(main())
