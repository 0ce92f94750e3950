"""A page asks for little as long as nothing changed: the pulse, and gradio's events without what nobody reads."""

from __future__ import annotations

import asyncio
import datetime
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.queueing import Queue

from app.history.records import JobMark
from app.settings import Settings
from app.sharing.access import Access
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role
from app.studio import open_studio
from app.ui.pulse import Pulse, mark_of
from app.ui.sessions import MOST_IDLE, MOST_MESSAGES, LeanHolder, spoken
from tests.fakes_studio import FakeStudio
from tests.site import Site, serving, wait_for

STATUS = SimpleNamespace(worker_alive=True, worker_message=None, blocked_reason=None, recovery_message=None)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_the_mark_changes_with_each_thing_a_page_shows() -> None:
    job = JobMark("a" * 32, "anna", 3, 1)
    marks = [mark_of("well", jobs) for jobs in ([], [job], [JobMark(job.id, job.owner, 4, 1)], [JobMark(job.id, job.owner, 3, 2)])]
    assert len({*marks, mark_of("full", [job])}) == 5
    assert mark_of("well", [job]) == marks[1]


def test_people_hear_of_their_own_jobs_only(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json")
    tokens = {}
    for name in ("anna", "ben"):
        users.add(name, Role.MAKER, None)
        tokens[name] = users.add_token(name)
    studio = open_studio(Settings(data_dir=tmp_path, engine="tests.fakes:FakeEngine", min_free_bytes=0))
    with serving(studio, Access(SharingSettings(), tmp_path)) as site, httpx.Client(base_url=site.url, timeout=30) as client:
        def mark(name: str) -> str:
            return str(client.get("/pulse", headers=bearer(tokens[name])).json()["mark"])

        assert client.get("/pulse").status_code == 401
        anna, ben = mark("anna"), mark("ben")
        job = studio.submit({"prompt": "a ball"}, owner="user:anna")
        wait_for(lambda: mark("anna") != anna, "word of her job")  # a look is kept for a moment
        assert mark("ben") == ben
        studio.cancel(job.id, owner="user:anna")
        wait_for(lambda: mark("anna") == anna, "word that nothing of hers waits any more")
    studio.close()


def test_while_the_history_is_slow_pages_hear_the_look_before() -> None:
    slow, reads = threading.Event(), []

    def marks() -> tuple[JobMark, ...]:
        reads.append(1)
        if len(reads) == 2:
            slow.wait(10)
        return (JobMark(f"{len(reads)}", "local", 1, 1),)

    async def ask() -> None:
        pulse = Pulse(SimpleNamespace(marks=marks, status=lambda: STATUS), seconds=0.0, patience=0.01)
        first = await pulse.look()
        assert [await pulse.look() for _ in range(3)] == [first] * 3
        assert len(reads) == 2  # one look at a time
        slow.set()
        while (await pulse.look()) is first:
            await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as own:  # where a browser was driven before, this thread has a loop already
        own.submit(asyncio.run, ask()).result()


def test_a_history_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    studio = open_studio(Settings(data_dir=tmp_path, engine="tests.fakes:FakeEngine", min_free_bytes=0))
    with serving(studio) as site:
        studio.settings.db_path.write_bytes(b"no database at all" * 100)
        answer = httpx.get(f"{site.url}/pulse", timeout=30)
    studio.close()
    assert answer.status_code == 503 and "damaged" in answer.json()["error"]


class Part:
    """Of a page, as far as its number goes."""

    def __init__(self, number: int) -> None:
        self._id = number


def test_what_an_event_says() -> None:
    first, second, third = map(Part, range(3))
    assert spoken({"__type__": "update"}, [first, second]) == {}
    assert spoken((1, 2), [first, second]) is None
    assert spoken({"value": 1}, [first, second]) is None  # the value of a component that is a mapping
    assert spoken({first: "a", third: "b"}, [first, second]) is None
    assert spoken({first: "a", third: "b"}, [first, second, third]) == {0: "a", 2: "b"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(FakeStudio(tmp_path_factory.mktemp("studio"))) as running:
        yield running


def test_an_event_sends_what_it_says_and_nothing_else(site: Site) -> None:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        config = client.get("/config").json()
        panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
        click = next(each for each in config["dependencies"] if each["targets"] == [[panel, "click"]])
        values = {each["id"]: each["props"].get("value") for each in config["components"]}
        opening = next(each for each in config["dependencies"] if len(each["outputs"]) > 40 and each["targets"][0][1] == "load")
        client.post("/gradio_api/run/predict", json={
            "fn_index": opening["id"], "data": [values[each] for each in opening["inputs"]], "session_hash": "one"})
        said = client.post("/gradio_api/run/predict", json={
            "fn_index": click["id"], "data": [values[each] for each in click["inputs"]], "session_hash": "one",
            "event_data": {"act": "example", "name": "rising star"}, "trigger_id": panel}).json()["data"]
    spoken_of = [number for number, value in enumerate(said) if value not in (None, {"__type__": "update"})]
    assert 0 < len(spoken_of) < 6 and len(said) > 40


def test_no_records_of_past_events_are_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, tables = [], []
    original = Queue.compute_analytics_summary

    def summary(queue: Queue, records: list[Any]) -> Any:
        asked.append(len(records))
        return original(queue, records)

    monkeypatch.setattr(Queue, "compute_analytics_summary", summary)
    monkeypatch.setattr(Queue, "_get_df", staticmethod(tables.append))
    for _ in range(2):
        event = httpx.post(f"{site.url}/gradio_api/call/clips", json={"data": []}, timeout=30).json()["event_id"]
        assert "complete" in httpx.get(f"{site.url}/gradio_api/call/clips/{event}", timeout=30).text
    wait_for(lambda: len(asked) >= 2, "gradio to ask for its statistics")
    assert set(asked) == {0} and tables == []


def test_an_event_the_page_does_not_have_is_answered(site: Site) -> None:
    answer = httpx.post(f"{site.url}/gradio_api/run/predict", json={"fn_index": 99_999, "data": []}, timeout=30)
    assert answer.status_code == 404 and "99999" in answer.json()["detail"]


def test_sessions_in_which_nothing_is_kept_are_forgotten() -> None:
    holder = LeanHolder()
    with gr.Blocks() as page:
        kept = gr.State("")
    holder.set_blocks(page)
    holder["somebody"][kept._id] = "a job"
    for number in range(3 * MOST_IDLE):
        assert kept._id in holder[f"call {number}"].blocks_config.blocks
    assert len(holder.session_data) <= MOST_IDLE + 1
    assert holder["somebody"][kept._id] == "a job"


def test_a_page_whose_connection_broke_off_is_not_forgotten() -> None:
    holder = LeanHolder()
    with gr.Blocks() as page:
        kept = gr.State("")
    holder.set_blocks(page)
    session = holder["somebody"]
    session[kept._id] = "an image"
    session.is_closed = True
    session._state_ttl[kept._id] = (math.inf, datetime.datetime.now() - datetime.timedelta(days=3))
    holder.delete_all_expired_state()
    assert session[kept._id] == "an image"


def test_sessions_that_wait_for_nothing_are_forgotten() -> None:
    holder = LeanHolder()
    with gr.Blocks() as page:
        pass
    holder.set_blocks(page)
    queue = page._queue
    waiting, reading = "waits for an event", "its messages are still read"
    queue.pending_event_ids_session |= {waiting: {"an event"}, reading: set()}
    queue.pending_messages_per_session[reading] = asyncio.Queue()
    for number in range(3 * MOST_MESSAGES):
        queue.pending_event_ids_session[f"call {number}"] = set()
        holder[f"call {number}"]
    assert len(queue.pending_event_ids_session) <= MOST_MESSAGES + 1
    assert queue.pending_event_ids_session[waiting] == {"an event"} and queue.pending_event_ids_session[reading] == set()
