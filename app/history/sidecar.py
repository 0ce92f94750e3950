"""The files that tell the history's story without the history: a sidecar beside each clip, a list of projects.

    media/2026-11/20261120-213045_pocket_s7_ab12cd34.mp4  .webp  .json
    media/projects.json

A sidecar is the clip's recipe plus an object `clip` with everything its row says.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from app.history.clips import MAX_NAME_CHARS, Projects, checked_name
from app.history.ids import is_id
from app.history.records import Clip, Job, Project
from engine.digest import file_sha256
from engine.errors import InvalidRequest, StorageBlocked
from engine.interpolate.plan import LABEL
from engine.interpolate.recipe import KIND as INTERPOLATE
from engine.interpolate.request import InterpolateRequest
from engine.request import GenerationRequest
from engine.video.publish import write_atomic
from engine.video.recipe import read_recipe

log = logging.getLogger(__name__)
PROJECTS_FILE = "projects.json"
FILE = re.compile(r"[0-9]{4}-[0-9]{2}/[A-Za-z0-9._-]{1,120}\.mp4\Z")
NAME_WORDS = 8
LAST_SECOND = 253_402_300_799.0 - 86_400.0
"""The last day that a calendar can show in every time zone."""


def clip_file(job: Job) -> str:
    """Path of the job's mp4 below the media folder. A pure function of the job: every attempt lands on the same name.

    The last eight digits of the id are its random ones; the first say the time, which is in the name anyway.
    """
    at = time.gmtime(job.created_at)
    named = Path(str(job.request.get("model") or job.kind)).name.lower()  # what no model made is called after its kind
    model = re.sub(r"[^a-z0-9-]+", "-", named).strip("-")[:40] or "model"
    seed = "" if job.request.get("seed") is None else f"_s{job.request['seed']}"
    return f"{time.strftime('%Y-%m', at)}/{time.strftime('%Y%m%d-%H%M%S', at)}_{model}{seed}_{job.id[-8:]}.mp4"


def title(prompt: str) -> str:
    """A clip's first name: the prompt's first words."""
    words = prompt.split()
    return " ".join(words[:NAME_WORDS])[:80] + ("..." if len(words) > NAME_WORDS else "")


def source_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Of the recipe of an interpolated clip: `name` for the new clip, and the `prompt`, `model` and `seed` that it comes from.

    Raises KeyError, TypeError, InvalidRequest for a recipe that was tampered with.
    """
    request, source = InterpolateRequest.from_mapping(recipe["request"]), recipe["source"]
    called = " ".join((request.title or str(source.get("title") or "video")).split())
    rate = ("filled between" if request.then else f"{request.slow:g}x slower" if request.slow is not None else f"{request.fps:g} fps")
    return {"name": f"{called[:60]} ({rate})", "title": request.title, "prompt": str(source.get("prompt") or called),
            "model": str(source.get("model") or ""), "seed": int(source.get("seed") or 0)}


def _made_by(recipe: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """(name, prompt, model, seed) for the row of a clip whose file is all that is left."""
    if recipe.get("kind") == INTERPOLATE:
        source = source_of(recipe)
        made_by = source["model"] if recipe["request"].get("method") == "generate" else LABEL
        return source["name"], source["prompt"], made_by, source["seed"]
    request = GenerationRequest.from_mapping(recipe["request"])
    if request.seed is None:
        raise InvalidRequest("seed", "is missing.")
    return title(request.prompt), request.prompt, request.model, request.seed


def write_sidecar(media_dir: Path, clip: Clip) -> None:
    """Atomically. Raises OSError, StorageBlocked."""
    values = asdict(clip)
    recipe = values.pop("recipe")
    values.pop("missing")
    text = json.dumps(recipe | {"clip": values}, ensure_ascii=False, indent=1, sort_keys=True)
    write_atomic((media_dir / clip.file).with_suffix(".json"), text.encode())


def read_sidecar(media_dir: Path, path: Path) -> Clip | None:
    """The clip that a sidecar below `media_dir` tells of; None when it is no sound sidecar. The file is untrusted."""
    try:
        recipe = read_recipe(path)
        values = recipe.pop("clip")
        file = PurePosixPath(path.relative_to(media_dir)).with_suffix(".mp4").as_posix()
        values["published_at"] = None if values["trashed_at"] is not None else values.get("published_at")  # older ones do not say
        clip = Clip(**{field.name: values[field.name] for field in fields(Clip)
                       if field.name not in ("recipe", "missing", "file")}, recipe=recipe, file=file)
        return clip if _sound(clip) else None
    except (InvalidRequest, KeyError, TypeError, ValueError, OverflowError):
        return None


def _sound(clip: Clip) -> bool:
    texts = (clip.owner, clip.name, clip.prompt, clip.model, clip.sha256)
    counts = (clip.size_bytes, clip.width, clip.height, clip.frames, clip.seed)
    times = (clip.created_at, *(at for at in (clip.trashed_at, clip.published_at) if at is not None))
    if not all(isinstance(text, str) for text in texts):
        return False
    for text in texts:
        text.encode()  # lone surrogates raise ValueError
    return (all(map(is_id, (clip.id, clip.job_id, clip.project_id)))
            and all(type(count) is int and 0 <= count < 2**63 for count in counts)
            and all(count > 0 for count in (clip.width, clip.height, clip.frames))
            and _between(clip.fps, 0.01, 1000.0) and all(_between(at, 0.0, LAST_SECOND) for at in times)
            and len(clip.name) <= MAX_NAME_CHARS
            and isinstance(clip.favourite, bool) and (clip.made_from is None or is_id(clip.made_from))
            and FILE.match(clip.file) is not None)


def _between(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def clip_from_mp4(media_dir: Path, path: Path, *, owner: str, project_id: str) -> Clip | None:
    """The clip in an mp4 that has lost its sidecar, from the recipe inside it; None when it is not one of ours."""
    from engine.video.probe import probe  # PyAV takes 0.3 s, and this is seldom needed

    try:
        recipe = read_recipe(path)
        name, prompt, model, seed = _made_by(recipe)
        if not is_id(recipe.get("clip_id")):
            return None
        facts = probe(path)
        made_from = recipe.get("made_from")
        clip = Clip(id=recipe["clip_id"], owner=owner, project_id=project_id, job_id=recipe["clip_id"],
                    name=name, prompt=prompt, model=model, seed=seed,
                    file=path.relative_to(media_dir).as_posix(), sha256=file_sha256(path), size_bytes=path.stat().st_size,
                    width=facts.width, height=facts.height, frames=facts.frames, fps=facts.fps, recipe=recipe,
                    favourite=False, made_from=made_from if is_id(made_from) else None, created_at=path.stat().st_mtime)
        return clip if _sound(clip) else None
    except (InvalidRequest, KeyError, TypeError, ValueError, OSError) as error:
        log.info("%s holds no clip of this studio: %s", path.name, error)
        return None
    except Exception as error:  # noqa: BLE001  (damaged video: PyAV's errors and OutputRejected; recovery must go on)
        log.warning("%s cannot be read: %s", path.name, error)
        return None


def with_real_bytes(media_dir: Path, clip: Clip) -> Clip:
    """`clip` with size and checksum of the file that is really there."""
    path = media_dir / clip.file
    return replace(clip, sha256=file_sha256(path), size_bytes=path.stat().st_size)


def write_projects(media_dir: Path, projects: Projects) -> None:
    """The names of all projects, beside the clips. Best effort: the names are also in the history."""
    rows = [{"owner": owner, "id": project.id, "name": project.name, "created_at": project.created_at}
            for owner, project in projects.every()]
    try:
        write_atomic(media_dir / PROJECTS_FILE, json.dumps(rows, ensure_ascii=False, indent=1).encode())
    except (OSError, StorageBlocked) as error:
        log.warning("the list of projects was not written: %s", error)


def read_projects(media_dir: Path) -> tuple[tuple[str, Project], ...]:
    """(owner, project) from the list beside the clips; what is not sound is left out."""
    try:
        rows: Any = json.loads((media_dir / PROJECTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(found for row in rows if (found := _project(row)) is not None) if isinstance(rows, list) else ()


def _project(row: Any) -> tuple[str, Project] | None:
    """(owner, project) of one row of the list; None where it is not sound."""
    try:
        owner, project = str(row["owner"]), Project(id=row["id"], name=checked_name(row["name"]), created_at=float(row["created_at"]))
        sound = is_id(project.id) and _between(row["created_at"], 0.0, LAST_SECOND) and owner.isprintable() and project.name == row["name"]
        return (owner, project) if sound else None
    except (ValueError, KeyError, TypeError, OverflowError, InvalidRequest):
        return None
