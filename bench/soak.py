"""A thousand jobs through one server: what it holds after each hundred, which should not grow.

    python -m bench.soak [--jobs 1000] [--people 5]

Real server and worker processes, real history, loopback, the fake engine of the tests without waiting. The history has a row for each
job and each clip, and each job a log: these grow with what is kept, so they are printed for each job. Exit code 1 if a job was lost or
doubled, or if memory, open files, threads or temporary files grew between the second hundred and the last.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.sharing.users import Users
from app.sharing.visitor import Role
from bench.sharing import MIB, counted, drained, start, submitting

EACH = 100
MOST_GROWTH = {"web_bytes": 30 * MIB, "worker_bytes": 30 * MIB, "files": 10, "threads": 10, "temporary": 0}
"""Between the second hundred and the last. Python's allocator and pools of threads and connections have some play."""


@dataclass(frozen=True)
class Held:
    """What server and worker hold."""

    web_bytes: int
    worker_bytes: int
    files: int
    threads: int
    temporary: int
    folders: int
    history_bytes: int
    log_bytes: int


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--people", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        users, tokens = Users(data / "users.json"), []
        for number in range(options.people):
            users.add(f"p{number}", Role.MAKER, None)
            tokens.append(users.add_token(f"p{number}"))
        server, url = start(data, {"FAKE_STEP_SECONDS": "0"})
        try:
            return asyncio.run(soak(url, tokens, options.jobs, data, psutil.Process(server.pid)))
        finally:
            server.terminate()
            server.wait(40)


async def soak(url: str, tokens: list[str], jobs: int, data: Path, web: psutil.Process) -> int:
    """The jobs in waves of ten from each; a look after each hundred."""
    acknowledged: list[str] = []
    looks = [held(web, data)]
    begun = time.monotonic()
    print(f"{'jobs':>6}  {'web':>8}  {'worker':>8}  files  threads  temporary  folders  history/job  logs/job  seconds", flush=True)
    limits = httpx.Limits(max_connections=20, keepalive_expiry=3.0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        while len(acknowledged) < jobs:
            before = len(acknowledged)
            for _ in range(2 * EACH // 10 // len(tokens) or 1):
                await asyncio.gather(*(submitting(client, token, acknowledged, []) for token in tokens))
            await drained(data)
            if len(acknowledged) // EACH > before // EACH:
                looks.append(held(web, data))
                say(len(acknowledged), looks, time.monotonic() - begun)
    counted(data, acknowledged)
    first, last = looks[min(2, len(looks) - 1)], looks[-1]
    grown = {name: getattr(last, name) - getattr(first, name) for name in MOST_GROWTH}
    bad = [f"{name} grew by {grown[name]}" for name, most in MOST_GROWTH.items() if grown[name] > most]
    print("grown from the second hundred on: " + ", ".join(f"{name} {value:+}" for name, value in grown.items()))
    print("BAD: " + "; ".join(bad) if bad else "ok")
    files = len(list((data / "media").rglob("*.mp4")))
    return int(bool(bad) or len(set(acknowledged)) != len(acknowledged) or files != len(acknowledged))


def say(jobs: int, looks: list[Held], seconds: float) -> None:
    """One line; the history's and the logs' bytes are those of the jobs since the line before."""
    before, now = looks[-2], looks[-1]
    print(f"{jobs:6}  {now.web_bytes / MIB:4.0f} MiB  {now.worker_bytes / MIB:4.0f} MiB  {now.files:5}  {now.threads:7}  "
          f"{now.temporary:9}  {now.folders:7}  {(now.history_bytes - before.history_bytes) / EACH / 1024:7.1f} KiB  "
          f"{(now.log_bytes - before.log_bytes) / EACH / 1024:4.1f} KiB  {seconds:7.0f}", flush=True)


def held(web: psutil.Process, data: Path) -> Held:
    """What the processes and the data folder hold now."""
    worker = next(child for child in web.children() if "app.queue.worker" in " ".join(child.cmdline()))
    files = [path for path in data.rglob("*") if path.is_file()]
    temporary = sum(path.suffix == ".part" or bool({"uploads", "incoming"} & set(path.parts)) for path in files)
    return Held(web.memory_info().rss, worker.memory_info().rss, web.num_fds() + worker.num_fds(), web.num_threads() + worker.num_threads(),
                temporary, sum(1 for _ in (data / "jobs").iterdir()), (data / "history.db").stat().st_size,
                sum(path.stat().st_size for path in (data / "jobs").rglob("*") if path.is_file()))


if __name__ == "__main__":
    sys.exit(main())
