"""The process that downloads one model. It may die at any moment; the next one goes on where it was.

    python -m app.hub.fetch OWNER/NAME [--parent PID]         the wish is already in models_dir/.downloads

asked -> pinned to a commit -> room on the disk? -> file by file, each with its checksum -> read_spec accepts it -> renamed into
its place, all at once. How it stands is in progress.json all the while. No torch.
"""

from __future__ import annotations

import argparse
import functools
import logging
import shutil
import sys
import time
from collections.abc import Callable

from app.errors import DataDirBusy, HubUnreachable
from app.hub import remote
from app.hub.choose import RemoteFile, choose
from app.hub.meter import Meter
from app.hub.records import MANIFEST, Phase, Pinned, Place, Progress, Wish, load, to_bytes
from app.hub.words import amount
from app.lock import FileLock
from app.settings import Settings
from engine.errors import Cancelled, CannotFit, ModelInvalid, SprocketError, StorageBlocked
from engine.lifeline import die_with_parent
from engine.spec import read_spec
from engine.video.publish import sync_dir, write_atomic

log = logging.getLogger(__name__)
WAITS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the hub is asked again, longer each time until a byte comes."""
FIRST_ASKS = 2
"""How often the hub is asked what the model consists of before saying that it is not there."""
BUSY_EXIT, UNTOLD_EXIT = 4, 5


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 however the download ended (progress.json says how), 4 when another process has it, 5 when how it
    ended could not be written there: whoever starts the next one must not take it for one that waits."""
    parser = argparse.ArgumentParser(prog="python -m app.hub.fetch", description="Downloads one model that was asked for.")
    parser.add_argument("repo")
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s download %(levelname)s %(name)s: %(message)s")
    if options.parent is not None:
        die_with_parent(options.parent)
    settings = Settings()
    place = Place.of(settings.models_dir, options.repo)
    wish = load(Wish, place.wish)
    if wish is None:
        return 0
    try:
        with FileLock(place.lock, wait_seconds=2.0):
            return 0 if Fetching(settings, place, wish).run() else UNTOLD_EXIT
    except DataDirBusy:
        return BUSY_EXIT
    except FileNotFoundError:
        if place.wish.exists():
            raise  # else: thrown away while this process started
    return 0


class Fetching:
    """One attempt at one download, under its lock."""

    def __init__(self, settings: Settings, place: Place, wish: Wish) -> None:
        self._settings, self._place, self._wish = settings, place, wish
        self._meter = Meter(place.progress)

    def run(self) -> bool:
        """To the end, whatever that is. False where nobody can read what it was. Raises only for what is a mistake in this program."""
        try:
            pinned = self._pin()
            self._meter.total(pinned.total_bytes, on_disk(self._place, pinned))
            self._check_room(pinned)
            for file in pinned.files:
                self._patiently(functools.partial(self._one, pinned, file))
            self._publish(pinned)
            return True
        except Cancelled:
            told = self._meter.end(Progress(phase=Phase.STOPPED))
            if told:  # else the wish to stop goes on saying it
                self._place.stop.unlink(missing_ok=True)
            return told
        except (StorageBlocked, OSError) as error:
            reason = error.__cause__ if isinstance(error, StorageBlocked) else error
            said = getattr(reason, "strerror", None) or reason
            return self._failed(StorageBlocked.code, f"{self._place.root} cannot be written ({said}). What has come stays. Free some "
                                                     "space, look who owns the folder, then try again.")
        except SprocketError as error:
            return self._failed(error.code, str(error))

    def _failed(self, code: str, error: str) -> bool:
        if self._meter.end(Progress(phase=Phase.FAILED, error_code=code, error=error)):
            return True
        log.error("%s", error)
        return False

    def stopped(self) -> bool:
        return self._place.stop.exists()

    def _pin(self) -> Pinned:
        """What exactly to fetch: as an earlier attempt found it, else as the hub says now."""
        known = load(Pinned, self._place.pinned)
        if known is not None and known.asked == self._wish.revision:
            return known
        self._meter.phase(Phase.ASKING)
        pinned = self._asked()
        shutil.rmtree(self._place.files, ignore_errors=True)  # of another revision
        write_atomic(self._place.pinned, to_bytes(pinned))
        return pinned

    def _asked(self) -> Pinned:
        for attempt in range(FIRST_ASKS):
            if self.stopped():
                raise Cancelled("stopped")
            try:
                found = remote.list_repository(self._wish.repo, self._wish.revision)
                index = remote.read_small(found.repo, found.revision, "model_index.json")
                return Pinned(repo=found.repo, revision=found.revision, licence=found.licence, asked=self._wish.revision,
                              files=choose(found.repo, found.files, index))
            except HubUnreachable:
                if attempt + 1 == FIRST_ASKS:
                    raise
                time.sleep(WAITS[attempt])
        raise AssertionError("unreachable")

    def _check_room(self, pinned: Pinned) -> None:
        """Before the first byte. Raises CannotFit with the numbers."""
        need = pinned.total_bytes - on_disk(self._place, pinned)
        free = shutil.disk_usage(self._place.root).free
        spare = self._settings.min_free_bytes
        if need + spare > free:
            raise CannotFit(f"{self._wish.repo} needs {amount(need)} more on the disk of {self._settings.models_dir}, and {amount(spare)} "
                            f"are to stay free; it has {amount(free)}. Free {amount(need + spare - free)}, or put the models elsewhere "
                            "with SPROCKET_MODELS_DIR.")

    def _one(self, pinned: Pinned, file: RemoteFile) -> None:
        target = self._place.files / file.path
        if target.is_file() and target.stat().st_size == file.size:
            return  # it got this name after its checksum was right
        self._meter.phase(Phase.FETCHING, file=file.path)
        remote.fetch(pinned.repo, pinned.revision, file, target, add=self._meter.add, stopped=self.stopped)

    def _patiently(self, work: Callable[[], None]) -> None:
        """Asks again and again while the network is away, as long as `download_patience_seconds` since the last byte."""
        tries = 0
        while True:
            try:
                work()
                return
            except HubUnreachable as error:
                silent = self._meter.seconds_silent()
                if silent >= self._settings.download_patience_seconds:
                    raise HubUnreachable(f"{error} Nothing came for {silent:.0f} s. What has come stays; try again when the network is "
                                         "back.") from error
                tries = 0 if silent < WAITS[0] else min(tries + 1, len(WAITS) - 1)
                self._meter.phase(Phase.RETRYING, note=f"{error} Asking again.")
                self._wait(WAITS[tries])

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stopped():
                raise Cancelled("stopped")
            time.sleep(min(0.1, seconds))

    def _publish(self, pinned: Pinned) -> None:
        """Accepts the model, then moves it into its place with one rename. An older copy is swapped out."""
        place = self._place
        self._meter.phase(Phase.CHECKING)
        write_atomic(place.files / MANIFEST, to_bytes(pinned))
        try:
            read_spec(place.files, self._wish.repo)
        except SprocketError as error:
            place.pinned.unlink(missing_ok=True)  # another attempt looks at the newest revision
            shutil.rmtree(place.files, ignore_errors=True)
            self._meter.total(pinned.total_bytes, 0)
            raise ModelInvalid(f"{self._wish.repo} came whole, but cannot be run, and was removed: {error}") from error
        if self.stopped():
            raise Cancelled("stopped")
        old = place.root / "old"
        shutil.rmtree(old, ignore_errors=True)
        if place.final.exists():
            place.final.rename(old)
        place.files.rename(place.final)
        sync_dir(place.final.parent)
        clear(place)


def on_disk(place: Place, pinned: Pinned) -> int:
    """Bytes that need not be fetched any more. A part that is too long is no part of this file, and is dropped."""
    have = 0
    for file in pinned.files:
        target = place.files / file.path
        part = target.with_name(f"{target.name}.part")
        if target.is_file() and target.stat().st_size == file.size:
            have += file.size
        elif part.is_file():
            if part.stat().st_size > file.size:
                part.unlink()
            else:
                have += part.stat().st_size
    return have


def clear(place: Place) -> None:
    """Removes the download's folder, its wish first, so that a death in between leaves nothing that is started again."""
    place.wish.unlink(missing_ok=True)
    shutil.rmtree(place.root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
