"""Load on a shared studio: many pages open and looking, some people submitting at once; a soak of many jobs; hostile inputs.

    python -m bench.sharing [--pages 100] [--submitting 20] [--soak 200] [--seconds 20]

Real server and worker processes, real history, the fake engine of the tests behind the engine's door, loopback only. Prints what was
lost or doubled, how long page actions took, and what the server holds at the end against the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.history.records import JobState
from app.settings import Settings
from app.sharing.users import Users
from app.sharing.visitor import Role
from app.studio import open_studio

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--submitting", type=int, default=20)
    parser.add_argument("--soak", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        users = Users(data / "users.json")
        tokens = []
        for number in range(options.submitting):
            users.add(f"p{number}", Role.MAKER, None)
            tokens.append(users.add_token(f"p{number}"))
        server, url = start(data)
        try:
            asyncio.run(load(url, tokens, options, data, server))
        finally:
            server.terminate()
            server.wait(40)
        print(f"ended with exit code {server.returncode}")


def start(data: Path) -> tuple[subprocess.Popen[str], str]:
    """The server as it is installed; its address once it answers."""
    environment = os.environ | {"SPROCKET_ENGINE": "tests.fakes:FakeEngine", "SPROCKET_MIN_FREE_BYTES": "0", "FAKE_STEP_SECONDS": "0",
                                "SPROCKET_SUBMITS_A_MINUTE": "100000", "SPROCKET_QUEUE_SIZE": "100000", "SPROCKET_QUEUED_EACH": "10000",
                                "SPROCKET_MAX_WAITING": "10000", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--port", "0", "--data-dir", str(data)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = "http://" + next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
    for _ in range(600):
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return server, url
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not come up")


async def load(url: str, tokens: list[str], options: Any, data: Path, server: subprocess.Popen[str]) -> None:
    """Pages that look, people that submit, then the soak."""
    process = psutil.Process(server.pid)
    took: list[float] = []
    acknowledged: list[str] = []
    limits = httpx.Limits(max_connections=options.pages + 20)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        poll = await event_of(client, tokens[0])
        end = time.monotonic() + options.seconds
        pages = [looking(client, poll, tokens[n % len(tokens)], f"page{n}", end, took) for n in range(options.pages)]
        people = [submitting(client, token, acknowledged, 1) for token in tokens]
        await asyncio.gather(*pages, *people)
        rss = process.memory_info().rss
        took.sort()
        print(f"{options.pages} pages, {options.submitting} submitting at once: {len(took)} page actions, "
              f"median {statistics.median(took) * 1000:.0f} ms, p95 {took[int(len(took) * 0.95)] * 1000:.0f} ms, "
              f"web process {rss / MIB:.0f} MiB (load average {os.getloadavg()[0]:.1f})")
        await drained(data)
        counted(data, acknowledged)
        if options.soak:
            before = held(process, data)
            for _ in range(0, options.soak, len(tokens)):
                await asyncio.gather(*(submitting(client, token, acknowledged, 1) for token in tokens))
                await drained(data)
            counted(data, acknowledged)
            print(f"soak of {options.soak} jobs: before {before}, after {held(process, data)}")


async def event_of(client: httpx.AsyncClient, token: str) -> dict[str, Any]:
    """The page's poll, as a browser would send it."""
    config = (await client.get("/config", headers=bearer(token))).json()
    panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
    tick = next(each for each in config["dependencies"] if each["targets"] == [[panel, "tick"]])
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    return {"fn_index": tick["id"], "data": [values[each] for each in tick["inputs"]]}


async def looking(client: httpx.AsyncClient, poll: dict[str, Any], token: str, session: str, end: float, took: list[float]) -> None:
    """One open page: a poll each half second after the last one was answered."""
    while time.monotonic() < end:
        begun = time.monotonic()
        answer = await client.post("/gradio_api/run/predict", json=poll | {"session_hash": session}, headers=bearer(token))
        assert answer.status_code == 200, answer.text
        took.append(time.monotonic() - begun)
        await asyncio.sleep(0.5)


async def submitting(client: httpx.AsyncClient, token: str, acknowledged: list[str], times: int) -> None:
    """One person, through the named endpoint."""
    for _ in range(times):
        event = (await client.post("/gradio_api/call/submit", json={"data": ["a ball"]}, headers=bearer(token))).json()["event_id"]
        said = (await client.get(f"/gradio_api/call/submit/{event}", headers=bearer(token))).text
        if "event: complete" in said:
            acknowledged.append(json.loads(said.split("data: ", 1)[1].splitlines()[0])[0])
        else:
            print(f"refused: {said[:200]!r}")


async def drained(data: Path) -> None:
    """Until nothing waits or runs."""
    studio = open_studio(settings(data))
    try:
        for _ in range(3000):
            status = studio.status()
            if not status.queued + status.running:
                return
            await asyncio.sleep(0.2)
        raise SystemExit("the queue did not drain")
    finally:
        studio.close()


def counted(data: Path, acknowledged: list[str]) -> None:
    """Every acknowledged job is there once and has one clip."""
    studio = open_studio(settings(data))
    try:
        jobs = [studio.store.jobs.get(job) for job in acknowledged]
        done = [job for job in jobs if job.state is JobState.DONE]
        files = len(list((data / "media").rglob("*.mp4")))
        print(f"acknowledged {len(acknowledged)}, different {len(set(acknowledged))}, done {len(done)}, files {files}: "
              f"lost {len(acknowledged) - len(done)}, doubled {files - len(done)}")
    finally:
        studio.close()


def held(process: psutil.Process, data: Path) -> str:
    """What the web process and the data folder hold."""
    files = [path for path in data.rglob("*") if path.is_file()]
    temporary = sum(path.suffix == ".part" or bool({"uploads", "incoming"} & set(path.parts)) for path in files)
    work = sum(1 for _ in (data / "jobs").iterdir())
    return (f"{process.memory_info().rss / MIB:.0f} MiB, {process.num_fds()} files open, {process.num_threads()} threads, "
            f"{temporary} temporary files, {work} work folders, database {(data / 'history.db').stat().st_size / 1024:.0f} KiB")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def settings(data: Path) -> Settings:
    return Settings(data_dir=data, engine="tests.fakes:FakeEngine", min_free_bytes=0)


if __name__ == "__main__":
    main()
