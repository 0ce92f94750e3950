"""The shelf of datasets and its commands: what is kept, for whom, what is refused, what stays untouched."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.dataset_work import DatasetWork
from app.datasets import Datasets, Import
from app.errors import DataDirBusy, NotAllowed, NotFound
from app.settings import Settings
from app.studio import open_studio
from engine.digest import file_sha256
from engine.errors import InvalidRequest, StorageBlocked
from engine.models.catalogue import find
from engine.spec import read_spec
from tests.app.test_cli import Run
from tests.app.test_cli import run as run  # noqa: PLC0414  (the fixture)
from tests.chat_server import chatting, saying
from tests.engine.tiny import CPU
from training.data import edits, example, hub
from training.data.describe import ByFiles, default_prompt, trimmed
from training.data.records import DatasetDamaged
from training.data.shelf import find_dataset
from training.data.sources import Listing, Wish


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the example as a set of files; do not change it."""
    folder = tmp_path_factory.mktemp("clips")
    example.write(folder, clips=2)
    return folder


@pytest.fixture
def shelf(settings: Settings) -> Iterator[Datasets]:
    made = Datasets(settings, lambda name: read_spec(find(name), name))
    yield made
    made.close()


def test_a_set_is_kept_by_reference_and_nothing_of_the_users_is_written(shelf: Datasets, clips: Path) -> None:
    before = {path: (file_sha256(path), path.stat().st_mtime_ns) for path in clips.rglob("*") if path.is_file()}
    made = shelf.add(Import(str(clips), "two"), owner="local")
    folder = shelf.folder(made.id)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "dataset.json", *sorted(f"posters/{clip.id}.webp" for clip in made.clips)]
    assert [clip.source for clip in made.clips] == [str(clips / "videos" / name) for name in ("00.mp4", "01.mp4")]
    shelf.change(made.id, lambda now: edits.with_caption(now, now.clips[0].id, "new"), owner="local")
    assert {path: (file_sha256(path), path.stat().st_mtime_ns) for path in clips.rglob("*") if path.is_file()} == before
    assert shelf.get(made.id, owner="local").clips[0].caption == "new"
    report, rules = shelf.check(shelf.get(made.id, owner="local"), "pocket")
    assert rules.fps == 8 and [(row.bucket.frames, row.train, row.held_out) for row in report.rows] == [(25, 1, 1)]
    assert find_dataset(shelf.root, "two") == (shelf.get(made.id, owner="local"), folder) == find_dataset(shelf.root, made.id)
    shelf.delete(made.id, owner="local")
    assert not folder.exists() and shelf.list(owner="local") == () and (clips / "videos" / "00.mp4").is_file()


def test_somebody_elses_set_is_not_found(shelf: Datasets, clips: Path) -> None:
    made = shelf.add(Import(str(clips), "mine"), owner="ann")
    clip = made.clips[0].id
    assert shelf.poster(made.id, clip, owner="ann").is_file() and shelf.video(made.id, clip, owner="ann")[1] == "video/mp4"
    for attempt in (lambda: shelf.get(made.id, owner="bob"), lambda: shelf.poster(made.id, clip, owner="bob"),
                    lambda: shelf.delete(made.id, owner="bob"), lambda: shelf.change(made.id, lambda now: now, owner="bob"),
                    lambda: shelf.video(made.id, clip, owner="bob"), lambda: shelf.poster(made.id, "../../../x", owner="ann"),
                    lambda: shelf.get("../" + made.id, owner="ann"), lambda: shelf.find("mine", owner="bob")):
        with pytest.raises(NotFound):
            attempt()
    assert shelf.list(owner="bob") == () and len(shelf.list(owner="ann")) == 1


def test_a_zip_is_unpacked_into_the_set_and_its_lists_cannot_point_out(shelf: Datasets, clips: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(clips / "videos" / "00.mp4", "inner/a.mp4")
        archive.writestr("inner/metadata.csv", f"file_name,text\na.mp4,one\n{clips}/videos/01.mp4,stolen\n../../dataset.json,x\n")
    made = shelf.add(Import(str(tmp_path / "set.zip")), owner="local")
    assert made.name == "set" and [clip.source for clip in made.clips] == ["files/inner/a.mp4"] and made.clips[0].caption == "one"
    assert [each.reason for each in made.rejections] == ["points outside the set, so it is not opened."] * 2
    built = shelf.video(made.id, made.clips[0].id, owner="local")[0]
    assert built == shelf.folder(made.id) / "files" / "inner" / "a.mp4" and built.is_file()


def test_empty_sets_damaged_manifests_and_wrong_sources(shelf: Datasets, tmp_path: Path, clips: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = shelf.add(Import(str(tmp_path / "empty")), owner="local")
    assert empty.clips == () and shelf.check(empty, "pocket")[0].messages[0][1].startswith("The set is empty")
    for source in (str(tmp_path / "gone"), "owner/name"):
        with pytest.raises(InvalidRequest) as error:
            shelf.add(Import(source), owner="local")
        assert error.value.field == "source"
    assert [path.name for path in shelf.root.iterdir()] == [empty.id]  # nothing half done is left
    manifest = shelf.folder(empty.id) / "dataset.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(DatasetDamaged, match="Import the set again"):
        shelf.get(empty.id, owner="local")
    assert shelf.list(owner="local") == ()


def test_what_cannot_be_read_is_no_matter_of_our_disk(shelf: Datasets, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, _wish: Wish) -> Listing:
        raise PermissionError(errno.EACCES, "Permission denied", str(path / "videos"))

    def full(path: Path, *_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("app.datasets.list_source", closed)
    with pytest.raises(InvalidRequest, match=r"cannot be read: '.*videos' \(Permission denied\)") as refused:
        shelf.add(Import(str(clips)), owner="local")
    assert refused.value.field == "source"
    monkeypatch.undo()
    monkeypatch.setattr("app.datasets.write_atomic", full)
    with pytest.raises(StorageBlocked, match="the disk is full"):
        shelf.add(Import(str(clips)), owner="local")
    assert list(shelf.root.iterdir()) == []


def test_the_hub_is_asked_for_useful_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="HF_HUB_OFFLINE is set"):
        hub.fetch("owner/name", tmp_path / "files")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked: dict[str, Any] = {}

    class Facts:
        sha = "c" * 40
        siblings = ()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, repo, **more: Facts())
    commit = hub.fetch("owner/name", tmp_path / "files", snapshot=lambda repo, **more: asked.update(more, repo=repo))
    assert commit == "c" * 40 and asked["repo"] == "owner/name" and asked["repo_type"] == "dataset" and asked["revision"] == commit
    assert "*.mp4" in asked["allow_patterns"] and not any(each.endswith((".py", ".pkl", ".bin")) for each in asked["allow_patterns"])


def test_work_in_the_background_tells_how_far_it_is_and_what_went_wrong(shelf: Datasets, clips: Path, tmp_path: Path) -> None:
    shelf.start(Import(str(clips), "later"), owner="local")
    wait(lambda: not shelf.work.list(owner="local"))
    assert [each.name for each in shelf.list(owner="local")] == ["later"]
    shelf.start(Import(str(tmp_path / "gone"), "gone"), owner="local")
    wait(lambda: any(each.ended for each in shelf.work.list(owner="local")))
    [failed] = shelf.work.list(owner="local")
    assert "is not there" in failed.error and shelf.work.list(owner="bob") == ()
    with pytest.raises(NotFound):
        shelf.work.stop(failed.id, owner="bob")
    shelf.work.stop(failed.id, owner="local")
    assert shelf.work.list(owner="local") == ()


def test_work_can_be_stopped_and_is_bounded() -> None:
    work = DatasetWork()

    def wait_for_stop(told: Any, stopped: Any) -> str:
        told(1, 2)
        wait(stopped)
        return ""

    first = work.start("local", "a", "Importing", wait_for_stop)
    work.start("local", "b", "Importing", wait_for_stop)
    with pytest.raises(NotAllowed, match="being worked on already"):
        work.start("local", "c", "Importing", wait_for_stop)
    wait(lambda: {each.done for each in work.list(owner="local")} == {1})
    work.stop(first.id, owner="local")
    wait(lambda: len(work.list(owner="local")) == 1)
    work.close()
    wait(lambda: not work.list(owner="local"))


def wait(until: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_model_that_sees_writes_the_captions_that_are_missing(shelf: Datasets, clips: Path) -> None:
    made = shelf.add(Import(str(clips), "seen"), owner="local")
    with pytest.raises(NotAllowed, match="by hand"):
        shelf.describer()
    first, second = (clip.id for clip in made.clips)
    shelf.change(made.id, lambda now: edits.with_caption(now, second, ""), owner="local")
    asked: list[tuple[int, str]] = []

    def ask(files: tuple[bytes, ...], prompt: str) -> str:
        asked.append((len(files), prompt))
        assert all(each.startswith(b"RIFF") for each in files)
        return 'The video shows\n a cyan crescent. "'

    after, failed = shelf.describe(made.id, ByFiles("eyes", ask), owner="local")
    assert failed == () and asked == [(16, default_prompt())]
    assert after.clip(second).caption == "A cyan crescent." and after.clip(second).said_by == "eyes"
    assert after.clip(first).said_by == "file" and trimmed("") == ""


def test_describing_leaves_alone_what_people_did_meanwhile(shelf: Datasets, clips: Path) -> None:
    made = shelf.add(Import(str(clips), "seen"), owner="local")
    first, second = (clip.id for clip in made.clips)
    for each in (first, second):
        shelf.change(made.id, lambda now, each=each: edits.with_caption(now, each, ""), owner="local")  # type: ignore[misc]
    doings: list[Any] = [lambda now: edits.with_caption(now, first, "by hand"),
                         lambda now: replace(now, clips=now.clips[:1])]  # as a split does, with another clip in its place

    def ask(files: tuple[bytes, ...], prompt: str) -> str:
        shelf.change(made.id, doings.pop(0), owner="local")
        return "A cyan crescent."

    after, failed = shelf.describe(made.id, ByFiles("eyes", ask), owner="local")
    assert failed == () and [(clip.caption, clip.said_by) for clip in after.clips] == [("by hand", "hand")] and not doings
    assert shelf.get(made.id, owner="local") == after
    named, failed = shelf.describe(made.id, ByFiles("eyes", lambda files, prompt: "Anew."), owner="local", clips=[first])
    assert failed == () and named.clips[0].caption == "Anew."  # who names a clip means it


def test_one_clip_that_is_refused_does_not_end_describing(shelf: Datasets, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shelf.add(Import(str(clips), "seen"), owner="local")
    first, second = (clip.id for clip in made.clips)
    change, refused = shelf.change, [DataDirBusy("Another Sprocket works on it.")]

    def once_refused(*args: Any, **kwargs: Any) -> Any:
        if refused:
            raise refused.pop()
        return change(*args, **kwargs)

    monkeypatch.setattr(shelf, "change", once_refused)
    after, failed = shelf.describe(made.id, ByFiles("eyes", lambda files, prompt: "Anew."), owner="local", clips=[first, second])
    assert failed == ((first, "Another Sprocket works on it."),) and after.clip(second).caption == "Anew."


def test_a_name_that_is_too_long_is_cut_where_nobody_gave_it(shelf: Datasets, clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / ("long " * 20))
    assert shelf.add(Import(str(tmp_path / ("long " * 20))), owner="local").name == ("long " * 16).strip()
    with pytest.raises(InvalidRequest, match="must have 1 to 80 characters, not 81"):
        shelf.add(Import(str(clips), "x" * 81), owner="local")


def test_the_refiners_server_describes_clips(own_data_dir: Path, clips: Path) -> None:
    with chatting(saying("A cyan crescent rises slowly in a plain grey studio.")) as server:
        settings = Settings(data_dir=own_data_dir, engine="tests.fakes:FakeEngine", min_free_bytes=0, refiner_url=server.url,
                            refiner_model="words", refiner_vision_model="eyes", refiner_key="sk-no-caption")
        with contextlib.closing(open_studio(settings)) as studio:
            made = studio.datasets.add(Import(str(clips), "seen"), owner="local")
            clip = made.clips[1].id
            after, failed = studio.datasets.describe(made.id, studio.datasets.describer(), owner="local", clips=[clip])
            server.reply = saying("A cyan crescent with sk-no-caption beside it.")
            refused = studio.datasets.describe(made.id, studio.datasets.describer(), owner="local", clips=[made.clips[0].id])[1]
    assert "not its business" in refused[0][1]
    assert failed == () and after.clip(clip).said_by == "eyes"
    assert after.clip(clip).caption == "A cyan crescent rises slowly in a plain grey studio."
    body = server.heard[0][1]
    assert body["model"] == "eyes" and sum(part["type"] == "image_url" for part in body["messages"][1]["content"]) == 16


def test_the_example_is_a_function_of_its_seed_and_shares_nothing_with_the_pocket_world() -> None:
    assert np.array_equal(example.render(3, 1), example.render(3, 1)) and not np.array_equal(example.render(3, 1), example.render(4, 1))
    captions = [example.caption(0, index) for index in range(example.CLIPS)]
    assert len(set(captions)) == example.CLIPS and all(" crescent " in each for each in captions)
    from training.pocket.captions import vocabulary

    assert example.WORD not in vocabulary()
    cover = example.coverage(96, 64, 20, 0.0)
    assert 0.35 < cover.sum() / (np.pi * 400) < 0.65 and cover[64, 80] == 1 and cover[64, 100] == 0  # thick on one side, open on the other


def test_the_commands(run: Run, clips: Path, tmp_path: Path) -> None:
    assert "No datasets yet" in run("dataset", "list")[2]
    shutil.copytree(clips, tmp_path / "set")
    (tmp_path / "set" / "videos.txt").write_text("videos/00.mp4\nvideos/01.mp4\nvideos/02.mp4\n")
    (tmp_path / "set" / "prompts.txt").write_text("one\ntwo\nthree\n")
    made = run.json("dataset", "import", str(tmp_path / "set"), "--name", "both", "--id-token", "zq", "--held-out", "0")
    assert (made["clips"], made["rejected"], made["prefix"], made["train"]) == (2, 1, "zq", 2)
    assert "no such file" in made["rejections"][0]["reason"]
    assert [each["name"] for each in run.json("dataset", "list")["datasets"]] == ["both"]
    assert run.json("dataset", "caption", "both", "--find", "one", "--replace", "first")["changed"] == 1
    checked = run.json("dataset", "check", "both")
    assert [each["caption"] for each in checked["clips_checked"]] == ["zq first", "zq two"]
    clip = checked["clips_checked"][0]["id"]
    run.json("dataset", "caption", "both", "--clip", clip, "--text", "by hand")
    assert run.json("dataset", "check", made["id"])["clips_checked"][0]["caption"] == "zq by hand"
    for wrong in (("import", str(clips), "--fit", "stretch"), ("import", str(clips), "--held-out", "0.9"), ("check", "nope"),
                  ("check", "both", "--frames", "10"), ("check", "both", "--height", "64"), ("caption", "both"),
                  ("caption", "both", "--text", "x"), ("caption", "both", "--describe"), ("cache", "both", "--dtype", "fp4"),
                  ("import", str(tmp_path / "gone"))):
        code, out, _ = run("dataset", *wrong, "--json")
        assert code in (1, 2) and json.loads(out)["error"]["message"], wrong
    assert run.json("dataset", "delete", "both") == {"deleted": made["id"]}
    assert replace(Import("x"), name="y").name == "y"


def test_the_cache_is_made_in_what_a_run_here_computes_in(run: Run, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run.json("dataset", "import", str(clips), "--name", "both")
    asked: list[tuple[str, str]] = []

    def encode(self: Datasets, dataset: Any, model: str, *, device: str, dtype: str, **more: Any) -> None:
        asked.append((device, dtype))
        raise InvalidRequest("dataset", "is not encoded here.")

    monkeypatch.setattr(Datasets, "encode", encode)
    for bf16, given in ((True, ()), (False, ()), (True, ("--dtype", "fp32")), (False, ("--device", "cuda", "--dtype", "bf16"))):
        monkeypatch.setattr("app.cli_dataset.detect", lambda kind=None, bf16=bf16: replace(CPU, device=kind or "cuda:1", bf16=bf16))
        assert run("dataset", "cache", made["id"], *given)[0] in (1, 2)
    assert asked == [("cuda:1", "bf16"), ("cuda:1", "fp32"), ("cuda:1", "fp32"), ("cuda", "bf16")]
