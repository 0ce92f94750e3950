"""A studio on an empty folder, with the fake engine behind the real door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.history.records import Job
from app.queue.executor import Workplace, perform
from app.queue.process import this_process
from app.settings import Settings
from app.studio import Studio, open_studio
from tests.fakes import FakeEngine, FakeModels


@pytest.fixture
def settings(own_data_dir: Path) -> Settings:
    return Settings(data_dir=own_data_dir, engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0,
                    preview_seconds=0.0, tick_seconds=0.02, heartbeat_seconds=0.5)


@pytest.fixture(scope="session")
def empty_history(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A history as the first opening of a folder leaves it: making its tables costs ten times what opening them does."""
    there = Settings(data_dir=tmp_path_factory.mktemp("empty"), engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0)
    open_studio(there).close()
    return there.db_path.read_bytes()


@pytest.fixture
def studio(settings: Settings, empty_history: bytes) -> Iterator[Studio]:
    settings.make_folders()
    settings.db_path.write_bytes(empty_history)
    opened = open_studio(settings)
    yield opened
    opened.close()


@pytest.fixture
def work_once(studio: Studio) -> Callable[[], Job | None]:
    """Does what the worker process does for one job, in this process. Returns the job as it then stands."""
    place = Workplace(studio.settings, studio.store, FakeEngine(), FakeModels(), threading.Event())

    def work() -> Job | None:
        import time

        claim = studio.store.leases.claim(this_process(), now=time.time())
        if claim is None:
            return None
        perform(place, claim)
        return studio.store.jobs.get(claim.job.id)
    return work


@pytest.fixture
def said(settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """said(*words) -> what `sprocket interpolate *words --json` printed, and its exit code."""
    import json

    from app.cli import main

    monkeypatch.setenv("SPROCKET_ENGINE", settings.engine)

    def run(*words: str) -> dict:
        monkeypatch.setattr("sys.argv", ["sprocket", "interpolate", *words, "--data-dir", str(settings.data_dir), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        return json.loads(capfd.readouterr().out) | {"code": ended.value.code}

    return run
