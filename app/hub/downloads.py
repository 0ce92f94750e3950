"""Asking for downloads, stopping them, and seeing how they are. Everything is in small files, so that any process can.

A download lives exactly as long as its `wish.json`. Whoever holds its lock fetches it; when nobody does, it waits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from app.errors import DataDirBusy, HubOffline, NotAllowed, NotFound
from app.hub.known import current_id
from app.hub.records import DOWNLOADS, MANIFEST, Download, Phase, Pinned, Place, Progress, Wish, load, save_quickly, to_bytes
from app.lock import FileLock
from engine.errors import InvalidRequest, ModelInvalid
from engine.models.catalogue import is_hub_id, places
from engine.spec import read_spec
from engine.video.publish import write_atomic

TRASH = "trash-"
SITES = ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/", "https://hf.co/", "hf.co/")
MAX_REVISION_CHARS = 100


def checked_id(text: object) -> str:
    """A hub id as the hub knows it today; the address of a model's page does as well. Raises InvalidRequest."""
    said = text.strip() if isinstance(text, str) else ""
    for site in (*SITES, os.environ.get("HF_ENDPOINT", "").rstrip("/") + "/"):
        if len(site) > 1 and said.startswith(site):
            said = "/".join(said.removeprefix(site).partition("?")[0].split("/")[:2])
    if not is_hub_id(said):
        raise InvalidRequest("model", f"is {str(text)[:80]!r}; a model on the hub is named owner/name, such as zai-org/CogVideoX-2b. "
                                      "Letters, digits, '-', '_' and '.' only.")
    return current_id(said)


def checked_revision(text: object) -> str | None:
    """A branch, tag or commit; None for the newest. Raises InvalidRequest."""
    if text is None or text == "":
        return None
    if not isinstance(text, str) or len(text) > MAX_REVISION_CHARS or not text.isprintable() or set(text) & set(" ?#%\\") or ".." in text:
        raise InvalidRequest("revision", f"is {str(text)[:60]!r}; it is a branch, a tag or a commit of the repository. Leave it out for "
                                         "the newest.")
    return text


def offline() -> bool:
    """Was this machine told not to use the hub? As huggingface_hub reads it."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def ask(models_dir: Path, model: str, revision: str | None = None, *, again: bool = False) -> Download:
    """Wishes for a model; asking twice is asking once. Returns once the wish is on the disk.

    Without a `revision` the newest is meant, unless some of another has come: it is gone on with. `again`: the earlier wish as it was.

    Raises InvalidRequest (no hub id), HubOffline, NotAllowed (it is here already; it is just being stopped; another revision is being
    fetched), StorageBlocked.
    """
    repo, revision = checked_id(model), checked_revision(revision)
    if offline():
        raise HubOffline("HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it and start Sprocket again, or copy the model's folder "
                         "here and add it by its path.")
    place = Place.of(models_dir, repo)
    known = load(Wish, place.wish)
    if known is not None and busy(place):
        if place.stop.exists():
            raise NotAllowed(f"{repo} is just being stopped. Ask again in a moment.")
        now = seen(place, known)
        if revision not in (None, known.revision, now.revision):
            raise NotAllowed(f"Another revision of {repo} is being fetched ({known.revision or 'the newest'}). Cancel it first.")
        return now
    before = known.revision if known is not None and (again or _found(place, known)) else None
    _refuse_present(models_dir, repo, revision or before)
    place.root.mkdir(parents=True, exist_ok=True)
    wish = Wish(repo=repo, revision=revision or before, asked_at=time.time())
    was = load(Progress, place.progress) or Progress(phase=Phase.WAITING)
    place.stop.unlink(missing_ok=True)
    write_atomic(place.progress, to_bytes(Progress(phase=Phase.WAITING, done_bytes=was.done_bytes, total_bytes=was.total_bytes,
                                                   at=time.time())))
    write_atomic(place.wish, to_bytes(wish))
    return seen(place, wish)


def cancel(models_dir: Path, model: str) -> Download:
    """Asks a download to stop; what has come stays. Raises NotFound."""
    place, wish = _there(models_dir, model)
    place.stop.touch()
    with contextlib.suppress(DataDirBusy), FileLock(place.lock):
        mark_stopped(place)
    return seen(place, wish)


def discard(models_dir: Path, model: str) -> None:
    """Throws an unfinished download away. Raises NotFound, NotAllowed while it runs."""
    place, wish = _there(models_dir, model)
    try:
        with FileLock(place.lock, wait_seconds=0.5):
            place.wish.unlink(missing_ok=True)
            gone = place.root.with_name(f"{TRASH}{secrets.token_hex(6)}")
            place.root.rename(gone)
    except DataDirBusy:
        raise NotAllowed(f"{wish.repo} is being downloaded. Cancel it first.") from None
    shutil.rmtree(gone, ignore_errors=True)


def mark_stopped(place: Place) -> None:
    """Notes that a download has stopped. Only under its lock."""
    before = load(Progress, place.progress) or Progress(phase=Phase.WAITING)
    after = Progress(phase=Phase.STOPPED, done_bytes=before.done_bytes, total_bytes=before.total_bytes, at=time.time())
    save_quickly(place.progress, after)
    place.stop.unlink(missing_ok=True)


def downloads(models_dir: Path) -> tuple[Download, ...]:
    """All that are wished for and not complete, oldest wish first."""
    found = [seen(place, wish) for place, wish in wishes(models_dir)]
    return tuple(sorted(found, key=lambda download: download.asked_at))


def download(models_dir: Path, model: str) -> Download | None:
    """One of them; None when it is complete, or was never asked for."""
    place = Place.of(models_dir, current_id(model))
    wish = load(Wish, place.wish) if is_hub_id(model) else None
    return seen(place, wish) if wish is not None else None


def wishes(models_dir: Path) -> Iterator[tuple[Place, Wish]]:
    root = models_dir / DOWNLOADS
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        wish = load(Wish, folder / "wish.json")
        if wish is not None and is_hub_id(wish.repo):
            yield Place(folder), wish


def seen(place: Place, wish: Wish) -> Download:
    """How a download is: what its process last said, corrected by whether there still is one."""
    progress = load(Progress, place.progress) or Progress(phase=Phase.WAITING)
    if not progress.phase.ended:
        at_work = busy(place)
        if place.stop.exists():
            progress = replace(progress, phase=Phase.STOPPING if at_work else Phase.STOPPED, bytes_per_second=None, eta_seconds=None)
        elif not at_work and progress.phase is not Phase.WAITING:
            progress = replace(progress, phase=Phase.WAITING, bytes_per_second=None, eta_seconds=None, file=None,
                               note="It was interrupted, and goes on where it was.")
    pinned = load(Pinned, place.pinned)
    return Download(repo=wish.repo, revision=pinned.revision if pinned else wish.revision, progress=progress, asked_at=wish.asked_at)


def busy(place: Place) -> bool:
    """Does a process fetch it at this moment? Asks the kernel, so the dead do not count."""
    try:
        with FileLock(place.lock):
            return False
    except DataDirBusy:
        return True
    except OSError:  # its folder is gone
        return False


def manifest(folder: Path) -> Pinned | None:
    """Where a model's folder came from; None for one that this program did not download."""
    return load(Pinned, folder / MANIFEST)


def clean(models_dir: Path) -> None:
    """Removes what deaths in the middle of things left in `.downloads`: the trash, and what has no wish any more."""
    root = models_dir / DOWNLOADS
    for folder in list(root.iterdir()) if root.is_dir() else ():
        if folder.name.startswith(TRASH) or not (folder / "wish.json").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _found(place: Place, wish: Wish) -> bool:
    """Does the hub have that revision? Known once it has named the commit."""
    pinned = load(Pinned, place.pinned)
    return pinned is not None and pinned.asked == wish.revision


def _there(models_dir: Path, model: str) -> tuple[Place, Wish]:
    place = Place.of(models_dir, current_id(model)) if is_hub_id(str(model)) else None
    wish = load(Wish, place.wish) if place else None
    if place is None or wish is None:
        raise NotFound(f"{str(model)[:80]!r} is not being downloaded.")
    return place, wish


def _refuse_present(models_dir: Path, repo: str, revision: str | None) -> None:
    folder = places(models_dir).get(repo)
    if folder is None:
        return
    try:
        read_spec(folder, repo)
    except ModelInvalid:
        return  # damaged: fetched anew
    pinned = manifest(folder)
    if revision is None or (pinned is not None and pinned.revision == revision):
        commit = f", commit {pinned.revision[:12]}" if pinned else ""
        raise NotAllowed(f"{repo} is already here ({folder}{commit}). Delete it first to fetch it anew, or name another revision.")
