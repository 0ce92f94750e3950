"""Key frames of a job that waits for its owner: looking at them, making one anew, putting an image in its place, going on.

    job held with code 'review' --edit / go_on--> its request has other `edits`, or `review` off --> it waits for the worker again
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import NotFound
from app.history.records import Job, JobState
from engine.errors import AwaitingReview, InvalidRequest
from engine.inputs import input_file
from engine.interpolate.store import KEYS
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from app.settings import Settings

DRAWN_SEEDS = 2**32
MAX_LIST_BYTES = 2**20
THUMBNAIL_HEIGHT = 160


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """One key frame as it stands."""

    index: int
    """Frame number of the finished clip."""
    path: Path
    source: str
    """'made', 'again' (made anew), 'given' (an image)."""


def waits(job: Job) -> bool:
    """True where the key frames are ready and the owner has not gone on."""
    return job.state is JobState.PAUSED and job.error_code == AwaitingReview.code


def key_frames(settings: Settings, job: Job) -> tuple[KeyFrame, ...]:
    """All key frames of a job that has them, in order. Raises NotFound."""
    workspace = settings.job_dir(job.id) / "work"
    try:
        text = (workspace / KEYS).read_bytes()[:MAX_LIST_BYTES]
        rows = json.loads(text)
        return tuple(_key_frame(settings, workspace, row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotFound("This job has no key frames to look at: they are made first, and gone when the clip is done.") from error


def _key_frame(settings: Settings, workspace: Path, row: dict[str, Any]) -> KeyFrame:
    if "input" in row:
        return KeyFrame(int(row["index"]), settings.inputs_dir / Path(row["input"]).name, "given")
    return KeyFrame(int(row["index"]), workspace / row["file"], "again" if row["again"] else "made")


def picture(frame: KeyFrame) -> bytes:
    """A key frame as WebP, small. Raises NotFound."""
    from PIL import Image

    try:
        with Image.open(frame.path) as image:
            small = image.convert("RGB")
        small.thumbnail((4 * THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
        out = io.BytesIO()
        small.save(out, "WEBP", quality=80)
        return out.getvalue()
    except (OSError, ValueError) as error:
        raise NotFound("This key frame is not here any more.") from error


def strip_count(path: Path | None, shape: float) -> int:
    """How many pictures of `shape` (width / height) stand side by side in a film strip; 0 where there is none."""
    from PIL import Image

    if path is None:
        return 0
    try:
        with Image.open(path) as image:
            return max(1, round(image.width / (image.height * shape)))
    except (OSError, ValueError):
        return 0


def edited(settings: Settings, index: int, what: int | str | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The change of a request that makes key frame `index` anew (None: with a drawn seed) or puts an input in its place.

    Raises InvalidRequest.
    """
    frame_number(index)
    seed_or_input = secrets.randbelow(DRAWN_SEEDS) if what is None else what
    if isinstance(seed_or_input, str):
        GenerationRequest(prompt="-", key_frames=2, edits=((index, seed_or_input),))  # the name's form, before it is looked for
        input_file(settings.inputs_dir, seed_or_input, "image")

    def change(request: dict[str, Any]) -> dict[str, Any]:
        edits = dict(map(tuple, request.get("edits", ()))) | {index: seed_or_input}
        wish = GenerationRequest.from_mapping(request | {"edits": [list(pair) for pair in edits.items()]})
        return wish.to_json()

    return change


def check_inputs(settings: Settings, request: GenerationRequest) -> None:
    """Raises InvalidRequest where a given frame is no input of this studio (any more)."""
    for _index, name in (*request.given, *request.edits):
        if isinstance(name, str):
            input_file(settings.inputs_dir, name, "image")


def approved(request: dict[str, Any]) -> dict[str, Any]:
    """The request whose rounds may begin."""
    return request | {"review": False}


def frame_number(value: object) -> int:
    """Raises InvalidRequest."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest("index", f"must be the number of a key frame, from 0, not {str(value)[:40]!r}.")
    return value
