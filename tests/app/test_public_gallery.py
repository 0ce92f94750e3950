"""Clips that others may look at: only by their owner's act, only what is listed, and nothing of it once it is taken back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import NotAllowed, NotFound
from app.history.records import Clip, ClipQuery, Job
from app.history.recovery import sweep_published
from app.history.sidecar import read_sidecar
from app.published import SHOWN_REQUEST, PublicGallery, public_recipe, public_view
from app.queue.executor import Workplace, perform
from app.queue.process import this_process
from app.settings import Settings
from app.sharing import passwords
from app.sharing.access import Access
from app.sharing.gallery import GALLERY_ROLES, PATHS
from app.sharing.owned import OwnedStudio
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role, Visitor
from app.space.entry import expire
from app.studio import Studio, open_studio
from app.ui.gate import Gate
from engine.errors import OutputRejected
from engine.request import GenerationRequest
from engine.video.recipe import read_recipe
from engine.video.redact import C2PA_UUID, redacted
from tests.app.test_sharing import PASSWORD, call, result, signed_in
from tests.fakes import FakeEngine, FakeModels
from tests.site import Site, serving

HIDDEN_REQUEST = {"image", "video", "given", "edits", "review", "wish", "refiner", "fit", "strength", "budget", "device", "parallel",
                  "profile"}


def made(studio: Studio, owner: str, **wish: Any) -> Clip:
    """A clip of `owner`, made here and now."""
    job = studio.submit({"prompt": "a red ball", "seed": 7} | wish, owner=owner)
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=job.id)
    assert claim is not None
    perform(Workplace(studio.settings, studio.store, FakeEngine(), FakeModels(), threading.Event()), claim)
    return studio.clip(job.id, owner=owner)


@pytest.fixture(scope="module")
def studio_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "N", 1 << 10)
        users = Users(folder / "users.json")
        for name, role in (("anna", Role.MAKER), ("ben", Role.MAKER), ("vera", Role.VIEWER), ("root", Role.ADMIN)):
            users.add(name, role, PASSWORD)
        with contextlib.closing(open_studio(Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0,
                                                     ballast_bytes=0))) as studio:
            yield studio


@pytest.fixture(scope="module")
def site(studio_of_all: Studio) -> Iterator[Site]:
    folder = studio_of_all.settings.data_dir
    with serving(studio_of_all, Access(SharingSettings(open_gallery=True), folder)) as running:
        yield running


@pytest.fixture(scope="module")
def clip(studio_of_all: Studio) -> Clip:
    """Anna's, with everything about it that is nobody else's business."""
    clip = made(studio_of_all, "user:anna", wish="my secret words", refiner="pocket", negative="blur")
    return studio_of_all.rename(clip.id, "Quarterly figures", owner="user:anna")


@pytest.fixture(autouse=True)
def private_again(studio_of_all: Studio, clip: Clip) -> Iterator[None]:
    yield
    studio_of_all.published.unpublish(clip.id, owner="user:anna")


def as_(studio: Studio, name: str, role: Role = Role.MAKER, **settings: Any) -> OwnedStudio:
    return OwnedStudio(studio, lambda: Visitor(f"user:{name}", name, role), SharingSettings(**settings))


def files_of(clip: Clip) -> tuple[str, str]:
    return f"/media/clips/{clip.id}.mp4", f"/media/posters/{clip.id}.webp"


def test_published_others_watch_it_and_unpublished_it_was_never_there(site: Site, clip: Clip) -> None:
    with signed_in(site, "anna") as anna, signed_in(site, "ben") as ben, signed_in(site, "vera") as vera:
        assert [ben.get(path).status_code for path in files_of(clip)] == [404, 404]
        assert result(call(ben, "public_clips"))["total"] == 0
        assert result(call(anna, "publish", clip.id))["published_at"] > 0
        for other in (ben, vera):
            shown, = result(call(other, "public_clips", "RED ball"))["clips"]
            assert (shown["id"], shown["prompt"], shown["recipe"]["request"]["negative"]) == (clip.id, "a red ball", "blur")
        assert result(call(ben, "public_clips", "quarterly"))["total"] == 0  # a search is no way to a name either
        video, poster = (ben.get(path) for path in files_of(clip))
        assert (video.status_code, poster.status_code) == (200, 200)
        assert video.headers["x-content-type-options"] == "nosniff" and "sandbox" in video.headers["content-security-policy"]
        assert video.headers["cache-control"] == "private, no-cache"
        part = ben.get(files_of(clip)[0], headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, video.content[10:20])
        assert anna.get(files_of(clip)[0]).content != video.content and len(anna.get(files_of(clip)[0]).content) == len(video.content)
        for told in (json.dumps(shown), video.content.decode("latin-1"), poster.content.decode("latin-1")):
            for word in ("secret", "Quarterly", "anna", clip.project_id, "/media/inputs"):
                assert word not in told
        assert result(call(anna, "unpublish", clip.id))["published_at"] is None
        assert [ben.get(path).status_code for path in files_of(clip)] == [404, 404]
        assert not (site.studio.settings.data_dir / "published" / f"{clip.id}.mp4").exists()


def test_what_is_published_leads_to_nothing_else_of_its_owner(site: Site, clip: Clip) -> None:
    site.studio.published.publish(clip.id, owner="user:anna")
    ben = as_(site.studio, "ben")
    for look in (lambda: ben.clip(clip.id), lambda: ben.lineage(clip.id), lambda: ben.clip_request(clip.id), lambda: ben.clip_path(clip.id),
                 lambda: ben.poster_path(clip.id), lambda: ben.add_frame(clip.id), lambda: ben.rename(clip.id, "mine"),
                 lambda: ben.trash(clip.id), lambda: ben.missing_loras(clip.id), lambda: ben.job(clip.job_id),
                 lambda: ben.submit({"prompt": "x"}, made_from=clip.id), lambda: ben.move_clip(clip.id, clip.project_id),
                 lambda: ben.interpolations.submit(clip.id, fps=16)):
        with pytest.raises(NotFound):
            look()
    with signed_in(site, "ben") as client:
        assert client.get(f"/media/clips/{clip.id}.json").status_code == 404
        assert "event: error" in call(client, "job", clip.job_id)
    assert ben.published.request(clip.id) == GenerationRequest.from_mapping(public_view(clip).recipe["request"])


def relay(client: httpx.Client, name: str, **said: Any) -> str:
    """A click, as a forged event would send it."""
    config = client.get("/config").json()
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
    event = next(each for each in config["dependencies"] if each["targets"] == [[panel, "click"]])
    answer = client.post("/gradio_api/run/predict", json={
        "fn_index": event["id"], "session_hash": f"{name}-clicks", "event_data": {"search": "?view=gallery&public=1", **said},
        "data": [values[each] for each in event["inputs"]]})
    assert answer.status_code == 200
    return answer.text


def test_a_guessed_event_of_somebody_else_changes_nothing(site: Site, clip: Clip) -> None:
    def published() -> bool:
        return bool(site.studio.clip(clip.id, owner="user:anna").published_at is not None)

    with signed_in(site, "ben") as ben, signed_in(site, "vera") as vera, signed_in(site, "root") as root:
        for client in (ben, vera, root):
            assert "event: error" in call(client, "publish", clip.id)
        assert "no such clip" in relay(ben, "ben", act="publish", clip=clip.id).lower()
        assert not published()
        site.studio.published.publish(clip.id, owner="user:anna")
        assert "no such clip" in relay(ben, "ben", act="unpublish", clip=clip.id).lower()
        assert "needs the role admin" in relay(ben, "ben", act="take_down", clip=clip.id)
        assert "needs the role maker" in relay(vera, "vera", act="remix_public", clip=clip.id)
        assert "a red ball" in relay(ben, "ben", act="remix_public", clip=clip.id)
        assert published()
        relay(root, "root", act="take_down", clip=clip.id)
        assert not published()


def test_a_viewer_publishes_nothing(studio_of_all: Studio) -> None:
    own = made(studio_of_all, "user:vera")
    with pytest.raises(NotAllowed, match="needs the role maker"):
        as_(studio_of_all, "vera", Role.VIEWER).published.publish(own.id)
    with pytest.raises(NotAllowed, match="not done from a page"):
        as_(studio_of_all, "root", Role.ADMIN).published.forget(own.id)
    assert {name for name in vars(PublicGallery) if not name.startswith("_")} == set(GALLERY_ROLES)


def test_people_who_have_not_signed_in_see_it_only_where_the_operator_says_so(site: Site, clip: Clip) -> None:
    site.studio.published.publish(clip.id, owner="user:anna")
    pages = ("/public", f"/public/{clip.id}")
    closed = Gate(None, Access(SharingSettings(), site.studio.settings.data_dir))
    assert not any(closed._open("GET", path) for path in (*pages, *files_of(clip)))
    for owner in (None, "anon:browser"):
        gallery = OwnedStudio(site.studio, lambda who=owner: Visitor(who, "", Role.MAKER) if who else None, SharingSettings()).published
        with pytest.raises(NotAllowed, match="signed in"):
            gallery.page()
    grid, page = (httpx.get(site.url + path) for path in pages)
    assert clip.id in grid.text and "a red ball" in page.text and "<script" not in grid.text + page.text
    assert "Quarterly" not in grid.text + page.text and "secret" not in page.text
    assert "No clip matches" in httpx.get(f"{site.url}/public?words=quarterly").text
    assert httpx.get(site.url + files_of(clip)[0], headers={"range": "bytes=0-9"}).status_code == 206
    assert httpx.get(site.url + files_of(clip)[1]).status_code == 200
    for path in (f"/media/clips/{clip.id}.json", "/config", "/pulse", "/gradio_api/info", f"/public/{clip.id}/x", "/media/inputs/x.webp"):
        assert httpx.get(site.url + path).status_code == 401, path
    assert httpx.post(site.url + pages[0]).status_code == 401
    asked = [httpx.head(site.url + path) for path in (*pages, *files_of(clip))]
    assert [(each.status_code, each.content) for each in asked] == [(200, b"")] * 4
    with signed_in(site, "ben") as ben:
        assert ben.get("/public").headers["location"] == "/?view=gallery&public=1"
    site.studio.published.unpublish(clip.id, owner="user:anna")
    assert [httpx.get(site.url + path).status_code for path in (pages[1], *files_of(clip))] == [404, 404, 404]
    mistyped = httpx.get(f"{site.url}/public/{clip.id[:-1]}", headers={"accept": "text/html"})
    assert mistyped.status_code == 404 and "/signin" not in mistyped.headers.get("location", "")
    assert not PATHS.fullmatch("/media/clips/../users.json")


# ---- how it ends

def test_the_trash_and_a_deleted_file_unpublish(studio: Studio) -> None:
    one = made(studio, "local")
    studio.published.publish(one.id)
    studio.trash(one.id)
    with pytest.raises(NotAllowed, match="put it back"):
        studio.published.publish(one.id)
    assert studio.untrash(one.id).published_at is None
    assert studio.published.page().total == 0
    guest = made(studio, "anon:browser")
    studio.published.publish(guest.id, owner="anon:browser")
    assert studio.published.page().total == 1
    assert expire(studio, 24.0, None, now=time.time() + 25 * 3600) == 1
    assert studio.published.page().total == 0 and studio.store.clips.get(guest.id).published_at is None
    copies = studio.settings.data_dir / "published"
    assert list(copies.iterdir()) == []
    two = made(studio, "local")
    studio.published.publish(two.id)
    for name in (one.id, "no id"):  # a crash came between unpublishing and deleting
        (copies / f"{name}.mp4").write_bytes(b"x")
    sweep_published(studio.settings, studio.store)
    assert [path.stem for path in copies.iterdir()] == [two.id]


def test_a_sidecar_from_before_there_was_a_gallery(studio: Studio, work_once: Callable[[], Job | None]) -> None:
    one = made(studio, "local")
    path = studio.clip_path(one.id).with_suffix(".json")
    told = json.loads(path.read_text())
    del told["clip"]["published_at"]
    path.write_text(json.dumps(told))
    assert read_sidecar(studio.settings.media_dir, path) == one
    told["clip"] |= {"published_at": 5.0, "trashed_at": 6.0}
    path.write_text(json.dumps(told))
    found = read_sidecar(studio.settings.media_dir, path)
    assert found is not None and found.published_at is None  # the trash has nothing that is public
    told["clip"] |= {"published_at": "now", "trashed_at": None}
    path.write_text(json.dumps(told))
    assert read_sidecar(studio.settings.media_dir, path) is None


# ---- what is shown

def test_a_field_of_a_request_is_hidden_until_somebody_lists_it() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationRequest)}
    assert fields - set(SHOWN_REQUEST) == HIDDEN_REQUEST
    secret = {"request": dict.fromkeys(fields | {"title", "then_clip"}, "hidden"), "source": {"title": "hidden"}, "made_from": "hidden",
              "also_from": "hidden", "clip_id": "hidden", "hierarchy": "hidden", "plan": "hidden", "clip": {"owner": "hidden"}}
    assert set(public_recipe(secret)) == {"request"}
    assert set(public_recipe(secret)["request"]) == fields - HIDDEN_REQUEST
    for broken in ({}, {"request": None, "model": 7}, {"request": [1], "loras": 3}):
        assert public_recipe(broken)["request"] == {}


def test_the_copy_that_others_get_says_less_and_shows_the_same(studio: Studio, tmp_path: Path) -> None:
    one = made(studio, "local", wish="my secret words", refiner="pocket")
    source, copy = studio.clip_path(one.id), tmp_path / "deep" / "copy.mp4"
    redacted(source, copy, public_recipe(one.recipe), None)
    assert "wish" in read_recipe(source)["request"] and read_recipe(copy) == public_recipe(one.recipe)
    before, after = source.read_bytes(), copy.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    text = json.dumps(read_recipe(source)).encode()
    assert len(before) == len(after) and 0 < changed[-1] - changed[0] <= len(text)
    with pytest.raises(OutputRejected, match="what may be shown"):
        redacted(source, copy, {"long": "x" * 100_000}, None)
    signed = tmp_path / "signed.mp4"
    signed.write_bytes(before + (len(C2PA_UUID) + 8).to_bytes(4, "big") + b"uuid" + C2PA_UUID)
    with pytest.raises(OutputRejected, match="break"):
        redacted(signed, tmp_path / "never.mp4", public_recipe(one.recipe), None)
    assert {path.name for path in tmp_path.iterdir()} >= {"signed.mp4"} and not (tmp_path / "never.mp4").exists()


def test_the_command_line_publishes_one_s_own_and_takes_down_anybody_s(studio: Studio, monkeypatch: pytest.MonkeyPatch,
                                                                      capfd: pytest.CaptureFixture[str]) -> None:
    from app.cli import main

    def said(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["sprocket", "history", *words, "--data-dir", str(studio.settings.data_dir), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        return json.loads(capfd.readouterr().out) | {"code": ended.value.code}

    monkeypatch.setenv("SPROCKET_ENGINE", studio.settings.engine)
    mine, other = made(studio, "local"), made(studio, "user:anna")
    assert said("publish", mine.id)["published_at"] > 0
    assert said("publish", other.id)["error"]["code"] == "not_found"
    studio.published.publish(other.id, owner="user:anna")
    assert said("unpublish", other.id) == {"id": other.id, "published_at": None, "code": 0}
    assert [each.id for each in studio.published.page(ClipQuery(words="ball")).clips] == [mine.id]
    assert said("unpublish", "0" * 32)["code"] == 2


def test_several_who_ask_for_the_first_copy_at_once_get_the_same_one(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(studio, "local", wish="my secret words", refiner="pocket")
    studio.published.publish(one.id)
    copies = studio.settings.data_dir / "published"
    (copies / f"{one.id}.mp4").unlink()
    together, copyfile = threading.Barrier(2, timeout=20), shutil.copyfile

    def copied(source: Path, target: Path) -> None:
        copyfile(source, target)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()

    monkeypatch.setattr("engine.video.redact.shutil.copyfile", copied)
    with ThreadPoolExecutor(2) as two:
        paths = list(two.map(studio.published.video, [one.id, one.id]))
    assert {read_recipe(path) == public_recipe(one.recipe) for path in paths} == {True}
    assert [path.name for path in copies.iterdir()] == [f"{one.id}.mp4"]


def test_half_written_copies_of_a_crash_are_swept(studio: Studio) -> None:
    copies = studio.settings.data_dir / "published"
    copies.mkdir()
    old, young = copies / ".a.mp4.1.part", copies / ".b.mp4.2.part"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    sweep_published(studio.settings, studio.store)
    assert [path.name for path in copies.iterdir()] == [young.name]
