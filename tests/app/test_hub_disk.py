"""Downloads on a disk that takes nothing any more: said, counted, not begun again for ever; and two commands at one list."""

from __future__ import annotations

import errno
import itertools
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.hub import downloads as going
from app.hub import keeper, remote, shelf
from app.hub.fetch import UNTOLD_EXIT, main
from app.hub.records import Phase, Place
from app.hub.shelf import Hub
from app.settings import Settings
from engine.errors import Cancelled
from engine.models.catalogue import local_folders, pocket_dir
from tests.app.test_hub_downloads import LARGE, REPO, hub, models, settings  # noqa: F401  (fixtures)
from tests.at_once import at_once
from tests.hub_server import LocalHub


def nothing_fits(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_or_stopped(*_: Any, stopped: Callable[[], bool], **__: Any) -> None:
    if stopped():
        raise Cancelled("stopped")
    nothing_fits()


def test_an_end_that_cannot_be_written_is_in_the_exit_code(hub: LocalHub, models: Hub, settings: Settings,  # noqa: F811
                                                           monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "fetch", full_or_stopped)
    models.ask(REPO)
    with monkeypatch.context() as full:
        full.setattr("app.hub.meter.save_quickly", nothing_fits)
        assert main([REPO]) == UNTOLD_EXIT
        assert "cannot be written (No space left on device)" in caplog.text
        stop = Place.of(settings.models_dir, REPO).stop
        stop.touch()
        assert main([REPO]) == UNTOLD_EXIT and stop.exists()  # it is still to be seen that it was stopped
    assert main([REPO]) == 0 and not stop.exists()


def test_what_dies_without_a_word_is_started_seldom(hub: LocalHub, models: Hub, settings: Settings,  # noqa: F811
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    now, starts = [0.0], []

    def dies(_settings: Settings, _repo: str) -> Any:
        starts.append(now[0])
        return SimpleNamespace(poll=lambda: UNTOLD_EXIT, returncode=UNTOLD_EXIT)

    models.ask(REPO)
    place = Place.of(settings.models_dir, REPO)
    place.lock.unlink()
    place.lock.mkdir()  # as on a read-only disk it cannot be opened
    keeping = keeper.Keeper(settings)
    with monkeypatch.context() as minute:
        minute.setattr(keeper, "start_process", dies)
        minute.setattr(keeper, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
        for _ in range(240):
            keeping._tick()
            now[0] += keeper.TICK_SECONDS
    waits = [after - before for before, after in itertools.pairwise(starts)]
    assert 4 <= len(starts) <= 8 and waits == sorted(waits) and waits[0] >= keeper.RESTART_SECONDS
    place.lock.rmdir()
    keeping._place = place
    keeping._bury(UNTOLD_EXIT)  # there is room for the word now
    found = going.download(settings.models_dir, REPO)
    assert found is not None and found.phase is Phase.FAILED


def test_a_piece_that_found_half_its_room_is_no_hole(hub: LocalHub, models: Hub, tmp_path: Path) -> None:  # noqa: F811
    """The limit on a file's size cuts a write as the last room of a disk does; a moment later there is room again."""
    file = next(each for each in remote.list_repository(REPO, None).files if each.path == LARGE)
    limits, came, target = resource.getrlimit(resource.RLIMIT_FSIZE), [0], tmp_path / "weights"

    def added(count: int) -> None:
        came[0] += count
        if came[0] > 300_001:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            remote.fetch(REPO, hub.repos[REPO].revision, file, target, add=added, stopped=lambda: False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    remote.fetch(REPO, hub.repos[REPO].revision, file, target, add=added, stopped=lambda: False)
    assert target.read_bytes() == hub.repos[REPO].files[LARGE]


def test_two_commands_at_once_lose_no_folder(models: Hub, settings: Settings, tmp_path: Path,  # noqa: F811
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        shutil.copytree(pocket_dir(), folder)
    at_once(monkeypatch, shelf, *(partial(models.add_folder, str(folder)) for folder in folders))
    assert set(local_folders(settings.models_dir)) == {"one", "two"}
    models.delete("one")
    assert set(local_folders(settings.models_dir)) == {"two"}
