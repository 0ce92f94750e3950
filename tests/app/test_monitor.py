"""How the site is, for machines: ready, numbers, log lines, and that it stops in time."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.history.leases import Leases
from app.history.records import JobState
from app.logs import Lines, one_line, redacted, set_up_logs
from app.queue.process import this_process
from app.settings import Settings
from app.sharing.access import Access
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest
from tests.site import Site, serving, wait_for

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "three words together"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("watched")
    users = Users(folder / "users.json")
    users.add("anna", Role.MAKER, None)
    users.add("root", Role.ADMIN, None)
    studio = open_studio(Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0))
    try:
        with serving(studio, Access(SharingSettings(metrics_token="m" * 20), folder)) as running:
            yield running
    finally:
        studio.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_numbers_are_the_history_s(site: Site) -> None:
    users = Users(site.studio.settings.data_dir / "users.json")
    jobs = [site.studio.submit({"prompt": "a ball"}, owner="user:anna") for _ in range(3)]
    site.studio.cancel(jobs[0].id, owner="user:anna")
    assert httpx.get(f"{site.url}/metrics").status_code == 401
    assert httpx.get(f"{site.url}/metrics", headers=bearer(users.add_token("anna"))).status_code == 401
    assert httpx.get(f"{site.url}/metrics", headers=bearer(users.add_token("root"))).status_code == 200
    answer = httpx.get(f"{site.url}/metrics", headers=bearer("m" * 20))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {(s.name, tuple(sorted(s.labels.items()))): s.value
             for family in text_string_to_metric_families(answer.text) for s in family.samples}
    assert found["sprocket_jobs", (("state", "queued"),)] == 2
    assert found["sprocket_jobs", (("state", "cancelled"),)] == 1
    assert found["sprocket_queue_waiting", ()] == 2
    assert found["sprocket_worker_up", ()] == 0
    assert found["process_resident_memory_bytes", ()] > 10e6
    assert found["sprocket_http_requests_total", (("kind", "metrics"), ("status", "4xx"))] == 2
    assert "a ball" not in answer.text
    assert "anna" not in answer.text


def test_ready_says_why_not(site: Site) -> None:
    answer = httpx.get(f"{site.url}/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "why": ["no_worker"]})


@pytest.mark.parametrize(("text", "secret"), [
    ("Authorization: Bearer abcdef123456", "abcdef123456"), ("token=hf_abcdefghijklmnop now", "hf_abcdefghijklmnop"),
    ('{"password": "three words"}', "three"), ("cookie: sprocket_session=AbC-12_3", "AbC-12_3"),
    ("http://anna:pass@host/x", "anna:pass"), ("scrypt$32768$8$1$AAAA$BBBB", "AAAA"), ("api_key='sk-12345678'", "12345678"),
])
def test_secrets_are_hidden(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert "[hidden]" in redacted(text)


def test_what_is_no_secret_stays() -> None:
    for text in ("GET /media/clips/0123.mp4 200", "the worker ended: killed", "Basic settings are kept"[:14]):
        assert redacted(text) == text


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_log_line_is_one_line(kind: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", ("a\n2026 ERROR forged\x1b[31m\u202e",), None)
    record.owner = "anna\nroot"
    line = Lines(kind).format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    if kind == "json":
        assert json.loads(line)["owner"] == "anna\\nroot"
    assert len(one_line("x" * 10_000)) < 5000


def test_an_unknown_kind_of_log_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="text or json"):
        set_up_logs("xml")


def test_owners_take_turns(studio: Studio) -> None:
    """Ten of one person do not keep another waiting for ten."""
    for _ in range(3):
        studio.submit({"prompt": "x"}, owner="user:a")
    for _ in range(2):
        studio.submit({"prompt": "y"}, owner="user:b")
    leases: Leases = studio.store.leases
    turns = []
    for second in range(5):
        claim = leases.claim(this_process(), now=1000.0 + second)
        assert claim is not None
        turns.append(claim.job.owner[-1])
    assert "".join(turns) == "ababa"


def test_a_stop_keeps_the_job_and_takes_no_30_seconds(tmp_path: Path) -> None:
    """The real server, its worker in the middle of a long job."""
    environment = os.environ | {"SPROCKET_ENGINE": "tests.fakes:FakeEngine", "SPROCKET_MIN_FREE_BYTES": "0", "FAKE_STEP_SECONDS": "0.5",
                                "SPROCKET_LOG": "json", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment,
                              stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
        wait_for(lambda: ready(url), "the site to be ready")
        studio = open_studio(Settings(data_dir=tmp_path, engine="tests.fakes:FakeEngine", min_free_bytes=0))
        job = studio.submit({"prompt": "a ball"})
        wait_for(lambda: studio.job(job.id).step >= 2, "two steps")
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=30)[1]
        assert time.monotonic() - begun < 30
        assert server.returncode == 0
        assert studio.job(job.id).state is JobState.QUEUED
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert all({"at", "level", "logger", "text"} <= set(line) for line in lines)
        studio.close()
    finally:
        server.kill()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"http://{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
