"""The Train page's sets: what its words say, what its buttons do, and what neither lets through."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.datasets import Datasets, Import
from app.settings import Settings
from app.ui.actions import act
from app.ui.address import Address
from app.ui.dataset import is_local, safe_name, train_html
from app.ui.media import media_routes
from engine.models.catalogue import find
from engine.spec import read_spec
from tests.app.test_ui_source import PARTS
from training.data import edits, example
from training.data.records import Dataset

EVIL = "<script>alert(1)</script>\"'"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a data folder with one set of three clips and a refusal, its id)."""
    folder, source = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("clips")
    example.write(source, clips=3)
    (source / "prompts.txt").write_text(f"a crescent {EVIL}\n\n{'a very long caption ' * 9}\nno video\n")
    (source / "videos.txt").write_text("videos/00.mp4\nvideos/01.mp4\nvideos/02.mp4\nvideos/09.mp4\n")
    shelf = Datasets(Settings(data_dir=folder), lambda name: read_spec(find(name), name))
    return folder, shelf.add(Import(str(source), EVIL), owner="local").id


@pytest.fixture
def studio(template: tuple[Path, str], tmp_path: Path) -> SimpleNamespace:
    shutil.copytree(template[0], tmp_path / "studio")
    settings = Settings(data_dir=tmp_path / "studio")
    (tmp_path / "studio" / "incoming").mkdir()
    spec = read_spec(find("pocket"), "pocket")
    return SimpleNamespace(settings=settings, datasets=Datasets(settings, lambda name: spec), models=lambda: (spec,), set=template[1])


def click(studio: SimpleNamespace, act_name: str, /, **said: Any) -> str:
    """The page after it."""
    at = f"/?view=train&set={studio.set}"
    changes: Any = act({"act": act_name, **said}, at, "", {}, {}, studio=studio, parts=PARTS)  # type: ignore[arg-type]
    return str(changes["train"])


def now(studio: SimpleNamespace) -> Dataset:
    return studio.datasets.get(studio.set, owner="local")


def test_a_set_says_what_is_wrong_and_no_text_of_it_is_markup(studio: SimpleNamespace) -> None:
    for step in ("", "captions"):
        page = train_html(studio, Address(view="train", set=studio.set, step=step))
        assert "<script>" not in page and "&lt;script&gt;" in page
        assert "Has no caption. Write what it shows." in page and "tokens; pocket reads 48. Shorten it by" in page
    page = train_html(studio, Address(view="train", set=studio.set))
    assert "1 not taken in, and why" in page and "there is no such file" in page and "2 clips will not be used" in page
    only = train_html(studio, Address(view="train", set=studio.set, show="problems"))
    assert only.count('class="set-clip"') == 2 and page.count('class="set-clip"') == 3
    assert "<script>" not in train_html(studio, Address(view="train")) and "1 refused" in train_html(studio, Address(view="train"))
    for wrong in ("nope", "0" * 12, "../x"):
        assert "No such dataset" in train_html(studio, Address(view="train", set=wrong))


def test_edits_from_the_page(studio: SimpleNamespace) -> None:
    first, second, third = (clip.id for clip in now(studio).clips)
    page = click(studio, "dataset_caption", set=studio.set, clip=second, caption="a cyan crescent")
    assert "Has no caption" not in page and now(studio).clips[1].said_by == "hand"
    assert "zq a cyan crescent" in click(studio, "dataset_prefix", set=studio.set, prefix="zq")
    click(studio, "dataset_replace", set=studio.set, find="cyan", by="blue")
    assert now(studio).clips[1].caption == "a blue crescent"
    assert "Use again" in click(studio, "dataset_use", set=studio.set, clip=third, value="0") and len(now(studio).used) == 2
    click(studio, "dataset_reading", set=studio.set, fit="pad", skip_start="2", held_out="50", seed="3")
    assert (now(studio).fit, now(studio).skip_start, now(studio).skip_end, now(studio).held_out) == ("pad", 2, 0, 0.5)
    for share, seed in ((0.125, 2**63 - 1), (0.004, 1234567), (1 / 3, 0)):
        studio.datasets.change(studio.set, lambda now, share=share, seed=seed: edits.with_split(now, share, seed), owner="local")
        page = train_html(studio, Address(view="train", set=studio.set))
        form = dict(re.findall(r'<input name="(held_out|seed|skip_\w+)"[^>]* value="([^"]*)"', page))
        click(studio, "dataset_reading", set=studio.set, **form)
        assert (now(studio).held_out, now(studio).seed) == (share, seed)
    click(studio, "dataset_rename", set=studio.set, name="crescents")
    assert now(studio).name == "crescents"
    before = now(studio)
    for name, said, words in (("dataset_caption", {"clip": "x" * 16, "caption": "y"}, "is not in"), ("dataset_reading", {"held_out": "x"},
                              "which is no number"), ("dataset_reading", {"fit": "stretch"}, "it can be"),
                              ("dataset_reading", {"seed": "1.5"}, "no whole number"),
                              ("dataset_reading", {"seed": str(2**63)}, "allowed is 0"),
                              ("dataset_split", {"clip": first}, "one scene only"), ("dataset_rename", {"name": ""}, "must have 1 to 80"),
                              ("dataset_describe", {}, "by hand"), ("dataset_prefix", {"prefix": "x" * 99}, "at most 60")):
        assert words in click(studio, name, set=studio.set, **said), name
    assert now(studio) == before
    assert "No datasets yet" in click(studio, "dataset_delete", set=studio.set)


def test_files_from_a_browser_become_a_set(studio: SimpleNamespace, template: tuple[Path, str]) -> None:
    clip = studio.datasets.video(studio.set, now(studio).clips[0].id, owner="local")[0]
    files = []
    for name, data in (("my clip.mp4", clip.read_bytes()), ("my clip.txt", b"a yellow crescent"), ("../../evil<b>.txt", b"x")):
        token = os.urandom(16).hex()
        (studio.settings.data_dir / "incoming" / token).write_bytes(data)
        files.append({"upload": token, "name": name})
    assert "Importing" in click(studio, "dataset_take", files=files)
    end = time.monotonic() + 60
    while studio.datasets.work.list(owner="local") and time.monotonic() < end:
        time.sleep(0.05)
    [made] = [each for each in studio.datasets.list(owner="local") if each.id != studio.set]
    assert [(each.source, each.caption) for each in made.clips] == [("files/my clip.mp4", "a yellow crescent")]
    assert [each.origin for each in made.rejections] == ["evil_b_.txt"] and not list((studio.settings.data_dir / "incoming").iterdir())
    # Sending took a while, and the queue is what is looked at by now.
    there: Any = act({"act": "dataset_take", "files": uploads(studio, "x.mp4"), "search": "?view=queue"}, "", "", {}, {},
                     studio=studio, parts=PARTS)  # type: ignore[arg-type]
    assert "Importing" in there["train"] and Address.parse(there["at"]).view == "queue"
    for wrong in (None, [], [{"upload": "0" * 32, "name": "x.mp4"}], [{"upload": "../x", "name": "x"}], [{}] * 501):
        assert 'role="alert"' in click(studio, "dataset_take", files=wrong)


def uploads(studio: SimpleNamespace, *names: str) -> list[dict[str, str]]:
    """Files that have come in, as the page names them."""
    clip = studio.datasets.video(studio.set, now(studio).clips[0].id, owner="local")[0]
    tokens = [os.urandom(16).hex() for _ in names]
    for token in tokens:
        shutil.copy(clip, studio.settings.data_dir / "incoming" / token)
    return [{"upload": token, "name": name} for token, name in zip(tokens, names, strict=True)]


def test_a_long_file_name_is_no_reason_to_refuse_it(studio: SimpleNamespace) -> None:
    assert len(safe_name("狐" * 120 + ".mp4").encode()) <= 255 and safe_name("狐" * 120 + ".mp4").endswith("狐.mp4")
    assert "Importing" in click(studio, "dataset_take", files=uploads(studio, "x" * 100 + ".mp4"))
    end = time.monotonic() + 60
    while studio.datasets.work.list(owner="local") and time.monotonic() < end:
        time.sleep(0.05)
    assert {each.name for each in studio.datasets.list(owner="local")} > {"x" * 80}


def test_files_that_are_not_taken_in_leave_nothing_behind(studio: SimpleNamespace) -> None:
    def wait_for_stop(told: Any, stopped: Any) -> str:
        while not stopped():
            time.sleep(0.02)
        return ""

    for name in ("a", "b"):
        studio.datasets.work.start("local", name, "Importing", wait_for_stop)
    page = click(studio, "dataset_take", files=uploads(studio, "one.mp4", "two.mp4"))
    studio.datasets.close()
    assert "being worked on already" in page and "Then choose the files again" in page
    assert not list((studio.settings.data_dir / "incoming").iterdir())


def test_folders_of_the_server_are_named_on_the_machine_only(studio: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'data-act="dataset_import"' in train_html(studio, Address(view="train"))
    studio.settings = studio.settings.model_copy(update={"host": "0.0.0.0"})
    assert 'data-act="dataset_import"' not in train_html(studio, Address(view="train"))
    assert "on the machine itself" in click(studio, "dataset_import", source="/etc")
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1") and not is_local("192.168.0.2")
    with monkeypatch.context() as shared:
        shared.setattr("app.ui.tunnel._names", ["https://x.gradio.live"])
        assert not is_local("127.0.0.1")  # who comes through the tunnel seems to be on this machine
    monkeypatch.setenv("SPACE_HOST", "x.hf.space")
    assert not is_local("127.0.0.1")
    assert safe_name("..\\..\\a/b\n.mp4") == "b .mp4" and safe_name("") == "file" and safe_name(".hidden") == "hidden"


def test_pictures_and_clips_by_id_for_their_owner(studio: SimpleNamespace) -> None:
    site = FastAPI()
    site.include_router(media_routes(studio))
    client, clip = TestClient(site), now(studio).clips[0].id
    poster = client.get(f"/media/datasets/{studio.set}/{clip}.webp")
    assert poster.status_code == 200 and poster.headers["content-type"] == "image/webp"
    assert poster.headers["x-content-type-options"] == "nosniff"
    video = client.get(f"/media/datasets/{studio.set}/{clip}.mp4", headers={"Range": "bytes=0-3"})
    assert video.status_code == 206 and video.headers["content-type"] == "video/mp4"
    for path in (f"{studio.set}/{'0' * 16}.webp", f"{'0' * 12}/{clip}.webp", f"{studio.set}/..%2Fdataset.json.webp", f"..%2Fx/{clip}.mp4"):
        assert client.get(f"/media/datasets/{path}").status_code == 404
    manifest = studio.datasets.folder(studio.set) / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"owner": "local"', '"owner": "ann"'))
    assert client.get(f"/media/datasets/{studio.set}/{clip}.webp").status_code == 404


def test_addresses_of_sets() -> None:
    at = Address.parse("/?view=train&set=abc&step=captions&show=problems&shapes=aspect")
    assert (at.view, at.set, at.step, at.show, at.shapes) == ("train", "abc", "captions", "problems", "aspect")
    assert Address.parse(at.href()) == at and replace(at, view="create").view == "create"
    assert edits.MAX_SKIP >= 100
