"""From nothing to a clip, and what the server weighs.

    generate   `sprocket generate` as its own process, cold then warm file cache: wall seconds and seconds per stage
    server     resident memory of the web process, whether torch is mapped into it
    answers    over HTTP with gradio_client: click to job id, cancel to cancelled, submit to done

    python -m bench.startup
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

PROMPT = "a red ball moves from left to right over a meadow"
ROOT = Path(__file__).resolve().parents[1]
GENERATE_LIMIT = 20.0
FEEDBACK_LIMIT = 1.0
CANCEL_LIMIT = 2.0
RSS_LIMIT = 400e6


def generate(data_dir: str) -> tuple[float, dict[str, float]]:
    """(wall seconds of the process, seconds by stage)."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "app.cli", "generate", "--prompt", PROMPT, "--seed", "1", "--json",
                           "--data-dir", data_dir], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, json.loads(done.stdout)["seconds"]


@contextmanager
def server(data_dir: str) -> Iterator[tuple[psutil.Process, str]]:
    """A running studio on a free port: (web process, address)."""
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", data_dir],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urlopen(address, timeout=5).read()
                break
            except (URLError, OSError):
                time.sleep(0.25)
        yield psutil.Process(process.pid), address
    finally:
        process.terminate()
        process.wait(40)


def has_torch(process: psutil.Process) -> bool:
    """Whether libtorch is mapped into the process."""
    return any("libtorch" in entry.path for entry in process.memory_maps())


def wait_for(client: object, job: str, states: set[str], seconds: float) -> tuple[str, float]:
    """(state, seconds until it was one of `states`)."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        state = client.predict(job, api_name="/job")["state"]  # type: ignore[attr-defined]
        if state in states:
            return state, time.perf_counter() - started
        time.sleep(0.1)
    raise TimeoutError(f"job {job} was not {states} within {seconds} s")


def answers(address: str) -> dict[str, float]:
    """Seconds for the answers a person waits for, against a worker that is warm."""
    from gradio_client import Client
    client = Client(address, verbose=False)
    first = client.predict(prompt=PROMPT, api_name="/submit")
    _, cold = wait_for(client, first, {"done"}, 300)
    started = time.perf_counter()
    job = client.predict(prompt=PROMPT, steps=100, api_name="/submit")
    submitted = time.perf_counter() - started
    wait_for(client, job, {"running"}, 60)
    time.sleep(2)
    started = time.perf_counter()
    client.predict(job, api_name="/cancel")
    wait_for(client, job, {"cancelled"}, 60)
    cancelled = time.perf_counter() - started
    last = client.predict(prompt=PROMPT, api_name="/submit")
    _, warm = wait_for(client, last, {"done"}, 300)
    return {"submit to id": submitted, "cancel to cancelled": cancelled, "first job": cold, "warm job": warm}


def main() -> None:
    """Prints all figures against their targets."""
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            wall, stages = generate(folder)
            print(f"generate ({name}): {wall:.1f} s wall (target <= {GENERATE_LIMIT:.0f} warm)  "
                  + "  ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items()))
        with server(folder) as (web, address):
            times = answers(address)
            rss, torch = web.memory_info().rss, has_torch(web)
    limits = {"submit to id": FEEDBACK_LIMIT, "cancel to cancelled": CANCEL_LIMIT}
    for what, seconds in times.items():
        print(f"{what}: {seconds:.2f} s" + (f" (target <= {limits[what]:.0f})" if what in limits else ""))
    print(f"web process: {rss / 1e6:.0f} MB resident (target <= {RSS_LIMIT / 1e6:.0f}), torch {'mapped' if torch else 'not in it'}")


if __name__ == "__main__":
    main()
