"""The studio's sets of clips to train on: imported, listed by owner, changed, checked. No torch; encoding is `encode`'s alone.

    data folder/datasets/<id>/dataset.json    the manifest (`training.data.records`)
                              posters/*.webp  one picture of each clip
                              files/          only what came out of an archive, a browser or the hub
                              cache/          encoded clips and captions (`training.data.cache`)

Files of the user are named by path and checksum; nothing ever writes there.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.dataset_runs import unfinished
from app.dataset_work import DatasetWork
from app.errors import NotAllowed, NotFound
from app.lock import FileLock
from app.paths import is_file, is_there
from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError, StorageBlocked
from engine.lines import one_line
from engine.spec import ModelSpec
from engine.video.publish import FULL_ERRORS, storage_errors, write_atomic
from training.data import archive, edits, hub
from training.data.buckets import Rules, rules_of
from training.data.checks import Report, check
from training.data.files import source_path
from training.data.records import (
    CLIP_ID,
    DATASET_ID,
    MAX_NAME_CHARS,
    Clip,
    Dataset,
    DatasetDamaged,
    Rejection,
    checked_name,
    read_json,
    unique,
    write_json,
)
from training.data.sent import inner, list_sent
from training.data.shelf import MANIFEST
from training.data.sources import Listing, Wish, list_source

if TYPE_CHECKING:
    from app.training import Trainings
    from training.data.cache import Built, Progress
    from training.data.describe import Describer
    from training.data.taking import Taken

LOCK_SECONDS = 20.0
LEFT_SECONDS = 24 * 3600.0
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Import:
    """What is to become a dataset."""

    source: str
    """A folder, list, zip or video on this machine, or `owner/name` on the hub."""
    name: str = ""
    wish: Wish = field(default_factory=Wish)
    revision: str | None = None
    """Of a dataset on the hub."""
    files: Path | None = None
    """A folder of files that came from a browser; it is moved into the dataset. Zips in it are unpacked."""


class Datasets:
    """The shelf of datasets of one studio."""

    def __init__(self, settings: Settings, spec: Callable[[str], ModelSpec], see: Callable[[], Describer | None] = lambda: None,
                 trainings: Trainings | None = None) -> None:
        """`see`: the model that describes clips, None where none is set up. `trainings`: the studio's runs, which may need a set."""
        self._settings, self._spec, self._see, self._trainings = settings, spec, see, trainings
        self._guard = threading.Lock()
        self._read: dict[Path, tuple[int, Dataset]] = {}
        self._reports: dict[tuple[Any, ...], Report] = {}
        self.work = DatasetWork()
        """What a page has begun and does not wait for."""

    def close(self) -> None:
        self.work.close()

    @property
    def root(self) -> Path:
        return self._settings.datasets_dir

    def folder(self, dataset_id: str) -> Path:
        """Of one dataset; the id has been checked."""
        return self.root / dataset_id

    # ---- looking

    def list(self, *, owner: str) -> tuple[Dataset, ...]:
        """The owner's, newest first. One whose manifest is damaged is left out; `get` says what is wrong with it."""
        found = []
        for path in self.root.glob(f"*/{MANIFEST}") if self.root.is_dir() else ():
            try:
                found.append(self.get(path.parent.name, owner=owner))
            except (NotFound, DatasetDamaged):
                continue
        return tuple(sorted(found, key=lambda each: (-each.created_at, each.id)))

    def get(self, dataset_id: str, *, owner: str) -> Dataset:
        """Raises NotFound for an unknown id and for somebody else's, DatasetDamaged."""
        path = self.folder(dataset_id) / MANIFEST if isinstance(dataset_id, str) and DATASET_ID.fullmatch(dataset_id) else None
        if path is None or not path.is_file():
            raise _missing(dataset_id)
        stamp = path.stat().st_mtime_ns
        with self._guard:
            known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, read_json(path))
            with self._guard:
                self._read[path] = known
        if known[1].owner != owner:
            raise _missing(dataset_id)
        return known[1]

    def find(self, text: str, *, owner: str) -> Dataset:
        """By its id, or by its name. Raises NotFound."""
        if DATASET_ID.fullmatch(text):
            return self.get(text, owner=owner)
        named = [each for each in self.list(owner=owner) if each.name == text]
        if len(named) != 1:
            raise NotFound(f"{'No dataset is' if not named else f'{len(named)} datasets are'} called {text[:80]!r}. `sprocket dataset "
                           "list` prints them with their ids.")
        return named[0]

    def poster(self, dataset_id: str, clip_id: str, *, owner: str) -> Path:
        """Raises NotFound."""
        clip = self._clip(dataset_id, clip_id, owner)
        return self.folder(dataset_id) / "posters" / f"{clip.id}.webp"

    def video(self, dataset_id: str, clip_id: str, *, owner: str) -> tuple[Path, str]:
        """(file, media type) of a clip that is a video in a file a browser may know. Raises NotFound."""
        clip = self._clip(dataset_id, clip_id, owner)
        path, kind = source_path(clip, self.folder(dataset_id)), {"mp4": "video/mp4", "matroska": "video/webm"}.get(clip.reader)
        if clip.kind != "video" or kind is None or not path.is_file():
            raise NotFound("There is no such video.")
        return path, kind

    def _clip(self, dataset_id: str, clip_id: str, owner: str) -> Clip:
        dataset = self.get(dataset_id, owner=owner)
        clip = next((each for each in dataset.clips if CLIP_ID.fullmatch(str(clip_id)) and each.id == clip_id), None)
        if clip is None:
            raise NotFound("There is no such clip.")
        return clip

    def check(self, dataset: Dataset, model: str, **wish: Any) -> tuple[Report, Rules]:
        """What is wrong with it for `model`, and its buckets. `wish`: as for `rules_of`, which says what it raises."""
        spec = self._spec(model)
        rules = rules_of(spec, **wish)
        key = (dataset, spec.fingerprint, rules)
        with self._guard:
            known = self._reports.get(key)
        if known is None:
            known = check(dataset, spec, rules)
            with self._guard:
                if len(self._reports) > 16:
                    self._reports.clear()
                self._reports[key] = known
        return known, rules

    # ---- taking in

    def add(self, wanted: Import, *, owner: str, told: Told = lambda done, of: None,
            stopped: Callable[[], bool] = lambda: False) -> Dataset:
        """A new dataset. `told(done, of)`: after each clip; `stopped`: end early with what is looked at until then.

        Raises InvalidRequest for a source that is none, StorageBlocked. A set of which nothing can be used is made all the same: its
        list of rejections says why.
        """
        from training.data.taking import take_all  # libraries for videos, which a list of datasets does not need

        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(self.root)
        name = checked_name(wanted.name or _name_of(wanted))
        part = self.root / f".{secrets.token_hex(6)}.part"
        with storage_errors(self.root):
            try:
                part.mkdir(mode=0o700)
                with _source_errors(wanted):
                    listing, source, confined, kept = self._listing(wanted, part)
                    taken, refused = take_all(listing.found, part, inside=confined, progress=told, stopped=stopped)
                dataset = _made(taken, (*kept, *listing.rejections, *refused), owner=owner, name=name, source=source, listing=listing)
                for each in taken:
                    write_atomic(part / "posters" / f"{each.clip.id}.webp", each.poster)
                write_atomic(part / MANIFEST, write_json(dataset))
                part.replace(self.folder(dataset.id))
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return dataset

    def _listing(self, wanted: Import, part: Path) -> tuple[Listing, str, Path | None, tuple[Rejection, ...]]:
        """(what is there, where it is from, where it must stay, what was refused on the way)."""
        files = part / "files"
        wish = replace(wanted.wish, into=files / "tables")
        if wanted.files is not None:
            listing, refused = list_sent(wanted.files, files, wish)
            return listing, wanted.source, files, refused
        path = Path(wanted.source)
        with suppress(RuntimeError):  # `~name` of somebody who is not on this machine
            path = path.expanduser()
        if not is_there(path) and hub.is_dataset_id(wanted.source):
            commit = hub.fetch(wanted.source, files, wanted.revision)
            return list_source(inner(files), wish), f"{wanted.source} at {commit[:12]}", files, ()
        if path.suffix.lower() == ".zip" and is_file(path):
            with storage_errors(self.root):
                files.mkdir()
            refused = archive.unpack(path, files)
            return list_source(inner(files), wish), str(path.absolute()), files, refused
        return list_source(path.absolute(), wish), str(path.absolute()), None, ()  # a list of the user's own may point anywhere

    def token(self, *, owner: str) -> str:
        """Changes whenever a page of datasets would look different."""
        work = [(each.id, each.done, each.of, each.error) for each in self.work.list(owner=owner)]
        return f"{work}|{[(each.id, each.changed_at) for each in self.list(owner=owner)]}"

    def start(self, wanted: Import, *, owner: str) -> None:
        """`add` without waiting for it; `work.list` says how far it is. Raises InvalidRequest (name), NotAllowed; `wanted.files` are gone
        then, as nobody can ask for them again."""
        def work(told: Told, stopped: Callable[[], bool]) -> str:
            try:
                return self.add(replace(wanted, name=name), owner=owner, told=told, stopped=stopped).id
            finally:
                if wanted.files is not None:
                    shutil.rmtree(wanted.files, ignore_errors=True)

        try:
            name = checked_name(wanted.name or _name_of(wanted))
            self.work.start(owner, name, "Importing", work)
        except BaseException as error:
            if wanted.files is not None:
                shutil.rmtree(wanted.files, ignore_errors=True)
                if isinstance(error, NotAllowed):
                    raise NotAllowed(f"{error} Then choose the files again.") from error
            raise

    def start_example(self, *, owner: str) -> None:
        """`example` without waiting for it."""
        self.work.start(owner, "crescents", "Drawing and importing", lambda told, stopped: self.example(owner=owner, told=told).id)

    def start_describing(self, dataset_id: str, *, owner: str) -> None:
        """Captions for all clips without one, by the vision endpoint, without waiting for them. Raises NotFound, NotAllowed."""
        dataset, describer = self.get(dataset_id, owner=owner), self.describer()

        def work(told: Told, stopped: Callable[[], bool]) -> str:
            failed = self.describe(dataset_id, describer, owner=owner, told=told, stopped=stopped)[1]
            if failed:
                raise NotAllowed(f"{len(failed)} clips could not be described: {failed[0][1]}")
            return dataset_id

        self.work.start(owner, dataset.name, "Describing", work, dataset_id)

    def example(self, *, owner: str, told: Told = lambda done, of: None) -> Dataset:
        """The small set of `training.data.example`, drawn now."""
        from training.data import example

        folder = self.root / f".{secrets.token_hex(6)}.example"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with storage_errors(self.root):
                example.write(folder)
            return self.add(Import("an example, drawn by Sprocket", "crescents", files=folder), owner=owner, told=told)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def delete(self, dataset_id: str, *, owner: str) -> Dataset:
        """Removes the set, its posters and its cache; files of the user stay. Raises NotFound, NotAllowed while a run needs it."""
        dataset = self.get(dataset_id, owner=owner)
        if runs := unfinished(self._trainings, dataset) if self._trainings else ():
            raise NotAllowed(f"{dataset.name!r} is needed by {len(runs)} training run{'s' if len(runs) > 1 else ''} not yet done: "
                             f"{', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}. Stop or delete "
                             f"{'them' if len(runs) > 1 else 'it'} first.")
        gone = self.root / f".{dataset.id}.{secrets.token_hex(4)}.gone"
        self.folder(dataset.id).rename(gone)  # gone at once, also where deleting takes a while or is cut short
        shutil.rmtree(gone, ignore_errors=True)
        return dataset

    # ---- changing

    def change(self, dataset_id: str, edit: Callable[[Dataset], Dataset], *, owner: str) -> Dataset:
        """`edit` of `training.data.edits` applied to the manifest as it is now. Raises NotFound, and what `edit` raises."""
        self.get(dataset_id, owner=owner)
        with FileLock(self.folder(dataset_id) / ".lock", wait_seconds=LOCK_SECONDS):
            dataset = self.get(dataset_id, owner=owner)
            changed = edit(dataset)
            if changed is not dataset:
                changed = replace(changed, changed_at=time.time())
                write_atomic(self.folder(dataset_id) / MANIFEST, write_json(changed))
        return changed

    def split_scenes(self, dataset_id: str, clip_id: str, *, owner: str, least_seconds: float = 1.0) -> Dataset:
        """A clip with cuts becomes its scenes. Raises NotFound, InvalidRequest (field 'clip') where there is nothing to split."""
        from training.data.taking import split_at_cuts

        clip = self._clip(dataset_id, clip_id, owner)
        scenes, short = split_at_cuts(clip, self.folder(dataset_id), least_seconds)
        for scene, seen in scenes:
            write_atomic(self.folder(dataset_id) / "posters" / f"{scene.id}.webp", seen.poster)
        return self.change(dataset_id, lambda now: edits.with_scenes(now, clip_id, (scene for scene, _ in scenes), short), owner=owner)

    def describer(self) -> Describer:
        """The model that sees, where one is set up. Raises NotAllowed."""
        found = self._see()
        if found is None:
            raise NotAllowed("No vision endpoint is set up here, so captions are written by hand. docs/datasets.md says more.")
        return found

    def describe(self, dataset_id: str, describer: Describer, *, owner: str, clips: Iterable[str] | None = None, prompt: str | None = None,
                 told: Told = lambda done, of: None,
                 stopped: Callable[[], bool] = lambda: False) -> tuple[Dataset, tuple[tuple[str, str], ...]]:
        """Captions by a model that sees: of the named clips, else of all without one. Returns also (clip id, why) where it failed.

        A model takes its time, and people go on: where all without a caption were meant, one that has got a caption meanwhile keeps it,
        and one that is gone, split perhaps, is passed over. Raises NotFound, StorageBlocked.
        """
        from training.data.describe import description

        dataset = self.get(dataset_id, owner=owner)
        wanted = [dataset.clip(each) for each in clips] if clips is not None else [each for each in dataset.used if not each.caption]
        failed = []
        for done, clip in enumerate(wanted):
            if stopped():
                break
            told(done, len(wanted))
            dataset = self.get(dataset_id, owner=owner)
            if clips is None and not _lacks(dataset, clip.id):
                continue
            try:
                words = description(describer, clip, source_path(clip, self.folder(dataset_id)), prompt)
                dataset = self.change(dataset_id, _said(clip.id, words, describer.name, missing=clips is None), owner=owner)
            except (StorageBlocked, NotFound):  # nothing more can be kept
                raise
            except SprocketError as error:
                failed.append((clip.id, str(error)))
        told(len(wanted), len(wanted))
        return dataset, tuple(failed)

    # ---- encoding

    def encode(self, dataset: Dataset, model: str, *, device: str = "cpu", dtype: str = "fp32",
               progress: Progress = lambda what, done, of: None, stopped: Callable[[], bool] = lambda: False, **wish: Any) -> Built:
        """Everything a trainer reads, encoded once. Imports torch, so not for the web process. Raises as `training.data.cache.build`."""
        from training.data.cache import build

        spec = self._spec(model)
        return build(dataset, self.folder(dataset.id), spec, rules_of(spec, **wish), device=device, dtype=dtype, progress=progress,
                     stopped=stopped)


def _said(clip_id: str, words: str, by: str, *, missing: bool) -> Callable[[Dataset], Dataset]:
    """`missing`: only where there is no caption by now."""
    return lambda now: edits.with_caption(now, clip_id, words, by) if not missing or _lacks(now, clip_id) else now


def _lacks(dataset: Dataset, clip_id: str) -> bool:
    """Whether the clip is there and has no caption."""
    return any(clip.id == clip_id and not clip.caption for clip in dataset.clips)


def _made(taken: list[Taken], rejections: tuple[Rejection, ...], *, owner: str, name: str, source: str, listing: Listing) -> Dataset:
    clips, again = unique(each.clip for each in taken)
    now = time.time()
    return Dataset(id=secrets.token_hex(6), owner=owner, name=name, source=source, layout=listing.layout, created_at=now, changed_at=now,
                   clips=clips, rejections=(*rejections, *again), notes=listing.notes)


@contextmanager
def _source_errors(wanted: Import) -> Iterator[None]:
    """What cannot be read is the source's matter. Raises InvalidRequest (source); our own writing says StorageBlocked by itself, and
    what only writing meets, a full disk, goes through."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRORS:
            raise
        at = error.filename or wanted.source
        raise InvalidRequest("source", f"cannot be read: {str(at)[:200]!r} ({error.strerror or error}).") from error


def _sweep(root: Path) -> None:
    """Deletes what an import or a deletion left behind that was cut short."""
    for path in root.glob(".*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > LEFT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _name_of(wanted: Import) -> str:
    """Cut to what a name may have: whoever gave none shall not be refused for the source's."""
    name = Path(wanted.source).stem if "/" in wanted.source or "\\" in wanted.source else wanted.source
    return one_line(name)[:MAX_NAME_CHARS] or "dataset"


def _missing(dataset_id: object) -> NotFound:
    return NotFound(f"There is no dataset {str(dataset_id)[:40]!r} here. `sprocket dataset list` prints those that are.")


def checked_source(text: str) -> str:
    """Raises InvalidRequest (field 'source') for what can be neither a path nor a name on the hub."""
    if not text.strip() or "\0" in text or len(text) > 1000:
        raise InvalidRequest("source", "must be a folder, a list, a zip or a video on this machine, or owner/name of a dataset on the hub.")
    return text.strip()
