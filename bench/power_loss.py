"""Power loss, as a model: what a disk may hold after each step of taking a job, making its clip and publishing it.

    python -m bench.power_loss [--jobs 3]

While jobs are taken and run in this process, each fsync, link, rename, deletion and new folder, and each commit of the history, is noted
in order. Then every prefix of the notes is a moment at which the power goes. What a file system promises then is little: a file has the
bytes of its last fsync, a name is where it was at the last fsync of its folder, and of all later ones nobody knows. So each prefix is laid
out three times: later names and bytes lost; later names kept and unsynced bytes torn in the middle; names kept and those bytes gone.
SQLite's own promise is taken as given (synchronous=FULL): a commit that returned is there. Each such disk is opened, recovered and worked
on as by a server that starts. Exit code 1 if an acknowledged job is lost, or a file is visible that is not whole.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.history.leases import Limits
from app.history.records import JobState
from app.history.recovery import recover
from app.queue.executor import Workplace, perform
from app.queue.process import this_process
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.digest import file_sha256
from engine.errors import SprocketError
from engine.video.probe import probe
from tests.fakes import SPEC, FakeEngine, FakeModels

VARIANTS = ("lost", "torn", "empty")
LATER = 7200.0
"""Seconds after which every lease is over."""


@dataclass(frozen=True)
class Note:
    """One step, in order."""

    kind: str
    """'fsync file', 'fsync folder', 'name' (a file has this name from now on), 'gone', 'folder', 'commit', 'ack'."""
    path: str = ""
    file: int = 0
    """Number of the file (its inode)."""
    data: bytes = b""


@dataclass
class Recorder:
    """Notes what this process does below `root`."""

    root: Path
    notes: list[Note] = field(default_factory=list)

    def _below(self, path: Any) -> str | None:
        text = os.path.abspath(os.fspath(path))  # noqa: PTH100  (resolve() follows links)
        return text if text.startswith(f"{self.root}{os.sep}") and "history.db" not in text else None

    def fsynced(self, fd: int) -> None:
        path = self._below(Path(f"/proc/self/fd/{fd}").readlink())
        if path is None:
            return
        if os.path.isdir(path):  # noqa: PTH112
            self.notes.append(Note("fsync folder", path))
        else:
            self.notes.append(Note("fsync file", path, os.fstat(fd).st_ino, Path(path).read_bytes()))

    def named(self, path: Any) -> None:
        if (text := self._below(path)) is not None:
            self.notes.append(Note("name", text, Path(text).stat().st_ino, Path(text).read_bytes()))

    def gone(self, path: Any) -> None:
        if (text := self._below(path)) is not None:
            self.notes.append(Note("gone", text))

    def folder(self, path: Any) -> None:
        if (text := self._below(path)) is not None:
            self.notes.append(Note("folder", text))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Stands before the calls of `os` that change names or make bytes durable."""
        real = {name: getattr(os, name) for name in ("fsync", "link", "replace", "rename", "unlink", "mkdir")}

        def after(name: str, note: Any) -> Any:
            def call(*args: Any, **more: Any) -> Any:
                done = real[name](*args, **more)
                note(*args)
                return done
            return call

        def moved(source: Any, target: Any, *_: Any) -> None:
            self.gone(source)
            self.named(target)

        os.fsync, os.unlink = after("fsync", self.fsynced), after("unlink", self.gone)
        os.mkdir = after("mkdir", lambda path, *_: self.folder(path))
        os.link = after("link", lambda _source, target: self.named(target))
        os.replace = os.rename = after("replace", moved)
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)


def record(folder: Path, jobs: int) -> list[Note]:
    """Takes and runs `jobs` jobs on an empty `folder`, and notes each step."""
    settings = settings_for(folder)
    with contextlib.closing(open_studio(settings)) as studio:
        recorder = Recorder(folder)
        note_commits(studio, recorder)
        with recorder.watching():
            for number in range(jobs):
                job = studio.submit({"prompt": f"power {number}", "seed": number})
                recorder.notes.append(Note("ack", job.id))
                work(studio)
    return recorder.notes


def note_commits(studio: Studio, recorder: Recorder) -> None:
    """After each transaction that wrote, the whole history as it is."""
    write = studio.store.database.write

    def noted(work: Any) -> Any:
        done = write(work)
        recorder.notes.append(Note("commit", data=studio.settings.db_path.read_bytes()))
        return done

    studio.store.database.write = noted  # type: ignore[method-assign]
    recorder.notes.append(Note("commit", data=studio.settings.db_path.read_bytes()))


def work(studio: Studio) -> None:
    """Does what a worker does until nothing waits."""
    place = Workplace(studio.settings, studio.store, FakeEngine(), FakeModels(), threading.Event())
    while claim := studio.store.leases.claim(this_process(), now=time.time()):
        perform(place, claim)


def settings_for(folder: Path) -> Settings:
    return Settings(data_dir=folder, engine="tests.fakes:FakeEngine", min_free_bytes=0, ballast_bytes=0, preview_seconds=0.0)


def lay_out(notes: list[Note], root: Path, folder: Path, variant: str) -> set[str]:
    """What the disk may hold after `notes`, below `folder` (new). Returns the jobs acknowledged by then.

    `root`: where the notes were made.
    """
    synced: dict[int, bytes] = {}
    whole: dict[int, bytes] = {}
    durable: dict[str, int | None] = {}  # path -> file, None: a folder
    later: dict[str, int | str | None] = {}
    acknowledged, history = set(), b""
    for note in notes:
        if note.kind == "fsync file":
            synced[note.file] = note.data
        elif note.kind in ("name", "folder"):
            later[note.path] = note.file if note.kind == "name" else None
            whole[note.file] = note.data
        elif note.kind == "gone":
            later[note.path] = "gone"
        elif note.kind == "fsync folder":
            for path in [path for path in later if os.path.dirname(path) == note.path]:  # noqa: PTH120
                _settle(durable, path, later.pop(path))
        elif note.kind == "commit":
            history = note.data
        else:
            acknowledged.add(note.path)
    if variant != "lost":
        for path, what in later.items():
            _settle(durable, path, what)
    folder.mkdir(parents=True)
    settings_for(folder).make_folders()  # were there before
    for path in sorted(durable):
        _make(folder / Path(path).relative_to(root), durable[path], synced, whole, variant)
    (folder / "history.db").write_bytes(history)
    return acknowledged


def _settle(durable: dict[str, int | None], path: str, what: int | str | None) -> None:
    if what == "gone":
        durable.pop(path, None)
    else:
        durable[path] = what  # type: ignore[assignment]


def _make(path: Path, file: int | None, synced: dict[int, bytes], whole: dict[int, bytes], variant: str) -> None:
    """A name whose folder's own name was lost is not there."""
    if file is None:
        if path.parent.is_dir():
            path.mkdir(exist_ok=True)
        return
    if not path.parent.is_dir():
        return
    data = whole[file]
    path.write_bytes(synced[file] if file in synced else data[: len(data) // 2] if variant == "torn" else b"")


def examine(folder: Path, acknowledged: set[str]) -> list[str]:
    """Opens what is there as a server that starts, later, and lets it work. What is wrong in the end."""
    settings = settings_for(folder)
    settings.make_folders()
    wrong = []
    with contextlib.closing(open_studio(settings)) as studio:
        recover(settings, studio.store)
        seen = [path.name for path in settings.media_dir.glob("*/*.mp4") if not is_whole(path)]
        wrong += [f"{name} is visible and not whole" for name in seen]
        studio.store.leases.reap(now=time.time() + LATER, limits=Limits(settings.max_crashes, settings.max_kills))
        work(studio)
        for job_id in acknowledged:
            try:
                job = studio.job(job_id)
            except SprocketError:
                wrong.append(f"job {job_id} is lost")
                continue
            clip = studio.clip(job.clip_id) if job.clip_id else None
            path = settings.media_dir / clip.file if clip else None
            if job.state is not JobState.DONE or clip is None or path is None:
                wrong.append(f"job {job_id} ended {job.state.value}: {job.error}")
            elif not path.exists() or not is_whole(path) or file_sha256(path) != clip.sha256:
                wrong.append(f"the clip of job {job_id} is not whole")
    return wrong


def is_whole(path: Path) -> bool:
    try:
        return probe(path).frames == SPEC.native_frames
    except SprocketError:
        return False


def replay(notes: list[Note], root: Path, folder: Path, *, each: int = 1) -> tuple[int, list[str]]:
    """(how many disks were tried, what was wrong). `each`: only every so many prefixes, and always the last."""
    tried, wrong = 0, []
    for end in sorted({*range(2, len(notes), each), len(notes)}):
        for variant in VARIANTS:
            disk = folder / f"{end}-{variant}"
            acknowledged = lay_out(notes[:end], root, disk, variant)
            wrong += [f"after {end} ({notes[end - 1].kind} {Path(notes[end - 1].path).name}), {variant}: {one}"
                      for one in examine(disk, acknowledged)]
            tried += 1
    return tried, wrong


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        root = Path(temporary) / "data"
        root.mkdir()
        notes = record(root, options.jobs)
        kinds = {kind: sum(note.kind == kind for note in notes) for kind in sorted({note.kind for note in notes})}
        print(f"{options.jobs} jobs, {len(notes)} steps: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        tried, wrong = replay(notes, root, Path(temporary) / "disks")
        for line in wrong[:20]:
            print(f"BAD {line}")
        print(f"{tried} disks after a power loss: {len(wrong)} wrong; no acknowledged job lost, no bad file seen" if not wrong
              else f"{tried} disks after a power loss: {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
