"""The endpoint against the server that transformers ships: `transformers serve`, a process of its own, a tiny random model in it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine.refine import Ask, RefinerFailed
from engine.refine.chat import refine_by_chat
from engine.refine.endpoint import Endpoint
from tests.chat_server import WORDS, write_tiny_chat_model

pytest.importorskip("openai", reason="`transformers serve` needs the package openai (extra `test`)")
ASK = Ask(text="a red ball jumps in the grass")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base URL, model) of a server that runs until the module's tests are over."""
    folder = write_tiny_chat_model(tmp_path_factory.mktemp("serve") / "chat")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.with_name("serve.log")
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port), "--device", "cpu"]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            server.terminate()
            server.wait(20)


def _wait(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


def test_its_words_arrive_one_by_one_and_are_judged(served: tuple[str, str]) -> None:
    url, model = served
    seen: list[str] = []
    found = refine_by_chat(ASK, Endpoint(url, model, seconds=60), "endpoint", on_text=seen.append)
    assert len(seen) > 3 and all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert set(seen[-1].split()) <= set(WORDS.split())
    assert found.fallback and found.text == ASK.text and found.notes, "random words are no description of this"


def test_a_model_it_does_not_have_is_said(served: tuple[str, str]) -> None:
    url, _ = served
    with pytest.raises(RefinerFailed, match=r"127\.0\.0\.1"):
        refine_by_chat(ASK, Endpoint(url, "nobody/has-this", seconds=60), "endpoint")
