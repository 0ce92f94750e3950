"""A studio that several people share: who they are, what each may do, and that nobody sees what is another's."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.errors import NotAllowed, NotFound
from app.settings import Settings
from app.sharing import passwords
from app.sharing.access import COOKIE, Access
from app.sharing.owned import HUB_ROLES, LORA_ROLES, ROLES, OwnedStudio
from app.sharing.parts import PARTS
from app.sharing.quotas import Pace
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role, Visitor
from app.studio import Studio, open_studio
from app.ui.uploads import Coming, folder_of, upload_routes, uploaded
from engine.errors import InvalidRequest, ModelNotFound, StorageBlocked
from engine.request import GenerationRequest
from tests.site import Site, serving

PASSWORD = "three words together"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function with less work: these tests are about who gets in, not about how slow guessing is."""
    monkeypatch.setattr(passwords, "N", 1 << 10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shared")
    settings = Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0)
    users = Users(folder / "users.json")
    for name, role in (("anna", Role.MAKER), ("ben", Role.MAKER), ("vera", Role.VIEWER), ("root", Role.ADMIN)):
        users.add(name, role, PASSWORD)
    studio = open_studio(settings)
    try:
        with serving(studio, Access(SharingSettings(queued_each=3, submits_a_minute=1000), folder)) as running:
            yield running
    finally:
        studio.close()


@contextlib.contextmanager
def signed_in(site: Site, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        answer = client.post("/signin", data={"name": name, "password": PASSWORD, "next": "/?view=queue"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/?view=queue")
        yield client


@pytest.fixture
def anna(site: Site) -> Iterator[httpx.Client]:
    with signed_in(site, "anna") as client:
        yield client


@pytest.fixture
def ben(site: Site) -> Iterator[httpx.Client]:
    with signed_in(site, "ben") as client:
        yield client


def call(client: httpx.Client, endpoint: str, *values: Any) -> str:
    """One of the named endpoints, as gradio's client calls it; everything the server streams back."""
    begun = client.post(f"/gradio_api/call/{endpoint}", json={"data": list(values)})
    assert begun.status_code == 200, begun.text
    return client.get(f"/gradio_api/call/{endpoint}/{begun.json()['event_id']}").text


def result(answer: str) -> Any:
    return json.loads(answer.split("event: complete\ndata: ", 1)[1].splitlines()[0])[0]


def submitted(client: httpx.Client) -> str:
    return str(result(call(client, "submit", "a red ball")))


# ---- getting in

def test_a_stranger_gets_the_sign_in_page_and_nothing_else(site: Site) -> None:
    page = httpx.get(site.url, headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/signin?next=%2F")
    for method, path in (("GET", "/config"), ("GET", "/gradio_api/info"), ("POST", "/gradio_api/call/submit"),
                         ("GET", "/media/clips/x.mp4"), ("POST", "/media/uploads"), ("POST", "/gradio_api/queue/join"),
                         ("GET", "/gradio_api/startup-events"),
                         ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/theme.css"), ("HEAD", "/")):
        assert httpx.request(method, site.url + path).status_code == 401, path
    form = httpx.get(f"{site.url}/signin?next=//evil.example")
    assert form.status_code == 200
    assert "evil.example" not in form.text
    assert "default-src 'none'" in form.headers["content-security-policy"]


def test_the_cookie_of_a_session(site: Site) -> None:
    answer = httpx.post(f"{site.url}/signin", data={"name": "Anna", "password": PASSWORD})
    said = answer.headers["set-cookie"].lower()
    assert all(word in said for word in (COOKIE, "httponly", "samesite=lax", "path=/"))
    token = answer.cookies[COOKIE]
    kept = (site.studio.settings.data_dir / "sessions.json")
    assert token not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    users = site.studio.settings.data_dir / "users.json"
    assert PASSWORD not in users.read_text()
    assert users.stat().st_mode & 0o077 == 0


def test_signing_out_ends_the_session_everywhere(site: Site) -> None:
    with signed_in(site, "anna") as client:
        copied = {COOKIE: client.cookies[COOKIE]}
        assert httpx.get(f"{site.url}/config", cookies=copied).status_code == 200
        assert client.post("/signout").status_code == 303
        assert httpx.get(f"{site.url}/config", cookies=copied).status_code == 401


@pytest.mark.parametrize("cookie", ["", "x", "a" * 5000, "../../users.json", "%00"])
def test_a_forged_cookie_is_nobody(site: Site, cookie: str) -> None:
    assert httpx.get(f"{site.url}/config", headers={"cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_a_foreign_page_cannot_sign_anybody_in_or_out(site: Site) -> None:
    for path in ("/signin", "/signout"):
        form = {"name": "anna", "password": PASSWORD}
        assert httpx.post(site.url + path, data=form, headers={"origin": "http://evil.example"}).status_code == 403


# ---- what is whose

def test_nobody_sees_or_touches_what_is_another_s(site: Site, anna: httpx.Client, ben: httpx.Client) -> None:
    job = submitted(anna)
    assert result(call(anna, "job", job))["id"] == job
    for endpoint in ("job", "cancel"):
        assert "event: error" in call(ben, endpoint, job)
        assert job not in call(ben, endpoint, job)
    assert site.studio.job(job, owner="user:anna").state.value == "queued"
    with pytest.raises(Exception, match="no such"):
        site.studio.job(job)
    call(anna, "cancel", job)


def test_a_private_event_asks_who_it_is_too(site: Site, anna: httpx.Client, ben: httpx.Client) -> None:
    """Every function of the page is callable by its number: the owner is whoever calls."""
    job = submitted(anna)
    config = anna.get("/config").json()
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
    relay = next(each for each in config["dependencies"] if each["targets"] == [[panel, "click"]])
    event = {"fn_index": relay["id"], "session_hash": "ben-session", "event_data": {"act": "cancel", "job": job, "search": "?view=queue"},
             "data": [values[each] for each in relay["inputs"]]}
    answer = ben.post("/gradio_api/run/predict", json=event)
    assert answer.status_code == 200
    assert "no such job" in answer.text.lower()
    assert site.studio.job(job, owner="user:anna").state.value == "queued"
    assert anna.post("/gradio_api/run/predict", json=event | {"session_hash": "anna-session"}).status_code == 200
    assert site.studio.job(job, owner="user:anna").state.value == "cancelled"


def test_a_queued_event_is_its_caller_s_whoever_came_first(site: Site, anna: httpx.Client, ben: httpx.Client) -> None:
    """Gradio answers them in a task of its own, which may have been begun by anybody's request."""
    begun = [(client, client.post("/gradio_api/call/submit", json={"data": [f"a ball of {name}"]}).json()["event_id"])
             for client, name in ((anna, "anna"), (ben, "ben"))]
    jobs = [str(result(client.get(f"/gradio_api/call/submit/{event}").text)) for client, event in begun]
    for job, owner in zip(jobs, ("user:anna", "user:ben"), strict=True):
        assert site.studio.job(job, owner=owner).request["prompt"] == f"a ball of {owner[5:]}"
        site.studio.cancel(job, owner=owner)


def test_sessions_and_results_of_gradio_belong_to_who_began_them(site: Site, anna: httpx.Client, ben: httpx.Client) -> None:
    event = anna.post("/gradio_api/call/clips", json={"data": []}).json()["event_id"]
    assert ben.get(f"/gradio_api/call/clips/{event}").status_code == 403
    assert ben.get(f"/gradio_api/queue/data?session_hash={event}").status_code == 403
    assert [ben.get(f"/gradio_api/call/v2/{rest}").status_code for rest in (f"clips/{event}", event)] == [403, 403]
    assert ben.get(f"/gradio_api/queue/data?session_hash={event}{'&x=1' * 40}").status_code == 400
    assert [each.post("/gradio_api/call/v2/clips", json={}).status_code for each in (ben, anna)] == [200, 200]
    assert "complete" in anna.get(f"/gradio_api/call/clips/{event}").text


def test_an_image_is_whose_who_brought_it(site: Site, anna: httpx.Client, ben: httpx.Client) -> None:
    name = "a" * 64 + ".png"
    anna_studio, ben_studio = (OwnedStudio(site.studio, lambda who=who: Visitor(f"user:{who}", who, Role.MAKER), SharingSettings())
                               for who in ("anna", "ben"))
    anna_studio._belongings.add("user:anna", name)
    with pytest.raises(InvalidRequest, match="not among your images"):
        ben_studio.forecast({"prompt": "a ball", "image": name})
    with pytest.raises(InvalidRequest, match="does not take one"):  # past that check
        anna_studio.forecast({"prompt": "a ball", "image": name})
    with pytest.raises(InvalidRequest, match="not among your"):
        ben_studio.submit({"prompt": "x", "given": [[0, {"file": name}]]})  # wherever it is named


def test_files_on_their_way_in_count_for_whoever_sends_them(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(site.studio.settings)

    def mine(owner: str, role: Role = Role.MAKER, **limits: int) -> OwnedStudio:
        return OwnedStudio(site.studio, lambda: Visitor(owner, "", role), SharingSettings(**limits))

    def sent(studio: OwnedStudio, *sizes: int) -> list[int]:
        app = FastAPI()
        app.include_router(upload_routes(studio, limit=5000))
        with TestClient(app) as browser:
            return [browser.post("/media/uploads", content=b"x" * size).status_code for size in sizes]
    before = set(folder.iterdir())
    assert sent(mine("user:sender", disk_each=3000), 1000, 1000, 1000) == [200, 200, 429]
    assert sent(mine("user:other", disk_each=3000), 1000) == [200]
    tokens = {path.name for path in folder.iterdir()} - {path.name for path in before}
    assert len(tokens) == 3 and all(uploaded(folder, token) for token in tokens)
    for token in tokens:
        (folder / token).unlink()  # looked at
    assert sent(mine("user:sender", disk_each=3000), 1000) == [200]
    assert sent(mine("user:quick", submits_a_minute=2), 1, 1, 1) == [200, 200, 429]
    assert sent(mine("user:root", Role.ADMIN, submits_a_minute=2, disk_each=1), 1, 1, 1) == [200, 200, 200]  # a dataset's files
    coming, studio = Coming(), mine("user:two", disk_each=3000)
    end = coming.begin(studio, 2000)
    with pytest.raises(NotAllowed, match="limit of one person"):
        coming.begin(studio, 2000)  # while the first is on its way
    coming.over(end, 2000)
    assert coming.begin(studio, 2000) == end
    monkeypatch.setattr("app.storage.free_bytes", lambda _settings: 1500)
    assert sent(mine("user:three"), 1000, 2000) == [200, 507]
    with pytest.raises(StorageBlocked):
        coming.begin(mine("user:three"), 1000)  # 2000 bytes of somebody else's are to come


# ---- roles

def test_every_use_case_has_a_role() -> None:
    """A new use-case is for admins only until somebody says otherwise; say it in `app/sharing/owned.py`."""
    public = {name for name in vars(Studio) if not name.startswith("_") and callable(getattr(Studio, name))}
    assert public == set(ROLES)


def test_every_room_of_the_studio_is_known(site: Site) -> None:
    plain = {"settings", "store", "hub", "loras", "published"}  # the last three have roles of their own
    assert {name for name in vars(site.studio) if not name.startswith("_")} - plain == set(PARTS)


def test_a_viewer_looks_and_makes_nothing(site: Site) -> None:
    with signed_in(site, "vera") as vera:
        assert "event: error" in call(vera, "submit", "a ball")
        assert "event: complete" in call(vera, "clips")
        assert vera.post("/media/uploads", content=b"x").status_code == 403


def test_what_belongs_to_all_is_for_admins(site: Site) -> None:
    def studio(role: Role) -> OwnedStudio:
        return OwnedStudio(site.studio, lambda: Visitor("user:x", "x", role), SharingSettings())
    assert studio(Role.VIEWER).hub.cards()
    for name in ("ask", "add", "add_folder", "delete", "cancel", "discard", "verify"):
        assert name not in HUB_ROLES
        with pytest.raises(NotAllowed, match="needs the role admin"):
            getattr(studio(Role.MAKER).hub, name)
        assert callable(getattr(studio(Role.ADMIN).hub, name))
    assert "delete" not in LORA_ROLES
    with pytest.raises(NotAllowed, match="not done from a page"):
        studio(Role.ADMIN).run_here("x")
    with pytest.raises(NotAllowed, match="not signed in"):
        OwnedStudio(site.studio, lambda: None, SharingSettings()).jobs()
    for act in (lambda s: s.training.start({}), lambda s: s.datasets.start_example(), lambda s: s.datasets.work):
        with pytest.raises(NotAllowed, match="needs the role admin"):
            act(studio(Role.MAKER))
    assert studio(Role.VIEWER).datasets.list(owner="local") == ()
    site.studio.datasets.work.start("user:x", "set", "Importing", lambda told, stopped: str(Path("/none").stat()))
    assert [each.name for each in studio(Role.ADMIN).datasets.work.list(owner="local")] == ["set"]  # what failed stays until it is read
    with pytest.raises(NotFound):
        studio(Role.MAKER).missing_loras("0" * 32)  # remixing and restoring ask this
    with pytest.raises(InvalidRequest, match="one of your clips"):
        studio(Role.MAKER).interpolations.submit("/etc/passwd")
    with pytest.raises(AttributeError):
        studio(Role.ADMIN).store  # noqa: B018


@pytest.mark.parametrize("path", ["/srv/models/secret", "../secret", "~/secret", "a/../../b", "\\\\host\\share", "C:\\models"])
def test_only_admins_name_models_by_folders_of_the_server(site: Site, path: str) -> None:
    def studio(role: Role, owner: str = "user:x") -> OwnedStudio:
        return OwnedStudio(site.studio, lambda: Visitor(owner, "x", role), SharingSettings())
    maker, request = studio(Role.MAKER), {"prompt": "a ball", "model": path}
    for act in (lambda: maker.spec(path), lambda: maker.spec(model=path), lambda: maker.submit(request), lambda: maker.forecast(request),
                lambda: maker.submit(GenerationRequest(prompt="a ball", model=path)), lambda: maker.submit_batch([request]),
                lambda: maker.in_words(request), lambda: maker.refining.refine("a ball", model=path),
                lambda: maker.refining.start("a ball", model=path),
                lambda: OwnedStudio(site.studio, lambda: None, SharingSettings()).spec(path)):
        with pytest.raises(InvalidRequest, match="is a path"):
            act()
    for others in (studio(Role.ADMIN), studio(Role.MAKER, "local")):
        with pytest.raises(ModelNotFound):  # it was looked for
            others.spec(path)
    for listed in ("a-folder", "owner/name"):
        with pytest.raises(ModelNotFound):
            maker.spec(listed)


def test_gradio_s_own_ways_to_files_are_shut(site: Site, anna: httpx.Client) -> None:
    data = site.studio.settings.data_dir
    for path in (f"/gradio_api/file={data}/users.json", f"/gradio_api/file={data}/history.db", f"/file={data}/users.json",
                 "/gradio_api/proxy=http://127.0.0.1/", "/monitoring", "/gradio_api/runs"):
        assert anna.get(path).status_code == 404, path
    assert "app_id" in anna.get("/gradio_api/app_id").json()  # what a page waits for that has lost its connection
    assert anna.post("/gradio_api/upload", files={"files": ("x.html", b"<script>")}).status_code == 404


def test_an_event_is_bounded(anna: httpx.Client) -> None:
    assert anna.post("/gradio_api/call/submit", content=b"x" * (5 << 20)).status_code == 413
    assert anna.post("/gradio_api/call/submit", content=b"[" * 100_000).status_code == 400


# ---- how much

def test_so_many_jobs_and_no_more_however_many_ask_at_once(site: Site) -> None:
    studio = OwnedStudio(site.studio, lambda: Visitor("user:many", "many", Role.MAKER), SharingSettings(queued_each=3))
    said: list[str] = []

    def ask() -> None:
        try:
            said.append(studio.submit({"prompt": "a ball"}, owner="local").id)
        except NotAllowed as error:
            said.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(site.studio.jobs(owner="user:many")) == 3
    assert sum("limit of one person is 3" in each for each in said) == 7
    for job in site.studio.jobs(owner="user:many"):
        site.studio.cancel(job.id, owner="user:many")


@pytest.mark.parametrize(("limits", "request_", "words"), [
    ({"prompt_chars": 5}, {"prompt": "a red ball"}, "at most 5"),
    ({"queue_size": 1}, [{"prompt": "a"}, {"prompt": "b"}], "of everybody"),
])
def test_other_limits_say_which(site: Site, limits: dict[str, int], request_: Any, words: str) -> None:
    studio = OwnedStudio(site.studio, lambda: Visitor("user:o", "o", Role.MAKER), SharingSettings(**limits))
    with pytest.raises((NotAllowed, InvalidRequest), match=words):
        (studio.submit_batch if isinstance(request_, list) else studio.submit)(request_)


def test_refining_has_a_pace_and_a_length_too(site: Site) -> None:
    studio = OwnedStudio(site.studio, lambda: Visitor("user:r", "r", Role.MAKER), SharingSettings(submits_a_minute=2, prompt_chars=20))
    with pytest.raises(InvalidRequest, match="at most 20"):
        studio.refining.start("a red ball over a green meadow", owner="local")
    assert studio.refining.start("a red ball", owner="local").done
    assert studio.refining.refine("a red ball").text
    for act in (studio.refining.refine, studio.refining.start):
        with pytest.raises(NotAllowed, match="limit is 2"):
            act("a red ball")


def test_a_repeat_is_answered_not_counted(site: Site) -> None:
    studio = OwnedStudio(site.studio, lambda: Visitor("user:two", "two", Role.MAKER), SharingSettings(queued_each=2, submits_a_minute=1))
    first = studio.submit_batch([{"prompt": "a"}, {"prompt": "b"}], idempotency_key="k")
    assert studio.submit_batch([{"prompt": "a"}, {"prompt": "b"}], idempotency_key="k") == first
    with pytest.raises(NotAllowed, match="one request too many: the limit is 1 in a minute"):
        studio.submit({"prompt": "a"}, idempotency_key="other")
    site.studio.cancel_batch(first[0].batch_id, owner="user:two")


def test_pace() -> None:
    now = [0.0]
    pace = Pace(2, now=lambda: now[0])
    pace.step("a")
    pace.step("a")
    pace.step("b")
    with pytest.raises(NotAllowed, match="limit is 2"):
        pace.step("a")
    now[0] = 61.0
    pace.step("a")
