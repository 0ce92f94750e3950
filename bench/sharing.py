"""Load on a shared studio: many pages open and looking, some people submitting at once.

    python -m bench.sharing [--pages 100] [--people 100] [--submitting 20] [--seconds 20] [--pocket]

Real server and worker processes, real history, loopback only; behind the engine's door the fake engine of the tests, whose jobs take
two seconds, or with --pocket the real one. A page does what `assets/studio.js` does: it opens, asks the pulse, and has itself redrawn
when that is a new one. Prints what was lost or doubled, how long page actions took, and what the web process takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
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
TICK_SECONDS, SLOWEST_SECONDS = 0.5, 2.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--submitting", type=int, default=20)
    parser.add_argument("--people", type=int, default=100, help="whose pages these are")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pocket", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        users = Users(data / "users.json")
        tokens = []
        for number in range(max(options.people, options.submitting)):
            users.add(f"p{number}", Role.MAKER, None)
            tokens.append(users.add_token(f"p{number}"))
        server, url = start(data, {"SPROCKET_ENGINE": Settings().engine} if options.pocket else {})
        try:
            asyncio.run(load(url, tokens, options, data, server))
        finally:
            server.terminate()
            server.wait(40)
        print(f"ended with exit code {server.returncode}")


def start(data: Path, more: Mapping[str, str] = MappingProxyType({})) -> tuple[subprocess.Popen[str], str]:
    """The server as it is installed; its address once it answers. `more`: of its environment."""
    environment = os.environ | {"SPROCKET_ENGINE": "tests.fakes:FakeEngine", "SPROCKET_MIN_FREE_BYTES": "0", "FAKE_STEP_SECONDS": "0.1",
                                "SPROCKET_SUBMITS_A_MINUTE": "100000", "SPROCKET_QUEUE_SIZE": "100000", "SPROCKET_QUEUED_EACH": "10000",
                                "SPROCKET_MAX_WAITING": "10000", "PYTHONPATH": str(ROOT), **more}
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
    """Pages that open and look, people that submit."""
    took: dict[str, list[float]] = {"open": [], "look": [], "redraw": [], "generate": []}
    acknowledged: list[str] = []
    limits = httpx.Limits(max_connections=options.pages + 20, keepalive_expiry=3.0)  # the server closes after 5
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        events = await events_of(client, tokens[0])
        pages = [Page(client, events, tokens[n % len(tokens)], f"page{n}", took) for n in range(options.pages)]
        enough, looking = asyncio.Event(), []
        for page in pages:  # people come one after the other
            await page.open()
            looking.append(asyncio.create_task(page.look_until(enough)))
        await asyncio.sleep(SLOWEST_SECONDS)
        for name in ("look", "redraw"):
            took[name].clear()
        process, begun = psutil.Process(server.pid), time.monotonic()
        before = process.cpu_times()
        await asyncio.gather(*(submitting(client, token, acknowledged, took["generate"]) for token in tokens[:options.submitting]))
        await asyncio.sleep(begun + options.seconds - time.monotonic())
        enough.set()
        await asyncio.gather(*looking)
        print(f"{options.pages} pages of {options.people} people, {options.submitting} submitting at once "
              f"(load average {os.getloadavg()[0]:.1f})")
        show(took)
        spent = process.cpu_times()
        busy = spent.user + spent.system - before.user - before.system
        print(f"web process {process.memory_info().rss / MIB:.0f} MiB, {busy:.1f} s of processor time in {options.seconds:.0f} s")
        await drained(data)
        counted(data, acknowledged)


def show(took: dict[str, list[float]]) -> None:
    """How long each kind of action took, and all together."""
    every = {**took, "while all look": [one for name, times in took.items() if name != "open" for one in times]}
    for name, times in every.items():
        times = sorted(times)
        print(f"{name:>16} {len(times):6}   median {statistics.median(times) * 1000:6.0f} ms   "
              f"p95 {times[int(len(times) * 0.95)] * 1000:6.0f} ms   longest {times[-1] * 1000:6.0f} ms")


async def events_of(client: httpx.AsyncClient, token: str) -> dict[str, dict[str, Any]]:
    """A page's poll and its opening, as a browser would send them."""
    config = (await client.get("/config", headers=bearer(token))).json()
    panel = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "relay")
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    tick = next(each for each in config["dependencies"] if each["targets"] == [[panel, "tick"]])
    load = next(each for each in config["dependencies"] if each["targets"] and each["targets"][0][1] == "load")
    return {name: {"fn_index": each["id"], "data": [values[one] for one in each["inputs"]]}
            for name, each in (("poll", tick), ("open", load))}


class Page:
    """One open page, as `assets/studio.js` behaves."""

    def __init__(self, client: httpx.AsyncClient, events: dict[str, dict[str, Any]], token: str, session: str,
                 took: dict[str, list[float]]) -> None:
        self._client, self._events, self._headers, self._session, self._took = client, events, bearer(token), session, took

    async def open(self) -> None:
        begun = time.monotonic()
        answer = await self._client.get("/", headers=self._headers | {"accept": "text/html"})
        assert answer.status_code == 200, answer.text
        await self._event("open")
        self._took["open"].append(time.monotonic() - begun)

    async def look_until(self, enough: asyncio.Event) -> None:
        drawn, still = "", 0
        await asyncio.sleep(random.random() * TICK_SECONDS)
        while not enough.is_set():
            begun = time.monotonic()
            answer = await self._client.get("/pulse", headers=self._headers)
            assert answer.status_code == 200, answer.text
            self._took["look"].append(time.monotonic() - begun)
            mark = answer.json()["mark"]
            still = still + 1 if mark == drawn else 0
            if mark != drawn:
                begun, drawn = time.monotonic(), mark
                await self._event("poll")
                self._took["redraw"].append(time.monotonic() - begun)
            await asyncio.sleep(max(TICK_SECONDS, min(SLOWEST_SECONDS, still * 0.1)))

    async def _event(self, name: str) -> None:
        answer = await self._client.post("/gradio_api/run/predict", json=self._events[name] | {"session_hash": self._session},
                                         headers=self._headers)
        assert answer.status_code == 200, answer.text


async def submitting(client: httpx.AsyncClient, token: str, acknowledged: list[str], took: list[float]) -> None:
    """One job of one person, through the named endpoint: until it is acknowledged."""
    begun = time.monotonic()
    event = (await client.post("/gradio_api/call/submit", json={"data": ["a ball"]}, headers=bearer(token))).json()["event_id"]
    said = (await client.get(f"/gradio_api/call/submit/{event}", headers=bearer(token))).text
    took.append(time.monotonic() - begun)
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


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def settings(data: Path) -> Settings:
    return Settings(data_dir=data, engine="tests.fakes:FakeEngine", min_free_bytes=0)


if __name__ == "__main__":
    main()
