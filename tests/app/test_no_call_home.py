"""Nobody is told that Sprocket runs: page, API, server and worker make a clip without one connection that leaves the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.site import wait_for

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
         "DIFFUSERS_OFFLINE")
"""None of these may be needed: they are unset."""


def environment(notes: Path) -> dict[str, str]:
    path = os.pathsep.join((str(ROOT / "tests" / "offline"), str(ROOT)))
    return {name: value for name, value in os.environ.items() if name not in QUIET} | {"PYTHONPATH": path, "OUTSIDE_CALLS": str(notes),
        "SPROCKET_ENGINE": os.environ.get("NO_CALL_HOME_ENGINE", "tests.fakes:FakeEngine"), "SPROCKET_MIN_FREE_BYTES": "0"}


def test_the_guard_of_this_test_sees_a_call(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    code = ("import socket\ntry: socket.socket().connect(('192.0.2.1', 80))\nexcept OSError: pass\n"
            "try: socket.create_connection(('example.org', 80), 2)\nexcept OSError: pass")
    subprocess.run([sys.executable, "-c", code], env=environment(notes), check=True)
    assert "connect ('192.0.2.1', 80)" in notes.read_text()
    assert "look-up 'example.org'" in notes.read_text()


def test_a_clip_from_the_page_to_the_file_calls_nobody(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    server = subprocess.Popen([sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--data-dir",
                               str(tmp_path / "data")], cwd=ROOT, env=environment(notes), stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = "http://" + next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
        wait_for(lambda: answers(url), "the site to answer")
        assert httpx.get(url, timeout=60).status_code == 200
        for endpoint in ("models", "loras"):
            assert "event: complete" in called(url, endpoint)
        assert "event: complete" in called(url, "submit", "a red ball")
        wait_for(lambda: list((tmp_path / "data" / "media").rglob("*.mp4")), "the clip", 120)
        assert not notes.exists(), notes.read_text()
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert not notes.exists(), notes.read_text()


def called(url: str, endpoint: str, *values: str) -> str:
    event = httpx.post(f"{url}/gradio_api/call/{endpoint}", json={"data": list(values)}, timeout=60).json()["event_id"]
    return httpx.get(f"{url}/gradio_api/call/{endpoint}/{event}", timeout=60).text


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
