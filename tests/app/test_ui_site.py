"""The site over HTTP: endpoints for gradio_client, media by id, and who may call."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app.ui.api import REQUEST_FIELDS
from app.ui.guard import refusal
from tests.site import Site, wait_for, whole_site

ROOT = Path(__file__).resolve().parents[2]
STATES = {"queued", "running", "finalizing", "done", "failed", "cancelling", "cancelled", "blocked", "paused"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_site(tmp_path_factory.mktemp("site"), step_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def client(site: Site) -> Client:
    return Client(site.url, verbose=False)


@pytest.fixture(scope="module")
def done(client: Client) -> dict[str, Any]:
    """A finished job, as /job tells it."""
    job_id = client.predict(prompt="a red ball bounces", api_name="/submit")
    return wait_for(lambda: ended(client, job_id), "the job to be done")


def ended(client: Client, job_id: str) -> dict[str, Any] | None:
    job = client.predict(job_id, api_name="/job")
    assert job["state"] in STATES
    return job if job["state"] in ("done", "failed", "cancelled") else None


def raw(site: Site, endpoint: str, body: str) -> str:
    """Calls an endpoint with a body as it is; returns everything the server streams back."""
    sent = httpx.post(f"{site.url}/gradio_api/call/{endpoint}", content=body, headers={"content-type": "application/json"})
    if sent.status_code != 200:
        return f"{sent.status_code} {sent.text}"
    return httpx.get(f"{site.url}/gradio_api/call/{endpoint}/{sent.json()['event_id']}", timeout=20).text


def test_a_prompt_alone_is_enough(done: dict[str, Any]) -> None:
    assert done["state"] == "done" and done["error"] is None
    assert set(done) == {"id", "kind", "title", "state", "stage", "step", "steps", "eta_seconds", "clip", "error"}
    assert done["clip"]["prompt"] == "a red ball bounces"


def test_the_clip_of_a_job_can_be_fetched(site: Site, done: dict[str, Any]) -> None:
    answer = httpx.get(site.url + done["clip"]["url"])
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
    assert len(answer.content) == done["clip"]["bytes"]
    assert httpx.get(site.url + done["clip"]["poster"]).headers["content-type"] == "image/webp"


def test_all_fields_by_name(client: Client) -> None:
    job_id = client.predict(
        prompt="a blue star",
        negative="grey",
        model="pocket",
        seed=2**60,
        frames=17,
        width=64,
        height=64,
        steps=2,
        guidance=3.5,
        scheduler="ddim",
        api_name="/submit",
    )
    assert wait_for(lambda: ended(client, job_id), "the job")["clip"]["seed"] == 2**60


def test_clips_are_found_by_words(client: Client, done: dict[str, Any]) -> None:
    found = client.predict("RED bounces", api_name="/clips")
    assert done["clip"]["id"] in [clip["id"] for clip in found["clips"]]
    assert client.predict("zebra", 1, api_name="/clips") == {"clips": [], "page": 1, "pages": found["pages"], "total": 0}


def test_cancel(client: Client) -> None:
    job_id = client.predict(prompt="a ring", steps=200, api_name="/submit")
    assert client.predict(job_id, api_name="/cancel")["state"] in ("cancelling", "cancelled")
    assert wait_for(lambda: ended(client, job_id), "the end")["state"] == "cancelled"
    assert client.predict(job_id, api_name="/cancel")["state"] == "cancelled"


BAD = [
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": "x" * 1_000_000}, "prompt", "2,000"),
    ({"prompt": "a\x00b"}, "prompt", "control"),
    ({"prompt": 5}, "prompt", "text"),
    ({"prompt": "a", "seed": 2**63}, "seed", "2^63"),
    ({"prompt": "a", "seed": -1}, "seed", "0"),
    ({"prompt": "a", "seed": "7"}, "seed", "whole number"),
    ({"prompt": "a", "frames": 26}, "frames", "25"),
    ({"prompt": "a", "frames": True}, "frames", "whole number"),
    ({"prompt": "a", "width": 100}, "width", "16"),
    ({"prompt": "a", "height": 10**9}, "height", "4,096"),
    ({"prompt": "a", "steps": [5]}, "steps", "whole number"),
    ({"prompt": "a", "guidance": -1}, "guidance", "0"),
    ({"prompt": "a", "model": "no-such"}, "model", "pocket"),
    ({"prompt": "a", "scheduler": "euler"}, "scheduler", "ddim"),
    ({"prompt": "a", "profile": "quick"}, "profile", "balanced"),
    ({"prompt": "a", "budget": "8GiB"}, "budget", "whole number"),
    ({"prompt": "a", "device": "cuda"}, "device", "cpu"),
]


@pytest.mark.parametrize(("values", "field", "words"), BAD, ids=[f"{f}-{w}" for _, f, w in BAD])
def test_bad_values_get_a_clear_text(site: Site, client: Client, values: dict[str, Any], field: str, words: str) -> None:
    before = len(site.studio.jobs())
    with pytest.raises(AppError) as caught:
        client.predict(**values, api_name="/submit")
    assert field in str(caught.value) and words in str(caught.value)
    assert len(site.studio.jobs()) == before


@pytest.mark.parametrize(("number", "field"), [("NaN", "guidance"), ("Infinity", "guidance"), ("1e400", "guidance"), ("NaN", "seed")])
def test_numbers_json_does_not_have(site: Site, number: str, field: str) -> None:
    data = ", ".join('"a"' if name == "prompt" else number if name == field else "null" for name in REQUEST_FIELDS)
    answer = raw(site, "submit", f'{{"data": [{data}]}}')
    assert field in answer and "error" in answer


def test_markup_in_an_error_is_text(site: Site) -> None:
    rest = [None] * (len(REQUEST_FIELDS) - 3)
    answer = raw(site, "submit", json.dumps({"data": ["a", None, "<img src=x onerror=alert(1)>", *rest]}))
    assert "<img" not in answer and "&lt;img" in answer


@pytest.mark.parametrize("job_id", ["", "f" * 32, "../../etc/passwd", "<b>", "x" * 10_000, None, 5, ["a"]])
def test_foreign_and_unknown_jobs_are_not_told_apart(client: Client, job_id: Any) -> None:
    for endpoint in ("/job", "/cancel"):
        with pytest.raises(AppError) as caught:
            client.predict(job_id, api_name=endpoint)
        assert "<b>" not in str(caught.value)


@pytest.mark.parametrize(("words", "page"), [(5, 1), ("a" * 500, 1), ("a", 0), ("a", "2"), ("a", True)])
def test_bad_searches(client: Client, words: Any, page: Any) -> None:
    with pytest.raises(AppError):
        client.predict(words, page, api_name="/clips")


def test_only_these_endpoints_are_named(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/submit", "/job", "/cancel", "/clips", "/models", "/submit_batch", "/batch", "/cancel_batch", "/loras",
        "/refine", "/interpolate", "/key_frames", "/edit_key_frame", "/go_on", "/publish", "/unpublish",
        "/public_clips"}


def test_models_are_listed(client: Client) -> None:
    models = {model["name"]: model for model in client.predict(api_name="/models")["models"]}
    assert models["pocket"]["state"] == "ready" and models["pocket"]["size_bytes"] > 10**6
    assert models["zai-org/CogVideoX-2b"]["state"] == "absent" and models["zai-org/CogVideoX-2b"]["task"] == "text to video"


def test_private_events_check_what_they_are_given(site: Site) -> None:
    config = httpx.get(f"{site.url}/config").json()
    for event in config["dependencies"]:
        if event["api_name"] not in ("submit", "job", "cancel", "clips", "models"):
            body = {
                "fn_index": event["id"],
                "session_hash": uuid.uuid4().hex,
                "data": [{"x": ["<b>", 1]}] * len(event["inputs"]),
                "event_data": {"act": "cancel", "job": "../x", "search": ["?"]},
            }
            answer = httpx.post(f"{site.url}/gradio_api/run/predict", json=body, timeout=20)
            assert "Traceback" not in answer.text and 'File "' not in answer.text


@pytest.mark.parametrize(("field", "value"), [
    ("field-seconds", 0.75), ("field-frames", 7), ("field-steps", 100), ("field-model", "came later"),
])
def test_no_value_of_the_form_stops_the_clicks_of_a_page(site: Site, field: str, value: Any) -> None:
    """A click sends the whole form; a component that refused its value would end the event before any of our words."""
    config = httpx.get(f"{site.url}/config").json()
    parts = {each["id"]: each["props"] for each in config["components"]}
    relay = next(number for number, props in parts.items() if props.get("elem_id") == "relay")
    click = next(event for event in config["dependencies"] if [relay, "click"] in [list(target) for target in event["targets"]])
    data = [value if parts[each].get("elem_id") == field else parts[each].get("value") for each in click["inputs"]]
    assert value in data
    body = {"fn_index": click["id"], "session_hash": uuid.uuid4().hex, "data": data, "event_data": {"act": "go", "search": "?view=queue"}}
    answer = httpx.post(f"{site.url}/gradio_api/run/predict", json=body, timeout=20)
    assert answer.status_code == 200 and 'data-view="queue"' in answer.json()["data"][0]


def test_seeking_works(site: Site, done: dict[str, Any]) -> None:
    url, whole = site.url + done["clip"]["url"], done["clip"]["bytes"]
    part = httpx.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, len(part.content), part.headers["content-range"]) == (206, 10, f"bytes 10-19/{whole}")
    assert httpx.get(url, headers={"range": f"bytes={whole}-"}).status_code == 416
    assert httpx.get(url, headers={"range": "bytes=-5"}).content == httpx.get(url).content[-5:]
    assert httpx.get(url, headers={"range": "bytes=9-1"}).status_code in (400, 416)
    assert httpx.head(url).headers["content-length"] == str(whole)


def test_media_cannot_run_and_is_not_guessed(site: Site, done: dict[str, Any]) -> None:
    clip = done["clip"]["id"]
    for path in (
        f"/media/clips/{clip}.mp4",
        f"/media/posters/{clip}.webp",
        f"/media/stills/{clip}.webp",
        f"/media/clips/{clip}.json",
        f"/media/previews/{done['id']}.webp",
    ):
        answer = httpx.get(site.url + path)
        headers = answer.headers
        assert answer.status_code == 200 or "previews" in path  # which are not kept
        assert headers["x-content-type-options"] == "nosniff" and "sandbox" in headers["content-security-policy"]
    assert "attachment" in httpx.get(f"{site.url}/media/clips/{clip}.mp4?download=1").headers["content-disposition"]


@pytest.mark.parametrize(
    "path",
    [
        "/media/clips/..%2f..%2fhistory.mp4",
        "/media/clips/zz.mp4",
        "/media/posters/%00.webp",
        "/media/stills/..%2fhistory.webp",
        f"/media/stills/{'f' * 32}.webp",
        "/media/previews/x.webp",
        f"/media/clips/{'f' * 32}.mp4",
        f"/media/clips/{'f' * 32}.json",
        "/studio/..%2fREADME.md",
        "/studio/layout.py",
        "/gradio_api/file=history.db",
    ],
)
def test_nothing_else_is_served(site: Site, path: str) -> None:
    assert httpx.get(site.url + path).status_code in (403, 404)


def test_the_data_folder_is_not_served(site: Site) -> None:
    assert httpx.get(f"{site.url}/gradio_api/file={site.studio.settings.db_path}").status_code in (403, 404)


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"host": "evil.example"}, 403), ({"host": "evil.example:7860"}, 403), ({"host": ""}, 403)]
)
def test_foreign_hosts_are_refused(site: Site, headers: dict[str, str], status: int) -> None:
    assert httpx.get(f"{site.url}/healthz", headers=headers).status_code == status


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://[", "http://localhost:1"])
def test_foreign_pages_cannot_post(site: Site, origin: str) -> None:
    answer = httpx.post(f"{site.url}/gradio_api/call/submit", json={"data": ["a"]}, headers={"origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("localhost:7860", False),
        ("127.0.0.1", False),
        ("[::1]:7860", False),
        ("192.168.1.7:7860", False),
        ("studio.hf.space", False),
        ("rebind.evil", True),
        ("127.0.0.1.evil.com", True),
        ("[", True),
        ("", True),
    ],
)
def test_host_names(host: str, refused: bool) -> None:
    names = frozenset({"localhost", "studio.hf.space"})
    assert (refusal("GET", host, None, names) is not None) == refused
    assert refusal("POST", "localhost:7860", "http://localhost:7860", names) is None


def test_short_addresses(site: Site) -> None:
    answer = httpx.get(f"{site.url}/gallery?clip=abc&view=queue")
    assert answer.headers["location"] == "/?view=gallery&clip=abc"


@pytest.mark.parametrize(
    ("query", "there"),
    [
        ("page=abc", "/?"),
        ("view=gallery&page=abc", "/?view=gallery"),
        ("view=gallery&page=3&words=a+b", "/?view=gallery&words=a+b&sheet=3"),
        ("view=gallery&page=%C2%B2&sheet=2", "/?view=gallery&sheet=2"),
        ("deep_link=../x", "/?"),
    ],
)
def test_words_that_gradio_keeps_for_itself_do_no_harm(site: Site, query: str, there: str) -> None:
    answer = httpx.get(f"{site.url}/?{query}")
    assert (answer.status_code, answer.headers["location"]) == (307, there)
    assert httpx.get(site.url + there).status_code == 200


def test_too_many_words_in_an_address(site: Site) -> None:
    assert httpx.get(f"{site.url}/?" + "a=1&" * 50, follow_redirects=True).status_code == 200


def test_values_left_out_are_the_models_own(site: Site) -> None:
    assert "event: complete" in raw(site, "submit", '{"data": ["a red ball"]}')
    assert "prompt: is missing" in raw(site, "submit", '{"data": []}')
    assert "job_id: must be an id" in raw(site, "job", '{"data": []}')


def test_off_switches(site: Site) -> None:
    assert httpx.get(f"{site.url}/monitoring").status_code in (403, 404)
    assert httpx.get(f"{site.url}/gradio_api/runs").status_code == 404
    assert httpx.get(f"{site.url}/docs").status_code == 404
    assert not httpx.get(f"{site.url}/config").json().get("is_space", False)


@pytest.mark.timeout(400)
def test_the_web_process_is_small_and_ends_in_order(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "SPROCKET_ENGINE": "tests.fakes:FakeEngine",
        "SPROCKET_DATA_DIR": str(tmp_path / "d"),
        "SPROCKET_PORT": str(port),
        "SPROCKET_MIN_FREE_BYTES": "0",
    }
    web = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _alive(url), "the server", 200)
        remote = Client(url, verbose=False)
        job_id = remote.predict(prompt="a red ball", api_name="/submit")
        wait_for(lambda: ended(remote, job_id), "the job")
        process = psutil.Process(web.pid)
        assert process.memory_info().rss <= 400 * 2**20
        assert not [m.path for m in process.memory_maps() if re.search(r"libtorch|_C\.cpython.*torch", m.path)]
        children = process.children(recursive=True)
        web.send_signal(signal.SIGTERM)
        web.wait(30)
        assert psutil.wait_procs(children, timeout=20)[1] == []
    finally:
        web.kill()
        web.communicate()


def _alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").json()["worker"]
    except httpx.HTTPError:
        return False


def test_a_batch_is_asked_for_seen_and_cancelled_as_one(client: Client) -> None:
    asked = [{"prompt": "one", "seed": 1, "steps": 200, "width": None}, {"prompt": "two", "steps": 200}]
    made = client.predict(asked, api_name="/submit_batch")
    seen = client.predict(made["batch"], api_name="/batch")
    assert [job["id"] for job in seen["jobs"]] == made["jobs"] and len(made["jobs"]) == 2
    stopped = client.predict(made["batch"], api_name="/cancel_batch")
    assert all(job["state"] in ("cancelling", "cancelled") for job in stopped["jobs"])
    for job_id in made["jobs"]:
        assert wait_for(lambda job_id=job_id: ended(client, job_id), "the end")["state"] == "cancelled"


@pytest.mark.parametrize(("sent", "words"), [
    ([{"prompt": "a"}, {"prompt": ""}], "In request 2 of 2; none was taken"), ([], "1 to 32"), ("abc", "1 to 32"), (None, "1 to 32"),
    ([5], "must be an object"), ([{"prompt": "a"}] * 33, "not 33 of them"), ([{"prompt": "a", "seed": "7"}], "whole number")])
def test_a_bad_batch_takes_nothing(site: Site, client: Client, sent: Any, words: str) -> None:
    before = len(site.studio.jobs(limit=500))
    with pytest.raises(AppError, match=words):
        client.predict(sent, api_name="/submit_batch")
    assert len(site.studio.jobs(limit=500)) == before


@pytest.mark.parametrize(("loras", "words"), [
    ("x", "list of at most 8"), ([["../../etc/passwd", 1]], "must name LoRAs"), ([[f"{'0' * 64}.safetensors", 1]], "not among the LoRAs"),
    ([[f"{'0' * 64}.safetensors", 99]], "-4 to 4")])
def test_loras_are_named_by_hash_only(client: Client, loras: Any, words: str) -> None:
    assert client.predict(api_name="/loras") == {"loras": []}
    with pytest.raises(AppError, match=words):
        client.predict(prompt="a", loras=loras, api_name="/submit")
