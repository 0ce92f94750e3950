"""Putting history and files back together after a crash. Finished files are never deleted: what has no place goes to trash/."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Container
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from app import storage
from app.errors import NotFound
from app.history.leases import HELD, Limits
from app.history.records import Clip, Job, JobState, Project
from app.history.schema import job_events, jobs
from app.history.sidecar import (
    clip_file,
    clip_from_mp4,
    read_projects,
    read_sidecar,
    with_real_bytes,
    write_projects,
    write_sidecar,
)
from app.history.store import Store
from app.history.unused import sweep_unused
from app.hub.records import DOWNLOADS
from app.queue.devices import KEY as DEVICES
from app.queue.process import from_json, seen_from_here, surely_dead
from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError, StorageBlocked
from engine.video.publish import FULL_ERRORS, publish

log = logging.getLogger(__name__)
LOCAL = "local"
CHANGEABLE = ("project_id", "name", "favourite", "trashed_at", "published_at")
"""What people change about a clip."""
FORGET_AFTER_SECONDS = 7 * 24 * 3600.0
TEMPORARY_AFTER_SECONDS = 3600.0
"""An upload that stalls, or a slow disk, may leave one alone for minutes."""


def recover(settings: Settings, store: Store) -> None:
    """What a server does before it starts work. Safe beside a `sprocket generate` that is at work in this directory.

    Raises StorageBlocked, OSError.
    """
    now = time.time()
    store.leases.reap(now=now, limits=Limits(settings.max_crashes, settings.max_kills), cause="the studio was stopped")
    place_files(settings, store, now)
    mark_missing(settings, store)
    sweep_parts(settings, store, now)
    sweep_job_folders(settings, store, now)
    sweep_unused(settings, store, now)
    sweep_published(settings, store)
    write_stale_sidecars(settings, store)


def recover_at_start(settings: Settings, store: Store) -> None:
    """The same, and the ballast; what cannot be done now is no reason not to start."""
    try:
        recover(settings, store)
        storage.keep_ballast(settings)
    except (SprocketError, OSError) as error:
        log.error("recovery is not complete: %s", error)


def restore_files(settings: Settings, store: Store) -> int:
    """Every clip that the media folder tells of and the history does not, into the history. Returns how many."""
    restore_projects(settings, store)
    found = sum(adopt_file(settings, store, path, time.time()) for path in _videos(settings))
    write_projects(settings.media_dir, store.projects)
    return found


def restore_projects(settings: Settings, store: Store, *, newer: bool = False) -> None:
    """The projects that the list beside the clips knows. `newer`: it also says what they are called."""
    for owner, project in read_projects(settings.media_dir):
        if store.projects.restore(project, owner=owner) == project.id and newer:
            with suppress(InvalidRequest):  # the name of another one
                store.projects.rename(project.id, project.name, owner=owner)


def retell(settings: Settings, store: Store, copied_at: float) -> None:
    """After a repair from a copy made at `copied_at`: what the sidecars say of clips that it knows happened later, but where the copy
    knew of a change that the sidecar does not tell yet."""
    stale = {clip.id for clip in store.clips.stale()}
    for path in sorted(settings.media_dir.glob("*/*.json")):
        clip = read_sidecar(settings.media_dir, path)
        if clip is not None and not (clip.id in stale and path.stat().st_mtime <= copied_at):
            _say(store, clip)


def _say(store: Store, clip: Clip) -> None:
    """The row of this clip, if there is one, says of what people change the same as `clip`."""
    try:
        row = store.clips.get(clip.id, owner=clip.owner)
    except NotFound:
        return
    if clip.file != row.file:  # a copy of its files, made by hand
        return
    if clip.project_id != row.project_id:
        clip = replace(clip, project_id=_restored(store, clip))
    if any(getattr(row, name) != getattr(clip, name) for name in CHANGEABLE):
        store.clips.retell(replace(row, **{name: getattr(clip, name) for name in CHANGEABLE}))


def _restored(store: Store, clip: Clip) -> str:
    """The id of the clip's project, which is there by then."""
    project = Project(id=clip.project_id, name=f"Recovered {clip.project_id[-4:]}", created_at=clip.created_at)
    return store.projects.restore(project, owner=clip.owner)


def adopt_file(settings: Settings, store: Store, path: Path, now: float) -> bool:
    """One finished mp4 into the history, and its job (if known) to done. False when it has no place there."""
    clip = clip_at(settings, store, path, now)
    if clip is None:
        return False
    clip = replace(clip, project_id=_restored(store, clip))
    if not store.leases.adopt(clip, now=now):
        return False
    write_sidecar(settings.media_dir, clip)
    return True


def clip_at(settings: Settings, store: Store, path: Path, now: float) -> Clip | None:
    """What the sidecar of this mp4 says, else the mp4 itself, with the true size and checksum; None: not ours, or only a name that
    a death came too early to fill (`engine.video.publish`, without hard links). Whose it is says its job where the sidecar does not."""
    if not path.stat().st_size:
        return None
    clip = read_sidecar(settings.media_dir, path.with_suffix(".json"))
    if clip is not None:
        return clip if clip.size_bytes == path.stat().st_size else with_real_bytes(settings.media_dir, clip)
    project = store.projects.default(owner=LOCAL, now=now)
    clip = clip_from_mp4(settings.media_dir, path, owner=LOCAL, project_id=project.id)
    with suppress(NotFound):
        job = None if clip is None else store.jobs.get(clip.job_id)
        return clip if clip is None or job is None else replace(clip, owner=job.owner, project_id=job.project_id)
    return clip


def place_files(settings: Settings, store: Store, now: float) -> None:
    """Adopts finished files without a row; moves to trash/ what belongs to nothing."""
    videos = _videos(settings)
    beside = [path for path in settings.media_dir.glob("*/*") if path.suffix in (".json", ".webp")]
    # In this order: what was published meanwhile is then either still held, or its row is read after it was written.
    in_work = {clip_file(claim.job) for claim in store.leases.held()}
    to_come = {clip_file(job) for job in store.leases.unfinished()}  # a next attempt writes poster and sidecar again
    known = {file for _id, file, _missing in store.clips.files()}
    for path in videos:
        file = path.relative_to(settings.media_dir).as_posix()
        if file in known or file in in_work:
            continue
        try:
            if adopt_file(settings, store, path, now) or store.clips.has_file(file):  # its row may have been written since
                known.add(file)
            else:
                for part in (path, path.with_suffix(".json"), path.with_suffix(".webp")):
                    to_trash(settings, part)
        except (OSError, StorageBlocked) as error:
            known.add(file)  # what is beside it stays as well
            log.warning("%s stays where it is: %s", path, error)
    for path in beside:
        file = path.with_suffix(".mp4").relative_to(settings.media_dir).as_posix()
        if file not in known and file not in to_come and path.exists():
            try:
                to_trash(settings, path)
            except (OSError, StorageBlocked) as error:
                log.warning("%s stays where it is: %s", path, error)


def mark_missing(settings: Settings, store: Store) -> None:
    """Rows whose file is gone are marked, rows whose file is back are unmarked."""
    found = [(clip_id, not (settings.media_dir / file).is_file(), was) for clip_id, file, was in store.clips.files()]
    store.clips.set_missing([clip_id for clip_id, gone, was in found if gone and not was], True)
    store.clips.set_missing([clip_id for clip_id, gone, was in found if was and not gone], False)


def sweep_parts(settings: Settings, store: Store, now: float) -> None:
    """Removes unfinished files that no living attempt writes. Each is named after its job and lease."""
    parts = list(settings.parts_dir.glob("*.part"))  # listed before the leases are read: a new one is then known
    held = {part_name(claim.job, claim.token) for claim in store.leases.held()}
    for path in parts:
        if path.name not in held:
            path.unlink(missing_ok=True)
    for folder, folders, names in os.walk(settings.data_dir):  # unlike rglob, it bears folders that go meanwhile
        if DOWNLOADS in folders:  # where a part is what has come so far, and is gone on with
            folders.remove(DOWNLOADS)
        for path in (Path(folder, name) for name in names if name.endswith(".part")):  # died within an atomic write
            if path.parent != settings.parts_dir and _older(path, now, TEMPORARY_AFTER_SECONDS):
                path.unlink(missing_ok=True)


def sweep_job_folders(settings: Settings, store: Store, now: float) -> None:
    """Sampling states of jobs that will not need them: done, cancelled, unknown, or failed a week ago."""
    for folder in {path.parent for path in settings.jobs_dir.glob("*/*") if path.name in ("work", "preview.webp")}:
        try:
            job: Job | None = store.jobs.get(folder.name)
        except NotFound:
            job = None
        old = _older(folder, now, FORGET_AFTER_SECONDS)
        if (job is None and old) or (job is not None and (
                job.state in (JobState.DONE, JobState.CANCELLED) or (job.state is JobState.FAILED and old))):
            drop_workspace(settings, folder.name)


def sweep_published(settings: Settings, store: Store) -> None:
    """Removes copies for others (`app.published`) of clips that are not published any more, and half-written ones: a crash came
    in between."""
    folder = settings.data_dir / "published"
    for path in folder.glob(".*.part"):
        if _older(path, time.time(), 3600.0):  # a command beside this server may be writing a younger one
            path.unlink(missing_ok=True)
    for path in folder.glob("*.mp4"):
        try:
            store.published.get(path.stem)
        except NotFound:
            path.unlink(missing_ok=True)


def drop_workspace(settings: Settings, job_id: str) -> None:
    """Removes a job's sampling states and preview; its log stays."""
    shutil.rmtree(settings.job_dir(job_id) / "work", ignore_errors=True)
    (settings.job_dir(job_id) / "preview.webp").unlink(missing_ok=True)


def write_stale_sidecars(settings: Settings, store: Store) -> None:
    """Brings sidecars up to their rows. What cannot be written stays marked, is tried again next time, and holds up no other, but for a
    disk that takes nothing."""
    for clip in store.clips.stale():
        if not (settings.media_dir / clip.file).is_file():
            continue
        try:
            write_sidecar(settings.media_dir, clip)
            store.clips.sidecar_written(clip)
        except (OSError, StorageBlocked) as error:
            log.warning("the sidecar of %s was not written: %s", clip.file, error)
            if _takes_nothing(error):
                return


def _takes_nothing(error: Exception) -> bool:
    """Is it the whole disk's fault?"""
    cause = error.__cause__ if isinstance(error, StorageBlocked) else error
    return isinstance(cause, OSError) and cause.errno in FULL_ERRORS


def to_trash(settings: Settings, path: Path) -> None:
    """Moves a file to trash/, under a name that is free there; it may lie on another disk. Raises OSError, StorageBlocked."""
    if not path.exists():
        return
    settings.trash_dir.mkdir(exist_ok=True)
    target = settings.trash_dir / path.name
    number = 1
    while target.exists():
        number += 1
        target = settings.trash_dir / f"{path.stem}-{number}{path.suffix}"
    _move(path, target)
    log.warning("%s belongs to no clip and was moved to %s", path.name, target)


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    part = target.with_name(f".{target.name}.part")
    shutil.copy2(path, part)
    publish(part, target)
    path.unlink()


def part_name(job: Job, token: str) -> str:
    """Name of an attempt's unfinished file."""
    return f"{job.id}-{token}.part"


def carry_jobs(old: Path, store: Store, *, newer: bool = False) -> int:
    """Copies jobs and their log out of a readable older history. Returns how many jobs. Damage ends it quietly.

    `newer`: of a job that is there already, it may know more than `store`.
    """
    try:
        rows, events, names = _rows(old, "SELECT * FROM jobs", "SELECT * FROM job_events ORDER BY id", "SELECT * FROM projects")
    except sqlite3.Error as error:
        log.warning("jobs could not be read from %s: %s", old, error)
        return 0
    projects = _projects(store, names)

    def work(c: Connection) -> int:
        there = {row.id: row.status_seq for row in c.execute(select(jobs.c.id, jobs.c.status_seq))}
        taken = {row["id"]: row for row in rows if row["project_id"] in projects
                 and (row["id"] not in there or (newer and row["status_seq"] > there[row["id"]]))}
        for job_id, row in taken.items():
            values = {name: value for name, value in row.items() if name in jobs.c} | {"project_id": projects[row["project_id"]]}
            if job_id in there:
                c.execute(delete(job_events).where(job_events.c.job_id == job_id))
                c.execute(update(jobs).where(jobs.c.id == job_id).values(values))
            else:
                c.execute(insert(jobs).values(values))
        for event in events:
            if event["job_id"] in taken:
                c.execute(insert(job_events).values({key: event[key] for key in ("job_id", "at", "what", "detail")}))
        return len(taken)
    return store.database.write(work)


def carry_changes(old: Path, store: Store, *, but: Container[str] = ()) -> None:
    """Out of a readable older history, what else it alone knows: changes of clips that their sidecars do not tell yet, save of those in
    `but`, and how the devices work, unless only what was lacking is filled in (`but`). Damage ends it quietly."""
    try:
        changed, chosen, names = _rows(old, "SELECT * FROM clips WHERE sidecar_stale = 1",
                                       f"SELECT value FROM meta WHERE key = '{DEVICES}'", "SELECT * FROM projects")
        said = [json.loads(row["value"]) for row in chosen]
    except (sqlite3.Error, ValueError) as error:
        log.warning("changes of clips could not be read from %s: %s", old, error)
        return
    projects = _projects(store, names)
    for row in changed:
        if row["id"] not in but and row["project_id"] in projects:
            with suppress(NotFound):  # its files are gone
                clip = store.clips.get(row["id"], owner=row["owner"])
                store.clips.retell(replace(clip, project_id=projects[row["project_id"]], name=row["name"], trashed_at=row["trashed_at"],
                                           favourite=bool(row["favourite"]), published_at=row.get("published_at")))
    for mode in said if not but else ():
        store.remember(DEVICES, mode, now=time.time())


def at_work(history: Path, now: float) -> bool:
    """Does a process work on a job of this history, or is it just about to? One that is not seen from here does as long as its lease
    lasts. What cannot be read tells of none."""
    held = ", ".join(f"'{state}'" for state in HELD)
    try:
        [rows] = _rows(history, f"SELECT state IN ({held}) AS held, holder, reserved_by, lease_until FROM jobs "
                                f"WHERE state IN ({held}) OR (state = '{JobState.QUEUED.value}' AND reserved_by IS NOT NULL)")
    except sqlite3.Error:
        return False
    for row in rows:
        who = from_json(row["holder"] if row["held"] else row["reserved_by"])
        if not surely_dead(who) if seen_from_here(who) else row["held"] and (row["lease_until"] or 0.0) > now:
            return True
    return False


def _rows(old: Path, *queries: str) -> list[list[dict[str, Any]]]:
    """What an older history answers. Raises sqlite3.Error where it is damaged."""
    # to write as well: half a transaction beside it has to be taken back before anything can be read
    with closing(sqlite3.connect(f"{old.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [[dict(row) for row in connection.execute(query)] for query in queries]


def _projects(store: Store, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Project of the older history -> that of `store`."""
    return {row["id"]: store.projects.restore(Project(id=row["id"], name=row["name"], created_at=row["created_at"]), owner=row["owner"])
            for row in rows}


def _videos(settings: Settings) -> list[Path]:
    return sorted(settings.media_dir.glob("*/*.mp4"))


def _older(path: Path, now: float, seconds: float) -> bool:
    try:
        return now - path.stat().st_mtime > seconds
    except OSError:
        return False
