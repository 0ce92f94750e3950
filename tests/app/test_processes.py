"""Real processes: a worker that is stopped, killed, frozen; a supervisor that brings it back; no torch in the page."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.errors import DataDirBusy, HistoryUnreachable
from app.history.records import JobState
from app.queue.executor import Workplace, perform
from app.queue.minder import Minder
from app.queue.process import NICER, this_process
from app.queue.reports import SUPERVISOR
from app.queue.supervisor import Supervisor
from app.queue.worker import UNUSABLE_EXIT, chores
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import StorageBlocked
from tests.fakes import FakeEngine, FakeModels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(own_data_dir: Path) -> Settings:
    return Settings(data_dir=own_data_dir, engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0,
                    preview_seconds=0.0, lease_seconds=3.0, heartbeat_seconds=0.5)


@pytest.fixture
def supervisor(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.1")
    running = Supervisor(studio.settings, studio.store)
    yield running
    running.close()


def soon(true: Callable[[], object], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_killed_worker_frozen_worker_second_server_and_a_stop(studio: Studio, supervisor: Supervisor) -> None:
    job = studio.submit({"prompt": "x"})
    supervisor.start()
    with pytest.raises(DataDirBusy, match="--data-dir"):
        Supervisor(studio.settings, studio.store).start()
    soon(lambda: studio.job(job.id).step >= 3)
    assert studio.status().worker_alive and studio.status().running == 1
    first = supervisor.worker_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    soon(lambda: studio.job(job.id).attempt == 2 and studio.job(job.id).state is JobState.RUNNING)
    assert supervisor.worker_pid != first
    soon(lambda: studio.job(job.id).state is JobState.DONE)
    assert (studio.job(job.id).resumed_from or 0) >= 3

    second = studio.submit({"prompt": "y"})
    soon(lambda: studio.job(second.id).step >= 2)
    asked = studio.cancel(second.id).step
    soon(lambda: studio.job(second.id).state is JobState.CANCELLED)
    assert studio.job(second.id).step <= asked + 6

    third = studio.submit({"prompt": "z"})
    soon(lambda: studio.job(third.id).step >= 2)
    supervisor.close()
    assert studio.job(third.id).state is JobState.QUEUED
    assert not studio.status().worker_alive
    assert studio.clips().total == 1


def test_a_frozen_worker_is_fenced_out(studio: Studio, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.2")
    job = studio.submit({"prompt": "x"})
    workers = [subprocess.Popen([sys.executable, "-m", "app.queue.worker"], cwd=ROOT, env=os.environ | settings.to_env())]
    try:
        soon(lambda: studio.job(job.id).step >= 2)
        workers[0].send_signal(signal.SIGSTOP)
        monkeypatch.setenv("FAKE_STEP_SECONDS", "0")
        workers.append(subprocess.Popen([sys.executable, "-m", "app.queue.worker"], cwd=ROOT,
                                        env=os.environ | settings.to_env()))
        soon(lambda: studio.job(job.id).state is JobState.DONE)
        before = studio.clips().clips
        workers[0].send_signal(signal.SIGCONT)
        soon(lambda: "fenced out" in studio.log_text(job.id))
        assert studio.clips().clips == before and len(before) == 1
        assert len(list(settings.media_dir.glob("*/*.mp4"))) == 1
        for worker in workers:
            worker.terminate()
        assert [worker.wait(30) for worker in workers] == [0, 0]
        assert not list(settings.data_dir.rglob("*.part"))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_a_job_that_always_crashes_its_worker_fails_and_the_next_one_runs(
        studio: Studio, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.queue.minder.BACKOFF_SECONDS", (0.0,))
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0")
    monkeypatch.setenv("FAKE_DIE", str(int(signal.SIGSEGV)))
    job = studio.submit({"prompt": "poison"})
    supervisor.start()
    soon(lambda: studio.job(job.id).state is JobState.FAILED, 90)
    failed = studio.job(job.id)
    assert failed.error_code == "crash" and "SIGSEGV" in str(failed.error)
    # What was stored of its last steps may differ from crash to crash where the machine is busy: another place, counted anew.
    assert failed.attempt >= 3 and "ended 3 times at the same place" in str(failed.error)
    assert "Segmentation fault" in studio.log_text(job.id)
    assert studio.store.recall(SUPERVISOR) is None or studio.store.recall(SUPERVISOR)[0] is None  # type: ignore[index]


def test_a_worker_that_cannot_start_opens_the_circuit(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.queue.minder.BACKOFF_SECONDS", (0.0,))
    monkeypatch.setattr("app.queue.minder.sys.executable", "/bin/false")
    broken = Supervisor(studio.settings, studio.store)
    broken.start()
    try:
        soon(lambda: studio.status().worker_message)
        message = str(studio.status().worker_message)
        assert "crashed 5 times in ten minutes" in message and "code 1" in message
    finally:
        broken.close()


SERVER = """
import sys, time
from app.settings import Settings
from app.studio import open_studio
from app.queue.supervisor import Supervisor
studio = open_studio(Settings())
supervisor = Supervisor(studio.settings, studio.store)
supervisor.start()
while supervisor.worker_pid is None: time.sleep(0.01)
print(supervisor.worker_pid, [m for m in ("torch", "diffusers", "gradio") if m in sys.modules], flush=True)
time.sleep(600)
"""


def test_a_history_that_is_away_does_not_end_workers_by_force(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_key: str) -> None:
        raise HistoryUnreachable("the server does not answer.")

    minder = Minder(studio.settings, studio.store)
    asked: list[str] = []
    minder._child = SimpleNamespace(poll=lambda: None, terminate=lambda: asked.append("in order"))  # type: ignore[assignment]
    monkeypatch.setattr(studio.store, "forget", away)
    minder.retire()
    assert asked == ["in order"] and minder._retired_at is not None


def test_a_worker_that_can_never_start_is_not_called_crashed(studio: Studio) -> None:
    minder = Minder(studio.settings, studio.store)
    minder._bury(UNUSABLE_EXIT)
    said = studio.store.recall(SUPERVISOR)
    assert said is not None and "cannot work here" in said[0] and "crashed" not in said[0]


def test_a_full_disk_does_not_stop_what_makes_room(studio: Studio, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageBlocked("the disk is full.")

    monkeypatch.setattr("app.queue.supervisor.back_up", full)
    monkeypatch.setattr("app.queue.supervisor.write_stale_sidecars", full)
    left = studio.settings.parts_dir / f"{'0' * 32}-dead.part"
    left.write_bytes(b"of a process that was killed")
    supervisor._sweep_at = 0.0
    supervisor._keep_house()
    assert not left.exists()


def test_the_worker_dies_with_its_server_which_has_no_torch(settings: Settings) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, env=os.environ | settings.to_env(),
                              stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        pid, modules = server.stdout.readline().split(" ", 1)
        worker = psutil.Process(int(pid))
        soon(lambda: worker.nice() == min(19, psutil.Process(server.pid).nice() + NICER), 20)  # pages go first
        assert modules.strip() == "[]"
        studio = open_studio(settings)
        soon(lambda: studio.status().worker_alive)
        studio.close()
    finally:
        server.kill()
        server.wait()
    soon(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5)


def test_a_file_system_that_is_really_full(settings: Settings, tmp_path: Path) -> None:
    """On a 3 MB file system of its own, where the machine lets us make one."""
    small = tmp_path / "small"
    small.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)],
                                                 capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        there = settings.model_copy(update={"data_dir": small / "data", "ballast_bytes": 1024 * 1024})
        _fill_and_free(there, small)
        _read_only_and_back(there, small)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def _fill_and_free(settings: Settings, small: Path) -> None:
    from app import storage

    studio = open_studio(settings)
    storage.keep_ballast(settings)
    assert settings.ballast_path.stat().st_size == settings.ballast_bytes
    filler = small / "filler"
    place = Workplace(settings, studio.store, FakeEngine(), FakeModels(), threading.Event())
    running = studio.submit({"prompt": "runs out of room"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    _fill(filler)
    perform(place, claim)
    assert not settings.ballast_path.exists()  # its room holds what follows
    assert (studio.job(running.id).state, studio.job(running.id).error_code) == (JobState.BLOCKED, "disk")
    job = studio.submit({"prompt": "stored in the room of the ballast"})
    _fill(filler)
    assert studio.status().blocked_reason is not None
    chores(place)
    assert studio.job(running.id).state is JobState.BLOCKED and studio.job(job.id) == job
    with pytest.raises(StorageBlocked, match="full"):
        for _ in range(2000):
            studio.submit({"prompt": "x" * 2000})
    before = studio.jobs(limit=5000)
    studio.store.database.quick_check()
    filler.unlink()
    chores(place)
    assert settings.ballast_path.exists()
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None and claim.job.id == running.id
    perform(place, claim)
    assert studio.job(running.id).state is JobState.DONE
    assert studio.submit({"prompt": "goes on"}).id not in {one.id for one in before}
    assert studio.store.database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    studio.close()


def _read_only_and_back(settings: Settings, small: Path) -> None:
    studio = open_studio(settings)
    before = studio.jobs(limit=5000)
    studio.store.database.close()  # the kernel wants no file open for writing; the next call opens it again
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    try:
        with pytest.raises(StorageBlocked, match="read-only"):
            studio.submit({"prompt": "x"})
        assert "read-only" in str(studio.status().blocked_reason)
        assert studio.jobs(limit=5000) == before
        with pytest.raises(StorageBlocked, match="read-only"):
            open_studio(settings)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    assert studio.submit({"prompt": "x"}).state is JobState.QUEUED
    studio.close()


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_write_that_is_refused_stores_nothing(studio: Studio) -> None:
    """A file size limit: the kernel refuses the write in the middle of a transaction."""
    before = studio.jobs()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = studio.settings.db_path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(StorageBlocked):
            for _ in range(50):
                studio.submit({"prompt": "x" * 2000})
                before = studio.jobs()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert studio.jobs() == before
    studio.submit({"prompt": "goes on"})
    studio.store.database.quick_check()
