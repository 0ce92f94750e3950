"""`sprocket interpolate`: more frames between those of a clip or of any video file, in this process, through the same history."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli_batch import clip_json
from app.cli_common import DataDir, Json, ended, opened, say
from app.history.ids import is_id
from app.history.records import JobState
from app.paths import is_file
from engine.errors import InvalidRequest
from engine.events import Event
from engine.interpolate.plan import LABEL
from engine.interpolate.smoothing import GENERATED

CheckOut = Callable[[Path | None, int], None]
Copy = Callable[[Path, Path], Path]


def interpolate_command(check_out: CheckOut, copy: Copy, progress: Callable[[], Callable[[Event], None]]) -> Callable[..., None]:
    """The command, with what `generate` has as well: the check of --out, the copy to it, the lines of progress."""

    def interpolate(
        clip: Annotated[str, typer.Argument(help="Id of a clip, or a video file.")],
        fps: Annotated[float | None, typer.Option(help="Frames per second of the result, up to 120.")] = None,
        slow: Annotated[float | None, typer.Option(help="How many times slower, up to 16.")] = None,
        method: Annotated[str, typer.Option(help="flow: motion interpolation, not generation. generate: by a model, where there is "
                                                 "one for it.")] = "flow",
        then: Annotated[str | None, typer.Option(help="A second clip (its id) or video file: frames are made between the two, and all "
                                                      "of it is one clip.")] = None,
        between: Annotated[int | None, typer.Option(help="How many frames come between them, up to 127; 7 if left out.")] = None,
        out: Annotated[Path | None, typer.Option(help="Also copy the clip to this file.")] = None,
        data_dir: DataDir = None,
        as_json: Json = False,
    ) -> None:
        """More frames for a clip or video: smoother (--fps 24), slowed down (--slow 2), or between two (--then CLIP)."""
        check_out(out, 1)
        started = time.monotonic()
        with opened(data_dir) as studio:
            wish: dict[str, Any] = {"fps": fps, "slow": slow, "method": method, "between": between}
            if then is not None:
                wish["then"] = _source(then, "then")
            job = studio.interpolations.submit(_source(clip), reserve=True, **wish)
            say(f"Job {job.id}, {GENERATED if method == 'generate' else LABEL}:")
            for note in job.notes:
                say(f"  {note}")
            job = studio.run_here(job.id, progress())
            if job.state is not JobState.DONE or job.clip_id is None:
                raise ended(job)
            made = studio.clip(job.clip_id)
            path = studio.clip_path(made.id)
        if out is not None:
            path = copy(path, out)
        wall = time.monotonic() - started
        if as_json:
            print(json.dumps(clip_json(made, path) | {"notes": list(job.notes), "frames": made.frames, "fps": made.fps,
                                                      "wall_seconds": round(wall, 3)}))
            return
        for note in job.notes[2:] if method == "flow" else ():
            say(f"  {note}")
        say(f"{made.width} x {made.height}, {made.frames} frames at {made.fps:g} fps in {wall:.1f} s.")
        print(path)

    return interpolate


def _source(clip: str, field: str = "clip") -> str | Path:
    """A file where there is one of that name, else the id of a clip."""
    if is_file(clip):
        return Path(clip)
    if is_id(clip):
        return clip
    raise InvalidRequest(field, f"is {clip[:200]!r}; there is no such file, and it is no id of a clip. `sprocket history list` prints "
                                 "ids.")
