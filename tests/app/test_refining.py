"""Refinement through the studio, the API and the command line: who refines, how many at once, what is kept, and where no key may be."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client
from typer.testing import CliRunner

from app.cli import app as cli
from app.errors import NotFound
from app.history.records import JobState
from app.refining import MOST_KEPT, Progress, _Turn
from app.settings import Settings
from app.studio import Studio, open_studio
from app.ui import refine as panel
from engine.errors import InvalidRequest
from engine.refine import RefinerFailed
from engine.request import GenerationRequest
from tests.chat_server import ChatServer, chatting, saying, write_tiny_chat_model
from tests.site import serving, wait_for

KEY = "sk-nobody-may-see-this-8642"
GOOD = "A red ball bounces over a green meadow in bright daylight. The grass sways gently and the camera is still."


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with chatting(saying(GOOD)) as server:
        yield server


@pytest.fixture
def named(own_data_dir: Path, chat: ChatServer) -> Iterator[Studio]:
    """A studio whose operator has named a chat server, with a key."""
    settings = Settings(data_dir=own_data_dir, engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0, preview_seconds=0.0,
                        tick_seconds=0.02, refiner_url=chat.url, refiner_model="tiny", refiner_key=KEY, refiner_seconds=5.0)
    opened = open_studio(settings)
    yield opened
    opened.close()


def test_the_pocket_model_has_its_own_and_others_need_one_set_up(studio: Studio, named: Studio) -> None:
    assert studio.refining.backends() == ("pocket",) and named.refining.backends() == ("pocket", "endpoint")
    assert studio.refining.backend_for("pocket") == named.refining.backend_for("pocket-i2v") == "pocket"
    assert named.refining.backend_for("cogvideox-2b") == "endpoint"
    with pytest.raises(RefinerFailed, match="SPROCKET_REFINER_URL"):
        studio.refining.backend_for("cogvideox-2b")
    with pytest.raises(RefinerFailed, match="SPROCKET_REFINER_LOCAL"):
        named.refining.backend_for("pocket", "local")
    with pytest.raises(InvalidRequest, match="not known"):
        named.refining.backend_for("pocket", "gpt")


def test_both_texts_are_in_the_recipe_and_restoring_asks_nobody(named: Studio, chat: ChatServer,
                                                               work_once: Callable[[], Any]) -> None:
    found = named.refining.refine("red ball meadow", backend="endpoint")
    named.submit({"prompt": found.text, "wish": found.original, "refiner": found.backend})
    job = work_once()
    assert job is not None and job.state is JobState.DONE
    clip = named.clip(job.clip_id)
    recipe = json.loads(named.clip_path(clip.id).with_suffix(".json").read_text())
    for where in (clip.recipe["request"], recipe["request"]):
        assert (where["prompt"], where["wish"], where["refiner"]) == (GOOD, "red ball meadow", "endpoint")
    asked = len(chat.heard)
    again = named.request_from_file(named.clip_path(clip.id))
    assert (again.prompt, again.wish, again.refiner) == (GOOD, "red ball meadow", "endpoint") and named.clip_request(clip.id) == again
    assert len(chat.heard) == asked == 1


def test_a_wish_and_its_refiner_belong_together() -> None:
    with pytest.raises(InvalidRequest, match="belong together"):
        GenerationRequest(prompt="a", wish="b")
    with pytest.raises(InvalidRequest, match="belong together"):
        GenerationRequest(prompt="a", refiner="pocket")
    with pytest.raises(InvalidRequest, match="not known"):
        GenerationRequest(prompt="a", wish="b", refiner="oracle")
    with pytest.raises(InvalidRequest, match="2,000"):
        GenerationRequest(prompt="a", wish="b" * 2001, refiner="pocket")
    kept = GenerationRequest(prompt="a", wish="b", refiner="pocket")
    assert GenerationRequest.from_mapping(kept.to_json()) == kept


def test_the_key_is_nowhere(named: Studio, chat: ChatServer, work_once: Callable[[], Any], caplog: pytest.LogCaptureFixture,
                            capfd: pytest.CaptureFixture[str], own_data_dir: Path) -> None:
    """Every file of the installation, the log at its loudest, the screen, the API's answers, the page and its errors are searched."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = [repr(named.settings), str(named.settings), repr(named.refining.endpoint()), json.dumps(named.settings.to_env())]
    with serving(named) as site:
        client = Client(site.url, verbose=False, download_files=False)
        for fault in ("", "401", "500", "redirect-private", "error-event", "drop"):
            chat.fault = fault
            try:
                seen.append(str(client.predict("red ball meadow", "endpoint", api_name="/refine")))
            except Exception as error:  # noqa: BLE001  (the client has one class for all)
                seen.append(str(error))
        seen += [httpx.get(site.url).text, httpx.get(f"{site.url}/config").text, httpx.get(f"{site.url}/gradio_api/info").text]
        chat.fault, chat.reply = "", saying(f"A red ball on a meadow. The key is {KEY}.")
        seen.append(str(client.predict("red ball meadow", "endpoint", api_name="/refine")))
    assert sum("refused the key" in text or "trouble" in text for text in seen) >= 2 and "Your own words" in seen[-1]
    named.submit({"prompt": GOOD, "wish": "red ball", "refiner": "endpoint"})
    job = work_once()
    assert job is not None and job.clip_id
    named.store.close()
    out = capfd.readouterr()
    files = [path for path in own_data_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".mp4" for path in files) and any(path.name == "history.db" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    with sqlite3.connect(own_data_dir / "history.db") as history:
        assert KEY not in "".join(history.iterdump())
    assert not [text for text in [*seen, caplog.text, out.out, out.err] if KEY in text]
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers, _ in chat.heard), "the search would prove nothing"


def test_fifty_at_once_on_a_limit_of_four(named: Studio, chat: ChatServer) -> None:
    chat.pause = 0.004
    answers: list[Any] = []

    def ask(_number: int) -> Any:
        try:
            return named.refining.refine("red ball meadow", backend="endpoint").text
        except RefinerFailed as error:
            return str(error)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    good = [each for each in answers if each == GOOD]
    assert chat.most_at_once <= 4 and len(good) >= 20
    assert all("Too many texts" in each or "got no turn" in each for each in answers if each != GOOD)
    assert named.refining.refine("red ball meadow", backend="endpoint").text == GOOD, "a slot was lost"


def test_one_person_leaves_turns_and_places_to_others(named: Studio, chat: ChatServer) -> None:
    chat.fault = "slow"
    desk = named.refining
    begun = [desk.start("red ball meadow", owner="user:a", backend="endpoint").id for _ in range(3)]
    wait_for(lambda: [key for key in begun if "2 texts of yours" in desk.look(key, owner="user:a").error], "the refusal of one")
    other = desk.start("red ball meadow", owner="user:b", backend="endpoint").id
    wait_for(lambda: desk.look(other, owner="user:b").so_far, "another person's first words")
    for _ in range(MOST_KEPT):
        desk.start("a star", owner="user:a")
    desk.look(other, owner="user:b")  # raises where it was forgotten
    desk.stop(other, owner="user:b")
    wait_for(lambda: chat._now == 0, "the connections' end")
    chat.fault = ""
    last = desk.start("red ball meadow", owner="user:a", backend="endpoint").id
    assert wait_for(lambda: desk.look(last, owner="user:a").done, "a turn again")[0].text == GOOD


def test_what_was_stopped_is_no_turn_any_more(named: Studio) -> None:
    """Though the thread keeps its slot until the server says something."""
    desk, stops = named.refining, [threading.Event() for _ in range(3)]
    turns = [_Turn(desk, "user:a", stop) for stop in stops]
    with turns[0], turns[1]:
        for key, stop in zip("xy", stops, strict=False):
            desk._kept[key] = ("user:a", Progress(key, "a ball", "endpoint"), stop)
        with pytest.raises(RefinerFailed, match="2 texts of yours"):
            turns[2].__enter__()
        for key in "xyx":
            desk.stop(key, owner="user:a")
        with turns[2]:
            with pytest.raises(RefinerFailed, match="that you stopped"):
                _Turn(desk, "user:a", threading.Event()).__enter__()
            with desk._turn("user:b"), pytest.raises(RefinerFailed, match="was stopped"):
                _Turn(desk, "user:b", stops[0]).__enter__()  # waits for the fourth, and was given up
    assert not desk._entered
    with desk._turn("user:a"), desk._turn("user:a"):
        pass


def test_start_returns_at_once_and_streams(named: Studio, chat: ChatServer) -> None:
    chat.pause = 0.05
    begun = named.refining.start("red ball meadow", owner="local", backend="endpoint")
    assert not begun.ended
    look = lambda: named.refining.look(begun.id, owner="local")  # noqa: E731
    part = wait_for(lambda: look().so_far, "the first words")
    assert GOOD.startswith(part) and part != GOOD
    done = wait_for(lambda: look().done, "the answer")
    assert done[0].text == GOOD
    with pytest.raises(NotFound):
        named.refining.look(begun.id, owner="somebody else")
    with pytest.raises(NotFound):
        named.refining.look("nothing", owner="local")


def test_stopping_ends_the_connection(named: Studio, chat: ChatServer) -> None:
    chat.fault = "slow"
    begun = named.refining.start("red ball meadow", owner="local", backend="endpoint")
    wait_for(lambda: named.refining.look(begun.id, owner="local").so_far, "the first words")
    named.refining.stop(begun.id, owner="local")
    assert named.refining.look(begun.id, owner="local").error == "Refining was stopped."
    wait_for(lambda: chat._now == 0, "the connection's end")


def test_three_versions(named: Studio) -> None:
    done = named.refining.start("a star", owner="local", count=3).done
    assert len({each.text for each in done}) == 3 and all(each.backend == "pocket" for each in done)


def test_lines_for_a_video_each_are_not_made_one_text(studio: Studio) -> None:
    parts = SimpleNamespace(kept="kept", refine="panel", timer="timer", form={"prompt": "prompt"})
    values = {"prompt": "a red ball\n\na star", "model": "pocket", "per_line": True, "always_refine": True}
    said = panel.before_generate(studio, parts, values, {})
    assert said is not None and "prompt" not in said and "2 lines" in said["kept"][panel.REFINE]["problem"]
    assert panel.begin(studio, parts, values | {"per_line": False}, {})["prompt"]
    assert panel.begin(studio, parts, values | {"prompt": "a red ball\n"}, {})["prompt"]


def test_the_api(studio: Studio) -> None:
    with serving(studio) as site:
        client = Client(site.url, verbose=False, download_files=False)
        found = client.predict("ball goes up fast, beach", api_name="/refine")
        assert found["backend"] == "pocket" and found["original"] == "ball goes up fast, beach"
        assert "rises quickly over the sea" in found["text"]
        job_id = client.predict(prompt=found["text"], wish=found["original"], refiner=found["backend"], api_name="/submit")
        assert studio.job(job_id).request["wish"] == "ball goes up fast, beach"
        for bad, words in (({"text": ""}, "empty"), ({"text": 5}, "must be text"), ({"text": "x", "backend": "gpt"}, "not known"),
                           ({"text": "x", "version": "a"}, "version"), ({"text": "x", "model": "no-such"}, "No refiner|no-such")):
            with pytest.raises(Exception, match=words):
                client.predict(**bad, api_name="/refine")


def test_the_command_line(own_data_dir: Path, chat: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lambda *words: CliRunner().invoke(cli, [*words, "--data-dir", str(own_data_dir)])  # noqa: E731
    done = run("refine", "ball goes up fast, beach", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["backend"] == "pocket"
    versions = json.loads(run("refine", "a star", "--count", "3", "--json").stdout)["versions"]
    assert len({each["text"] for each in versions}) == 3
    assert isinstance(run("refine", "a star", "--backend", "endpoint").exception, RefinerFailed)
    for name, value in (("URL", chat.url), ("MODEL", "tiny"), ("KEY", KEY)):
        monkeypatch.setenv(f"SPROCKET_REFINER_{name}", value)
    done = run("refine", "red ball meadow", "--backend", "endpoint")
    assert done.exit_code == 0 and GOOD in done.output and KEY not in done.output


def test_a_local_chat_model_runs_in_a_process_of_its_own(studio: Studio, own_data_dir: Path, tmp_path: Path) -> None:
    folder = write_tiny_chat_model(tmp_path / "chat")
    settings = studio.settings.model_copy(update={"refiner_local": str(folder)})
    local = open_studio(settings)
    try:
        seen: list[str] = []
        found = local.refining.refine("a red ball over the meadow", backend="local", on_text=seen.append)
        assert found.backend == "local" and len(seen) > 3 and all(b.startswith(a) for a, b in pairwise(seen))
        assert found.text == (found.original if found.fallback else found.text) and found.tokens <= found.max_tokens
        stop = threading.Event()
        stop.set()
        with pytest.raises(RefinerFailed, match="stopped"):
            local.refining.refine("a red ball", backend="local", stop=stop)
    finally:
        local.close()
    broken = open_studio(settings.model_copy(update={"refiner_local": str(tmp_path / "not-there")}))
    try:
        with pytest.raises(RefinerFailed, match="cannot be used"):
            broken.refining.refine("a red ball", backend="local")
    finally:
        broken.close()
