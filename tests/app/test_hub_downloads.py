"""Downloads against a hub on this machine: whole, cut off, killed, forged, refused."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import HubOffline, NotAllowed, NotFound
from app.hub import downloads as going
from app.hub.keeper import Keeper
from app.hub.records import DOWNLOADS, Download, Phase, Pinned, Place, load
from app.hub.shelf import Hub
from app.lock import FileLock
from app.settings import Settings
from engine.errors import CannotFit, InvalidRequest, ModelInvalid, ModelNotFound
from engine.models.catalogue import find, installed, places, pocket_dir
from tests.hub_server import GOOD_TOKEN, LocalHub, Repo, local_hub, repo_of
from tests.site import wait_for

ROOT = Path(__file__).resolve().parents[2]
REPO = "me/pocket"
LARGE = "transformer/diffusion_pytorch_model.safetensors"


@functools.cache
def pocket_files() -> dict[str, bytes]:
    return repo_of(pocket_dir()).files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the pocket model, and huggingface_hub of this process pointed at it."""
    import huggingface_hub
    from huggingface_hub import constants

    with local_hub({REPO: Repo(dict(pocket_files()))}) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}")
        huggingface_hub.close_session()
        yield running
        huggingface_hub.close_session()


@pytest.fixture
def settings(own_data_dir: Path) -> Settings:
    return Settings(data_dir=own_data_dir, min_free_bytes=0, download_patience_seconds=3.0)


@pytest.fixture
def models(settings: Settings) -> Hub:
    return Hub(settings, in_use=lambda: (), memory=lambda _name: 10**9)


@pytest.fixture
def fetch(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Download | None]:
    """Does what the process does, in this one: True to its main(), without its two seconds of starting."""
    from app.hub.fetch import main

    def run(model: str = REPO) -> Download | None:
        for name, value in settings.to_env().items():
            monkeypatch.setenv(name, value)
        assert main([model]) == 0
        return going.download(settings.models_dir, model)
    return run


def start(settings: Settings, hub: LocalHub, model: str = REPO) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "app.hub.fetch", model], cwd=ROOT, env={**os.environ, **settings.to_env(), **hub.env})


def nothing_visible(settings: Settings) -> bool:
    """Nothing that a catalogue, a person or a program that looks for models would take for one."""
    seen = [path for path in settings.models_dir.rglob("*") if DOWNLOADS not in path.parts and path.name != DOWNLOADS]
    return places(settings.models_dir) == {} and not seen


def test_a_whole_download(hub: LocalHub, settings: Settings, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.repos[REPO].files |= {"README.md": b"# hi", "evil.py": b"import os", "transformer/diffusion_pytorch_model.bin": b"pickle"}
    asked = models.ask(REPO)
    assert (asked.phase, models.ask(REPO).asked_at >= asked.asked_at) == (Phase.WAITING, True)
    assert fetch() is None
    folder = find(REPO, models_dir=settings.models_dir)
    assert folder == settings.models_dir / "me--pocket"
    came = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = json.loads(came.pop("sprocket-download.json"))
    assert set(came) == {f["path"] for f in manifest["files"]} and not {"README.md", "evil.py", "eval.json"} & set(came)
    assert all(came[name] == pocket_files()[name] for name in came)
    assert manifest["revision"] == hub.repos[REPO].revision and manifest["licence"] == "apache-2.0"
    card = next(card for card in models.cards() if card.name == REPO)
    assert card.ready and card.revision == hub.repos[REPO].revision and card.size_bytes and card.origin == "hub"
    assert [spec.name for spec in installed(models_dir=settings.models_dir)] == ["pocket", "pocket-i2v", REPO]
    assert not (settings.models_dir / DOWNLOADS / "me--pocket").exists()
    assert all(asked.token is None for asked in hub.asked)
    with pytest.raises(NotAllowed, match="already here"):
        models.ask(REPO)


def test_the_commit_is_pinned_at_the_first_asking(hub: LocalHub, models: Hub, settings: Settings, fetch: Callable[..., Any]) -> None:
    models.ask(REPO)
    hub.faults.status[LARGE] = [404]
    first = hub.repos[REPO].revision
    assert fetch().phase is Phase.FAILED
    hub.repos[REPO].files["vae/config.json"] += b" "
    hub.repos[REPO].revision = "f" * 40  # the branch has moved on; the hub still serves the old commit
    models.ask(REPO)
    stopped = fetch()
    assert stopped is not None and stopped.revision == first and "revision" in (stopped.progress.error or "")
    models.ask(REPO, "f" * 40)
    assert fetch() is None
    assert next(card for card in models.cards() if card.name == REPO).revision == "f" * 40


def test_a_mistyped_revision_is_left_out_the_next_time(hub: LocalHub, models: Hub, settings: Settings, fetch: Callable[..., Any]) -> None:
    files = Place.of(settings.models_dir, REPO).files
    models.ask(REPO)
    hub.faults.status[LARGE] = [404]
    fetch()
    came = sorted(files.rglob("*"))
    models.ask(REPO, "v9")
    assert fetch().progress.error_code == "hub_missing" and came and sorted(files.rglob("*")) == came
    models.ask(REPO, again=True)
    assert fetch().progress.error_code == "hub_missing"  # the same again
    models.ask(REPO)
    assert fetch() is None and manifest_of(models).asked is None


def test_what_was_begun_at_a_revision_goes_on_there(hub: LocalHub, models: Hub, fetch: Callable[..., Any]) -> None:
    first = hub.repos[REPO].revision
    models.ask(REPO, first)
    hub.faults.status[LARGE] = [404]
    fetch()
    models.ask(REPO)
    assert fetch() is None and manifest_of(models).asked == first


def manifest_of(models: Hub) -> Pinned:
    found = going.manifest(places(models.folder)[REPO])
    assert found is not None
    return found


@pytest.mark.parametrize("cut", [[2**20 + 17], [5, 3_000_000, 9_000_000]])
def test_a_connection_that_breaks_is_taken_up_again(hub: LocalHub, models: Hub, fetch: Callable[..., Any], cut: list[int]) -> None:
    hub.faults.cut_after[LARGE] = list(cut)
    models.ask(REPO)
    assert fetch() is None
    tries, size = hub.of(LARGE), len(pocket_files()[LARGE])
    have = [sum(cut[:n]) for n in range(len(cut) + 1)]
    assert [asked.range for asked in tries] == [None, *(f"bytes={n}-" for n in have[1:])]
    assert sum(asked.sent for asked in tries) == size


def test_a_hub_without_ranges_and_one_that_is_busy(hub: LocalHub, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.faults.no_ranges = True
    hub.faults.cut_after[LARGE] = [1000]
    hub.faults.status["vae/config.json"] = [503, 429]
    models.ask(REPO)
    assert fetch() is None and [asked.sent for asked in hub.of(LARGE)] == [1000, len(pocket_files()[LARGE])]


def test_kill_9_in_the_middle_then_only_the_rest_is_fetched(hub: LocalHub, settings: Settings, models: Hub,
                                                            fetch: Callable[..., Any]) -> None:
    models.ask(REPO)
    hub.faults.bytes_per_second = 6e6
    process = start(settings, hub)
    part = Place.of(settings.models_dir, REPO).files / f"{LARGE}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 3_000_000, "three megabytes")
    shown = models.download(REPO)
    assert shown is not None and shown.phase is Phase.FETCHING and shown.progress.total_bytes and 0.3 < shown.share < 1
    with pytest.raises(NotAllowed, match="Cancel it first"):
        models.discard(REPO)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert nothing_visible(settings) and models.download(REPO).phase is Phase.WAITING  # type: ignore[union-attr]
    have, before = part.stat().st_size, hub.bodies()
    hub.faults.bytes_per_second = 0
    hub.asked.clear()
    assert fetch() is None
    assert [(asked.path, asked.range) for asked in hub.asked] == [(LARGE, f"bytes={have}-")]  # nothing is asked for twice
    assert hub.bodies() == len(pocket_files()[LARGE]) - have and before >= have


def test_a_forged_file_is_refused_and_leaves_nothing(hub: LocalHub, settings: Settings, models: Hub, fetch: Callable[..., Any]) -> None:
    forged = bytearray(pocket_files()[LARGE])
    forged[-1] ^= 1
    hub.repos[REPO].promised[LARGE] = {"sha256": hashlib.sha256(bytes(forged)).hexdigest()}
    models.ask(REPO)
    failed = fetch()
    assert failed.phase is Phase.FAILED and failed.progress.error_code == "hub_damaged" and LARGE in failed.progress.error
    place = Place.of(settings.models_dir, REPO)
    assert nothing_visible(settings) and not list(place.files.rglob(f"{Path(LARGE).name}*transformer*"))
    assert not (place.files / LARGE).exists() and not (place.files / f"{LARGE}.part").exists()
    assert [c.state for c in models.cards() if c.name == REPO] == ["failed"]
    models.discard(REPO)
    assert models.download(REPO) is None and list((settings.models_dir / DOWNLOADS).iterdir()) == []


def test_a_forged_config_is_refused_by_gits_checksum(hub: LocalHub, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.repos[REPO].promised["vae/config.json"] = {"blob_id": "0" * 40}
    models.ask(REPO)
    assert fetch().progress.error_code == "hub_damaged" and hub.bodies() == 0


def test_a_part_that_was_spoilt_on_the_disk_is_fetched_anew(hub: LocalHub, settings: Settings, models: Hub,
                                                            fetch: Callable[..., Any]) -> None:
    models.ask(REPO)
    part = Place.of(settings.models_dir, REPO).files / f"{LARGE}.part"
    part.parent.mkdir(parents=True)
    pinned = Pinned(repo=REPO, revision=hub.repos[REPO].revision, licence=None, asked=None, files=())
    hub.faults.status[LARGE] = [404]
    assert fetch().phase is Phase.FAILED and pinned.revision == models.download(REPO).revision  # type: ignore[union-attr]
    part.write_bytes(b"\0" * 1_000_000)
    models.ask(REPO)
    assert fetch() is None
    assert [asked.range for asked in hub.of(LARGE)] == ["bytes=1000000-", None]


def test_a_longer_file_than_promised_is_not_taken(hub: LocalHub, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.repos[REPO].promised[LARGE] = {"size": 1000}
    models.ask(REPO)
    assert "length" in fetch().progress.error


@pytest.mark.parametrize(("change", "code", "says"), [
    (lambda hub: hub.repos.pop(REPO), "hub_missing", "Check the spelling"),
    (lambda hub: setattr(hub.repos[REPO], "gated", True), "hub_gated", "HF_TOKEN"),
    (lambda hub: hub.repos[REPO].files.update({"model_index.json": b'{"_class_name": "WanPipeline"}'}), "model_invalid", "WanPipeline"),
    (lambda hub: hub.repos[REPO].files.update({"model_index.json": b"[]"}), "model_invalid", "not an object"),
    (lambda hub: hub.repos[REPO].files.pop("model_index.json"), "hub_missing", "model_index.json"),
    (lambda hub: hub.repos[REPO].files.update({"../../../.bashrc": b"x"}), "model_invalid", "do not trust it"),
    (lambda hub: [hub.repos[REPO].files.update({LARGE.replace(".safetensors", ".bin"): b"x"}), hub.repos[REPO].files.pop(LARGE)],
     "model_invalid", "only pickled weights"),
    (lambda hub: hub.repos[REPO].promised.update({LARGE: {"size": 10**16}}), "cannot_fit", "10,000,000 GB"),
    (lambda hub: setattr(hub, "down", True), "hub_unreachable", "cannot be reached"),
], ids=["missing", "gated", "class", "no-object", "no-index", "traversal", "pickles", "disk", "down"])
def test_refused_before_the_first_byte_of_weights(hub: LocalHub, settings: Settings, models: Hub, fetch: Callable[..., Any],
                                                  change: Callable[[LocalHub], Any], code: str, says: str) -> None:
    change(hub)
    models.ask(REPO)
    failed = fetch()
    assert (failed.phase, failed.progress.error_code) == (Phase.FAILED, code)
    assert says in failed.progress.error and len(failed.progress.error) < 700
    assert hub.bodies() == 0 and nothing_visible(settings)
    assert not list(Place.of(settings.models_dir, REPO).files.rglob("*.safetensors*"))


def test_a_gated_model_comes_with_a_token_and_the_token_stays_at_the_hub(hub: LocalHub, models: Hub, fetch: Callable[..., Any],
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].gated = True
    models.ask(REPO)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert fetch() is None
    tokens = {asked.path: asked.token for asked in hub.asked if asked.method == "GET"}
    assert tokens["vae/config.json"] == f"Bearer {GOOD_TOKEN}"
    assert tokens[LARGE] is None  # it lies on another host


def test_a_moved_repository_is_followed(hub: LocalHub, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.repos["new/name"] = hub.repos[REPO]
    hub.repos[REPO] = Repo({}, moved_to="new/name")
    models.ask(REPO)
    assert fetch() is None and REPO in {card.name for card in models.cards()}


def test_what_cannot_be_run_is_removed_after_all(hub: LocalHub, settings: Settings, models: Hub, fetch: Callable[..., Any]) -> None:
    hub.repos[REPO].files["vae/diffusion_pytorch_model.safetensors"] = b"\x80\x04pickle under another name"
    models.ask(REPO)
    failed = fetch()
    assert failed.progress.error_code == "model_invalid" and "cannot be run, and was removed" in failed.progress.error
    assert nothing_visible(settings) and not Place.of(settings.models_dir, REPO).files.exists()


def test_offline_says_so_at_once(models: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubOffline, match="HF_HUB_OFFLINE"):
        models.ask(REPO)
    assert models.offline and not models.folder.exists()


def test_a_full_disk_is_a_sentence_and_what_came_stays(hub: LocalHub, models: Hub, settings: Settings, fetch: Callable[..., Any],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from app.hub import remote

    real = remote.fetch

    def full(repo: str, revision: str, file: Any, target: Path, **rest: Any) -> None:
        if file.path == LARGE:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(repo, revision, file, target, **rest)

    monkeypatch.setattr(remote, "fetch", full)
    models.ask(REPO)
    said = fetch().progress
    assert said.error_code == "disk" and "No space left" in said.error and "What has come stays" in said.error
    monkeypatch.setattr(remote, "fetch", real)
    models.ask(REPO)
    hub.asked.clear()
    assert fetch() is None and {asked.path for asked in hub.asked} == {LARGE}


def test_the_keeper_fetches_is_killed_is_stopped_and_goes_on(hub: LocalHub, settings: Settings, models: Hub) -> None:
    hub.faults.bytes_per_second = 3e6
    models.ask(REPO)
    keeper = Keeper(settings)
    keeper.start()
    try:
        wait_for(lambda: (d := models.download(REPO)) and d.phase is Phase.FETCHING and d.share > 0.3, "the first bytes")
        os.kill(keeper.process_id or 0, signal.SIGKILL)
        at = models.download(REPO).progress.done_bytes  # type: ignore[union-attr]
        wait_for(lambda: (d := models.download(REPO)) and d.phase is Phase.FETCHING and d.progress.done_bytes > at, "its going on")
        hub.faults.hang.set()  # a network that is silent: the process cannot see the wish to stop
        models.cancel(REPO)
        assert models.download(REPO).phase in (Phase.STOPPING, Phase.STOPPED)  # type: ignore[union-attr]
        wait_for(lambda: models.download(REPO).phase is Phase.STOPPED, "the stop")  # type: ignore[union-attr]
        hub.faults.hang.clear()
        stopped = models.download(REPO)
        assert stopped is not None and stopped.progress.done_bytes >= at
        wait_for(lambda: keeper.process_id is None, "the end of the process")
        time.sleep(0.6)
        assert keeper.process_id is None  # stopped stays stopped
        hub.faults.bytes_per_second = 0
        models.ask(REPO)
        wait_for(lambda: models.download(REPO) is None, "the end")
    finally:
        keeper.close()
    whole = sum(len(data) for path, data in pocket_files().items() if path.endswith(".safetensors"))
    assert find(REPO, models_dir=settings.models_dir) and hub.bodies() < 1.5 * whole


def test_two_are_fetched_one_after_the_other(hub: LocalHub, settings: Settings, models: Hub) -> None:
    hub.repos["me/second"] = Repo(dict(pocket_files()))
    models.ask(REPO)
    models.ask("me/second")
    assert [d.repo for d in going.downloads(settings.models_dir)] == [REPO, "me/second"]
    keeper = Keeper(settings)
    keeper.start()
    try:
        wait_for(lambda: models.download(REPO) is None, "the first")
        wait_for(lambda: models.download("me/second") is None, "the second")
    finally:
        keeper.close()
    assert list(places(settings.models_dir)) == [REPO, "me/second"]


def test_cancel_discard_and_what_was_never_asked_for(settings: Settings, models: Hub, hub: LocalHub) -> None:
    for act in (models.cancel, models.discard):
        with pytest.raises(NotFound, match="not being downloaded"):
            act("me/nothing")
    models.ask(REPO)
    assert models.cancel(REPO).phase is Phase.STOPPED and models.cancel(REPO).phase is Phase.STOPPED
    assert models.ask(REPO).phase is Phase.WAITING
    models.discard(REPO)
    assert models.download(REPO) is None


def test_leftovers_of_a_death_are_cleaned_and_odd_files_ignored(settings: Settings, models: Hub) -> None:
    root = settings.models_dir / DOWNLOADS
    for name in ("trash-abc", "me--done", "me--odd"):
        (root / name / "files").mkdir(parents=True)
    (root / "me--odd" / "wish.json").write_text("[[[")
    going.clean(settings.models_dir)
    assert [p.name for p in root.iterdir()] == ["me--odd"] and models.download("me/odd") is None and models.cards()


@pytest.fixture
def copied(settings: Settings) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        shutil.copytree(pocket_dir(), settings.models_dir / name)
        return settings.models_dir / name
    return copy


def test_another_revision_of_a_model_that_is_here_can_be_gone_on_with(models: Hub, hub: LocalHub, copied: Callable[[str], Path]) -> None:
    copied("me--pocket")
    models.ask(REPO, "v2")
    models.cancel(REPO)
    asked = models.ask(REPO, again=True)  # "Go on"
    assert (asked.revision, asked.phase) == ("v2", Phase.WAITING)
    models.discard(REPO)
    with pytest.raises(NotAllowed, match="already here"):
        models.ask(REPO, again=True)


def test_another_revision_is_not_asked_for_while_one_is_fetched(settings: Settings, models: Hub, hub: LocalHub) -> None:
    models.ask(REPO, "v1")
    with FileLock(Place.of(settings.models_dir, REPO).lock):
        for same in (None, "v1"):
            assert models.ask(REPO, same).revision == "v1"
        with pytest.raises(NotAllowed, match="Cancel it first"):
            models.ask(REPO, "v2")
    assert models.ask(REPO, "v2").revision == "v2"


def test_delete_is_refused_while_a_job_needs_it(settings: Settings, copied: Callable[[str], Path]) -> None:
    folder, users = copied("me--pocket"), [REPO, "pocket", "gone/model", str(settings.models_dir / "me--pocket")]
    models = Hub(settings, in_use=lambda: users, memory=lambda _name: 0)
    with pytest.raises(NotAllowed, match="2 jobs that run or wait"):
        models.delete(REPO)
    users.clear()
    with pytest.raises(NotAllowed, match="part of Sprocket"):
        models.delete("pocket")
    for name in ("me/none", "../x", ""):
        with pytest.raises(ModelNotFound):
            models.delete(name)
    answers = iter([[], [REPO]])
    late = Hub(settings, in_use=lambda: next(answers), memory=lambda _name: 0)
    with pytest.raises(NotAllowed):
        late.delete(REPO)  # a job came between
    assert folder.exists()
    models.delete(REPO)
    assert not folder.exists() and list((settings.models_dir / DOWNLOADS).iterdir()) == []


def test_local_folders_are_noted_and_never_touched(settings: Settings, models: Hub, tmp_path: Path) -> None:
    own = tmp_path / "my <b>model"
    shutil.copytree(pocket_dir(), own)
    name = models.add(str(own))
    assert name == "my -b-model" and models.add(str(own)) == name
    assert find(name, models_dir=settings.models_dir) == own
    assert [card.origin for card in models.cards() if card.name == name] == ["linked"]
    assert models.verify(name).ok and models.verify(name).checked == 0
    models.delete(name)
    assert own.is_dir() and models.add(f" {own} ") == name
    assert models.add(str(pocket_dir())) == "pocket"
    (own / "model_index.json").write_text("{}")
    assert [(card.name, card.state) for card in models.cards() if card.origin == "linked"] == [(name, "damaged")]
    wrong = {str(tmp_path / "none"): InvalidRequest, str(tmp_path): ModelInvalid, "/\0": InvalidRequest, "relative": InvalidRequest}
    for bad, kind in wrong.items():
        with pytest.raises(kind):
            models.add(bad)


def test_verify_finds_what_changed(settings: Settings, models: Hub, hub: LocalHub, fetch: Callable[..., Any]) -> None:
    models.ask(REPO)
    fetch()
    good = models.verify(REPO)
    assert good.ok and good.checked == 12 and good.revision == hub.repos[REPO].revision
    folder = settings.models_dir / "me--pocket"
    with (folder / LARGE).open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff\xff")
    (folder / "sprocket.json").unlink()
    assert models.verify(REPO).problems == ("sprocket.json is missing", f"{LARGE} has changed since it was downloaded")


def test_a_damaged_model_can_be_fetched_again(settings: Settings, models: Hub, hub: LocalHub, fetch: Callable[..., Any],
                                              copied: Callable[[str], Path]) -> None:
    (copied("me--pocket") / LARGE).write_bytes(b"cut off")
    assert [card.state for card in models.cards() if card.name == REPO] == ["damaged"]
    models.ask(REPO)
    assert fetch() is None and models.verify(REPO).ok


def test_numbers_of_the_disk_are_in_the_message(settings: Settings, models: Hub, hub: LocalHub, fetch: Callable[..., Any],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from app.hub import fetch as process

    monkeypatch.setattr(process.shutil, "disk_usage", lambda _path: SimpleNamespace(free=5_000_000))
    models.ask(REPO)
    error = fetch().progress.error
    assert fetch().progress.error_code == CannotFit.code and "23 MB more" in error and "it has 5 MB" in error
    assert not list(Place.of(settings.models_dir, REPO).files.rglob("*"))


def test_records_that_make_no_sense_are_no_records(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"schema": 2}', '{"schema": 1, "files": 5}', "nul", '{"schema": 1, "phase": "flying"}'):
        (tmp_path / "x.json").write_text(text)
        assert load(Pinned, tmp_path / "x.json") is None
