"""Several clips of one `sprocket generate`: one batch, one loaded model, one JSON object."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli_common import say
from app.history.records import Clip, Job, JobState
from engine.errors import SprocketError
from engine.events import Event
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from app.studio import Studio


def clip_json(clip: Clip, path: Path) -> dict[str, Any]:
    """A finished clip as `generate --json` prints it."""
    return {"path": str(path), "clip": clip.id, "job": clip.job_id, "recipe": clip.recipe, "seconds": clip.recipe["seconds"]}


def make_batch(studio: Studio, requests: Sequence[GenerationRequest], made_from: str | None, on_event: Callable[[Event], None],
               started: float, as_json: bool) -> None:
    """Prints every clip as it stands at the end, also where some failed. Raises SprocketError if one did, after printing."""
    jobs = studio.submit_batch(requests, made_from=made_from, reserve=True)
    say(f"Batch {jobs[0].batch_id}: {len(jobs)} clips with {requests[0].model}.")
    jobs = studio.run_all_here([job.id for job in jobs], on_event)
    rows = [_row(studio, job) for job in jobs]
    failed = [row for row in rows if "error" in row]
    if as_json:
        print(json.dumps({"batch": jobs[0].batch_id, "clips": rows, "wall_seconds": round(time.monotonic() - started, 3)}))
    for row in rows:
        if not as_json and "path" in row:
            print(row["path"])
        if "error" in row:
            say(f"sprocket: job {row['job']}: {row['error']['message']}")
    if failed:
        raise SystemExit(1)
    say(f"{len(rows)} clips in {time.monotonic() - started:.1f} s.")


def _row(studio: Studio, job: Job) -> dict[str, Any]:
    if job.state is JobState.DONE and job.clip_id is not None:
        clip = studio.clip(job.clip_id)
        return clip_json(clip, studio.clip_path(clip.id)) | {"prompt": clip.prompt, "seed": clip.seed}
    message = f"ended as {job.state.value}: {job.error or 'see its log'}"
    return {"job": job.id, "prompt": job.request["prompt"], "seed": job.request["seed"],
            "error": {"code": job.error_code or SprocketError.code, "message": message}}
