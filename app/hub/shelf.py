"""All models in one list: the embedded one, what is on this machine, what is on its way, what could be fetched.

`Hub` is the studio's part for models: pages, API and command line call it and nothing below it. It fetches nothing itself.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import NotAllowed
from app.hub import downloads as going
from app.hub.known import BY_REPO, IMAGE, KNOWN, TEXT, Known, current_id
from app.hub.records import DOWNLOADS, Download
from app.hub.verify import Verified, verify
from app.hub.words import amount
from app.lock import FileLock
from app.settings import Settings
from engine.errors import CannotFit, InvalidRequest, ModelInvalid, ModelNotFound, SprocketError
from engine.models.catalogue import LOCAL_FOLDERS, POCKET, POCKET_I2V, embedded, find, local_folders, places
from engine.spec import ModelSpec, read_spec
from engine.video.publish import storage_errors, write_atomic

MAX_NAME_CHARS = 80
LOCK_SECONDS = 10.0
EMBEDDED = {POCKET: ("Pocket", "Tiny, made here, always there."),
            POCKET_I2V: ("Pocket I2V", "Sets a picture of pocket's world in motion. Tiny, made here, always there.")}
"""Name -> title and what it is about, of the models that ship with Sprocket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One model, as people choose among them."""

    name: str
    """What a request calls it: 'pocket', 'owner/name', or a folder's name."""
    title: str
    about: str
    origin: str
    """'embedded', 'hub' (downloaded), 'linked' (a folder that stays where it is) or 'folder' (any other one among the models)."""
    task: str | None
    """What it can do, in words; None when not known."""
    state: str
    """'ready', 'damaged', 'absent', or a `Phase` of its download."""
    size_bytes: int | None = None
    """On the disk."""
    download_bytes: int | None = None
    """To fetch in all, about; exact once the hub has been asked."""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    memory: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    revision: str | None = None
    folder: Path | None = None
    problem: str | None = None
    """Why it cannot be used."""
    download: Download | None = None

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def to_json(self) -> dict[str, Any]:
        """JSON types only; `progress` is None or what its download says."""
        names = ("name", "title", "origin", "task", "state", "size_bytes", "download_bytes", "width", "height", "frames", "fps", "memory",
                 "licence", "licence_url", "revision", "problem")
        return {name: getattr(self, name) for name in names} | {
            "folder": str(self.folder) if self.folder else None, "progress": self.download.to_json() if self.download else None}


class Hub:
    """`in_use()`: the models of all jobs that run or wait. `memory(name)`: bytes a video of the model's own size takes here;
    raises CannotFit. Threads may share one; nothing to close."""

    def __init__(self, settings: Settings, *, in_use: Callable[[], Iterable[str]], memory: Callable[[str], int]) -> None:
        self._settings, self._in_use, self._memory = settings, in_use, memory

    @property
    def folder(self) -> Path:
        """Where downloaded models lie."""
        return self._settings.models_dir

    @property
    def offline(self) -> bool:
        return going.offline()

    def free_bytes(self) -> int | None:
        """Of the disk the models lie on; None if it cannot be asked."""
        at = self.folder
        while not at.exists() and at != at.parent:
            at = at.parent
        try:
            return shutil.disk_usage(at).free
        except OSError:
            return None

    def cards(self) -> tuple[Card, ...]:
        """Pocket, what is here by name, what is on its way, what is published and not here."""
        coming = {each.repo: each for each in going.downloads(self.folder)}
        here = {**_embedded(), **places(self.folder)}
        linked = local_folders(self.folder)
        cards = [self._present(name, folder, coming.get(name), linked.get(name) == folder) for name, folder in here.items()]
        cards += [self._absent(each.repo, each) for each in coming.values() if each.repo not in here]
        return (*cards, *(self._absent(known.repo, None) for known in KNOWN if known.repo not in here and known.repo not in coming))

    def token(self) -> str:
        """Changes whenever a page of all cards would look different. Cheap: reads no model."""
        coming = ";".join(f"{d.repo}:{d.phase.value}:{d.progress.done_bytes}:{d.progress.total_bytes}:{d.progress.error}:{d.progress.note}"
                          for d in going.downloads(self.folder))
        return f"{','.join(places(self.folder))}|{coming}|{self.offline}"

    def download(self, model: str) -> Download | None:
        """One that is on its way; None when it is complete or nobody asked."""
        return going.download(self.folder, model)

    def ask(self, model: str, revision: str | None = None, *, again: bool = False) -> Download:
        """See `app.hub.downloads.ask`."""
        return going.ask(self.folder, model, revision, again=again)

    def cancel(self, model: str) -> Download:
        return going.cancel(self.folder, model)

    def discard(self, model: str) -> None:
        going.discard(self.folder, model)

    def add(self, text: str) -> str:
        """A hub id is asked for, a folder is noted where it lies. Returns the model's name. Raises as `ask` and `add_folder`."""
        said = text.strip() if isinstance(text, str) else ""
        if said.startswith(("/", "~", "\\\\")) or said[1:3] in (":\\", ":/"):
            return self.add_folder(said)
        return self.ask(said).repo

    def add_folder(self, text: str) -> str:
        """Lists a folder in diffusers layout under its own name; it stays where it is. Raises InvalidRequest, ModelInvalid."""
        try:
            folder = Path(text).expanduser()
            real = folder.is_absolute() and folder.is_dir()
        except (OSError, ValueError, RuntimeError):
            real = False
        if not real:
            raise InvalidRequest("model", f"{text[:200]!r} is no folder on this machine. Give the whole path of a folder in diffusers "
                                          "layout, the one with model_index.json in it.")
        for name, known in {**_embedded(), **places(self.folder)}.items():
            if known.exists() and known.samefile(folder):
                return name
        read_spec(folder)
        with self._noting() as noted:
            name = _free_name(folder.name, {*EMBEDDED, *places(self.folder), *noted})
            noted[name] = folder
        return name

    def delete(self, name: str) -> None:
        """Removes a model from this machine; of a noted folder only the note. Raises NotAllowed (embedded, in use), ModelNotFound."""
        folder = self._place(name)
        self._refuse_in_use(name, folder)
        if local_folders(self.folder).get(name) == folder:
            with self._noting() as noted:
                noted.pop(name, None)
            return
        gone = self.folder / DOWNLOADS / f"{going.TRASH}{secrets.token_hex(6)}"
        with storage_errors(self.folder):
            gone.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(gone)
            try:
                self._refuse_in_use(name, folder)  # a job may have come just now
            except NotAllowed:
                gone.rename(folder)
                raise
        shutil.rmtree(gone, ignore_errors=True)

    def verify(self, name: str) -> Verified:
        """Reads every byte of a model again. Raises ModelNotFound."""
        return verify(name, find(name, models_dir=self.folder))

    # ---- inside

    def _place(self, name: str) -> Path:
        if name in EMBEDDED:
            raise NotAllowed("The embedded model is a part of Sprocket and stays.")
        folder = places(self.folder).get(name)
        if folder is None:
            raise ModelNotFound(f"there is no model {name[:80]!r} in {self.folder}. `sprocket models list` prints what is there.")
        return folder

    def _refuse_in_use(self, name: str, folder: Path) -> None:
        users = 0
        for model in self._in_use():
            try:
                users += model == name or current_id(model) == name or find(model, models_dir=self.folder) == folder
            except ModelNotFound:
                continue
        if users:
            raise NotAllowed(f"{name} is needed by {users} job{'s' if users > 1 else ''} that run{'' if users > 1 else 's'} or "
                             f"wait{'' if users > 1 else 's'}. Let them end or cancel them first.")

    @contextlib.contextmanager
    def _noting(self) -> Iterator[dict[str, Path]]:
        """The noted folders, to be changed: written back before another process may read them to change them too."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{LOCAL_FOLDERS}.lock", wait_seconds=LOCK_SECONDS):
                folders = local_folders(self.folder)
                yield folders
                said = json.dumps({name: str(path) for name, path in folders.items()}, indent=1)
                write_atomic(self.folder / LOCAL_FOLDERS, said.encode())

    def _present(self, name: str, folder: Path, coming: Download | None, linked: bool) -> Card:
        known, pinned, embedded = BY_REPO.get(name), going.manifest(folder), name in EMBEDDED
        origin = "embedded" if embedded else "linked" if linked else "hub" if pinned else "folder"
        title, tiny = EMBEDDED.get(name, (name, ""))
        about = known.about if known else tiny if embedded else str(folder) if origin != "hub" else ""
        said: dict[str, Any] = {
            "name": name, "title": known.title if known else title, "about": about, "folder": folder,
            "origin": origin, "size_bytes": _size(folder),
            "revision": pinned.revision if pinned else None, "download": coming,
            "licence": known.licence if known else "Apache 2.0" if embedded else pinned.licence if pinned else None,
            "licence_url": known.licence_url if known else None}
        try:
            spec = read_spec(folder, name)
        except (ModelInvalid, ModelNotFound) as error:
            return Card(**said, task=None, state=coming.phase.value if coming else "damaged", problem=str(error))
        return Card(**said, task=IMAGE if spec.modes[0] == "i2v" else TEXT,
                    state=coming.phase.value if coming and not coming.phase.ended else "ready",
                    width=spec.native_width, height=spec.native_height, frames=spec.native_frames, fps=spec.fps,
                    memory=self._memory_words(spec) or (known.memory if known else None))

    def _absent(self, repo: str, coming: Download | None) -> Card:
        known: Known | None = BY_REPO.get(repo)
        exact = coming.progress.total_bytes if coming else None
        if known is None:
            return Card(name=repo, title=repo, about="", origin="hub", task=None, state=coming.phase.value if coming else "absent",
                        download_bytes=exact, download=coming, revision=coming.revision if coming else None)
        return Card(name=repo, title=known.title, about=known.about, origin="hub", task=known.task, memory=known.memory,
                    state=coming.phase.value if coming else "absent", download_bytes=exact or known.download_bytes,
                    width=known.width, height=known.height, frames=known.frames, fps=known.fps, licence=known.licence,
                    licence_url=known.licence_url, download=coming, revision=coming.revision if coming else None)

    def _memory_words(self, spec: ModelSpec) -> str | None:
        try:
            need = self._memory(spec.name)
        except CannotFit:
            return "Needs more memory than this machine has"
        except SprocketError:
            return None
        return f"About {amount(need)} of memory here"


def _embedded() -> dict[str, Path]:
    """Those that are there; pocket even if it is not, so that its absence is seen."""
    return {name: folder for name, folder in embedded().items() if name == POCKET or (folder / "model_index.json").is_file()}


def _size(folder: Path) -> int:
    """Bytes of all files; what goes away meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _free_name(wanted: str, taken: set[str]) -> str:
    """A short, printable name that no model has yet."""
    plain = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "-" for c in wanted).strip(" .")[:MAX_NAME_CHARS] or "model"
    names = (plain if number == 1 else f"{plain}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)

