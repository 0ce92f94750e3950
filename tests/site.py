"""A whole running site for tests: real history, real worker process with the fake engine behind its door, real HTTP."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.studio import open_studio
from app.ui.server import build_app

KEPT_PORT: list[int] = []
"""The port that this process's sites take one after the other; 0 until the first; empty where each may have its own."""


@dataclass(frozen=True)
class Site:
    url: str
    studio: Any


@contextlib.contextmanager
def serving(studio: Any, access: Any = None) -> Iterator[Site]:
    """The pages over any studio, on a port of this machine; `access`: with a sign-in."""
    with listening() as bound:
        config = uvicorn.Config(build_app(studio, access), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started, "the server to start")
        try:
            yield Site(f"http://127.0.0.1:{bound.getsockname()[1]}", studio)
        finally:
            server.should_exit = True
            thread.join(10)


def listening() -> socket.socket:
    """On the port that is kept, unless another site is still there; else on any free one."""
    for port in (*KEPT_PORT, 0):
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
            bound.listen()
        except OSError:
            bound.close()
            continue
        if KEPT_PORT == [0]:
            KEPT_PORT[0] = bound.getsockname()[1]
        return bound
    raise AssertionError("this machine has no free port")


@contextlib.contextmanager
def whole_site(folder: Path, *, step_seconds: float = 0.15) -> Iterator[Site]:
    """The pages over the real studio, with a supervisor and its worker."""
    os.environ["FAKE_STEP_SECONDS"] = str(step_seconds)
    try:
        with supervised_site(Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0, preview_seconds=0.0)) as site:
            yield site
    finally:
        os.environ.pop("FAKE_STEP_SECONDS", None)


@contextlib.contextmanager
def supervised_site(settings: Settings, patience: float = 40.0) -> Iterator[Site]:
    """The pages over the real studio of `settings`, with a supervisor, once its worker is there (`patience` seconds at most)."""
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        with contextlib.closing(open_studio(settings)) as studio, serving(studio) as site:
            wait_for(lambda: studio.status().worker_alive, "the worker", patience)
            yield site
    finally:
        supervisor.close()


def wait_for(check: Callable[[], Any], what: str, seconds: float = 40.0) -> Any:
    """The first true answer of `check`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = check()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")
