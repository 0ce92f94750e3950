"""Work on datasets that takes longer than a page may wait: imports, descriptions. One thread each, watched by the page, lost with the
process: an import that did not end has left nothing behind."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.errors import NotAllowed, NotFound
from engine.errors import SprocketError

log = logging.getLogger(__name__)
MOST_AT_ONCE = 2
"""Of one owner: each decodes videos on all cores."""
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """One piece of work as a page shows it."""

    id: str
    owner: str
    name: str
    what: str
    """'Importing' or 'Describing'."""
    dataset: str = ""
    """Id of the set that is worked on, or that came of it."""
    done: int = 0
    of: int = 0
    error: str = ""
    ended: bool = False


class DatasetWork:
    """Owns the threads; `close()` asks all of them to end."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._all: dict[str, Pending] = {}
        self._stops: dict[str, threading.Event] = {}

    def start(self, owner: str, name: str, what: str, work: Callable[[Told, Callable[[], bool]], str], dataset: str = "") -> Pending:
        """`work(told, stopped)` in a thread; what it returns is the dataset's id. Raises NotAllowed where too much is under way."""
        pending = Pending(secrets.token_hex(8), owner, name, what, dataset)
        with self._guard:
            if sum(not each.ended for each in self._all.values() if each.owner == owner) >= MOST_AT_ONCE:
                raise NotAllowed(f"{MOST_AT_ONCE} sets are being worked on already. Wait until one is done, or stop it.")
            self._all[pending.id], self._stops[pending.id] = pending, threading.Event()
        threading.Thread(target=self._run, args=(pending.id, work), name=f"dataset-{pending.id}", daemon=True).start()
        return pending

    def list(self, *, owner: str) -> tuple[Pending, ...]:
        """What is under way, and what has failed and was not read yet."""
        with self._guard:
            return tuple(each for each in self._all.values() if each.owner == owner)

    def stop(self, pending_id: str, *, owner: str) -> None:
        """Ends it early, or forgets it where it has ended. Raises NotFound."""
        with self._guard:
            pending = self._all.get(pending_id)
            if pending is None or pending.owner != owner:
                raise NotFound("There is no such work on a dataset.")
            self._stops[pending_id].set()
            if pending.ended:
                del self._all[pending_id], self._stops[pending_id]

    def close(self) -> None:
        with self._guard:
            for stop in self._stops.values():
                stop.set()

    def _run(self, pending_id: str, work: Callable[[Told, Callable[[], bool]], str]) -> None:
        stop = self._stops[pending_id]
        try:
            work(lambda done, of: self._set(pending_id, done=done, of=of), stop.is_set)
        except (SprocketError, OSError) as error:
            self._set(pending_id, error=str(error), ended=True)
        except Exception:  # the page waits for an end of this, whatever happened
            log.exception("work on a dataset failed")
            self._set(pending_id, error="Something went wrong inside Sprocket; the log says what.", ended=True)
        else:
            with self._guard:
                del self._all[pending_id], self._stops[pending_id]

    def _set(self, pending_id: str, **changes: object) -> None:
        with self._guard:
            if pending_id in self._all:
                self._all[pending_id] = replace(self._all[pending_id], **changes)  # type: ignore[arg-type]
