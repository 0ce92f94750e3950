"""`sprocket queue`: what runs, what waits, and how the devices share it out.

    sprocket queue list [--all] [--json]
    sprocket queue devices                    says how it is
    sprocket queue devices each               one job per GPU: a worker for each
    sprocket queue devices together           all GPUs for one job, as far as it asks for them
"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, print_list
from app.history.records import Job
from app.queue.kinds import job_title
from app.settings import EACH

queue_app = typer.Typer(no_args_is_help=True, help="Jobs: what runs, what waits, on which devices.")


@queue_app.command("list")
def queue_list(
    ended: Annotated[bool, typer.Option("--all", help="Also jobs that have ended.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Jobs that run and wait, in order."""
    with opened(data_dir) as studio:
        rows = [_job_row(job) for job in studio.jobs(active_only=not ended)]
    print_list("jobs", rows, as_json,
               lambda r: f"{r['id']}  {r['state']:<10}  {r['step']}/{r['steps']}  {r['title'][:60]}",
               empty="Nothing runs or waits.")


@queue_app.command("devices")
def queue_devices(
    mode: Annotated[str | None, typer.Argument(metavar="each|together", help="Leave out to see how it is.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """One job per GPU, or all GPUs for one job. A running server changes over at once; running jobs are saved and go on."""
    with opened(data_dir) as studio:
        now = studio.devices() if mode is None else studio.set_devices(mode)
        count = len(studio.hardware().gpus)
    if as_json:
        print(json.dumps({"devices": now, "gpus": count}))
    else:
        words = "one job per GPU" if now == EACH else "all GPUs for one job"
        alike = "" if count > 1 else " (this computer has one GPU at most, so both are the same)"
        print(f"{now}: {words}{alike}")


def _job_row(job: Job) -> dict[str, Any]:
    return dataclasses.asdict(job) | {"state": job.state.value, "title": job_title(job)}
