"""Refining prompts for pages, command line and HTTP: which backend, for which model, and how many at a time. No torch, no Gradio.

    refine(...)            waits for the answer
    start(...) -> id       returns at once; `look(id)` says how far it is, and all of it is forgotten after a while

An endpoint may take a minute and stream all the while; nothing here holds a page's event for that long.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import NotFound
from app.loras import Loras
from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError
from engine.models.catalogue import embedded
from engine.models.tokens import counter
from engine.refine import BACKENDS, Ask, Refinement, RefinerFailed
from engine.refine.chat import describe, refine_by_chat
from engine.refine.endpoint import Endpoint
from engine.refine.local import LocalModel
from engine.refine.pocket import refine_pocket
from engine.refine.result import OnText
from engine.spec import ModelSpec

if TYPE_CHECKING:
    from training.data.describe import Describer

VARIANTS = 3
LOCAL = "local"
MOST_KEPT = 64
"""Refinements a page may still ask about; older ones are forgotten, first those of whoever has most."""
MOST_EACH = 2
"""Turns that one person of a shared studio has or waits for at once; the machine's own owner may have all. What was stopped does not
count, though it keeps its slot until the server's next piece; one more than these may be held in all."""
WAIT_SECONDS = 20.0
"""A call that gets no turn in so long is refused."""
STOPPED = "Refining was stopped."
SET_UP = ("No refiner is set up for this model. Name a chat server with SPROCKET_REFINER_URL and SPROCKET_REFINER_MODEL, or a local chat "
          "model with SPROCKET_REFINER_LOCAL, and start Sprocket again; docs/refine.md shows how.")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one start is."""

    id: str
    text: str
    """The user's words."""
    backend: str
    so_far: str = ""
    """Of the first answer, as it comes."""
    done: tuple[Refinement, ...] = ()
    """All that was asked for, once it is there."""
    error: str = ""
    """Why nothing came."""
    seq: int = 0
    """Grows with every change."""

    @property
    def ended(self) -> bool:
        return bool(self.done or self.error)


class Refining:
    """Owns its threads; `close()` it. Threads may share one."""

    def __init__(self, settings: Settings, spec: Callable[[str], ModelSpec], loras: Loras) -> None:
        self._settings, self._spec, self._loras = settings, spec, loras
        self._turns = threading.Semaphore(settings.refiner_limit)
        self._local_turn = threading.Lock()
        self._lock = threading.Lock()
        self._entered: set[_Turn] = set()
        """Turns that are held or waited for."""
        self._kept: dict[str, tuple[str, Progress, threading.Event]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends what still runs."""
        self._closed.set()
        with self._lock:
            for _, _, stop in self._kept.values():
                stop.set()
            pool = self._pool
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- which

    def backends(self) -> tuple[str, ...]:
        """What is set up here, the pocket refiner first."""
        has = {"pocket": True, "endpoint": bool(self._settings.refiner_url), "local": bool(self._settings.refiner_local)}
        return tuple(name for name in BACKENDS if has[name])

    def backend_for(self, model: str, wanted: str | None = None) -> str:
        """The backend for a video model: the one asked for, the installation's, or what fits. Raises InvalidRequest, RefinerFailed."""
        wanted = wanted or (self._settings.refiner if self._settings.refiner != "auto" else None)
        if wanted is not None and wanted not in BACKENDS:
            raise InvalidRequest("backend", f"{str(wanted)[:40]!r} is not known. Use one of {', '.join(BACKENDS)}.")
        here = self.backends()
        if wanted is None:
            wanted = "pocket" if model in embedded() else next((name for name in here if name != "pocket"), None)
        if wanted is None:
            raise RefinerFailed(SET_UP)
        if wanted not in here:
            name = {"endpoint": "SPROCKET_REFINER_URL and SPROCKET_REFINER_MODEL", "local": "SPROCKET_REFINER_LOCAL"}[wanted]
            raise RefinerFailed(f"The refiner {wanted!r} is not set up. Set {name} and start Sprocket again; docs/refine.md shows how.")
        return wanted

    # ---- doing

    def refine(self, text: Any, *, model: str = "pocket", backend: str | None = None, purpose: str = "text-to-video", version: int = 0,
               loras: Sequence[str] = (), images: Sequence[bytes] = (), on_text: OnText | None = None,
               stop: threading.Event | None = None, owner: str = LOCAL) -> Refinement:
        """The refinement of `text` for `model`. loras: names of those the clip will be made with; their trigger words stay.
        owner: who waits for it, and has no more than MOST_EACH of the turns.

        Raises InvalidRequest, RefinerFailed (not set up, too many at once, no answer), ModelNotFound, ModelInvalid.
        """
        spec = self._spec(model)  # first: without it no refiner would fit either, and that would be said
        chosen = self.backend_for(model, backend)
        shown = tuple(images) if chosen == "endpoint" and self._settings.refiner_vision_model else ()
        ask = Ask(text=text, purpose=purpose, max_tokens=getattr(spec, "max_text_tokens", 226), count=_counter(spec),
                  keep=tuple(self._triggers(loras)), version=version, images=shown)
        if chosen == "pocket":
            found = refine_pocket(ask)
            return found if model in embedded() else _with_note(found, f"The pocket refiner writes for the pocket model's small world; "
                                                                       f"{model} can show more.")
        with self._turn(owner, stop):
            if chosen == "local":
                with self._local_turn:  # one set of weights in memory, never two
                    return refine_by_chat(ask, LocalModel(self._settings.refiner_local), "local", on_text=on_text, stop=stop)
            endpoint = self.endpoint()
            return refine_by_chat(ask, endpoint, "endpoint", on_text=on_text, stop=stop, secret=endpoint.key)

    def endpoint(self) -> Endpoint:
        """The operator's chat server. Raises RefinerFailed where none is named."""
        if not self._settings.refiner_url:
            raise RefinerFailed(SET_UP)
        return Endpoint(self._settings.refiner_url, self._settings.refiner_model, self._settings.refiner_key.get_secret_value(),
                        self._settings.refiner_seconds, vision_model=self._settings.refiner_vision_model)

    def describer(self) -> Describer | None:
        """What describes clips to train on: the chat server's vision model; None where none is named."""
        if not (self._settings.refiner_url and self._settings.refiner_vision_model):
            return None
        from training.data.describe import ByFiles  # libraries for videos

        endpoint = self.endpoint()

        def ask(files: tuple[bytes, ...], prompt: str) -> str:
            with self._turn(LOCAL):
                return describe(files, prompt, endpoint, secret=endpoint.key)

        return ByFiles(endpoint.vision_model, ask)

    def start(self, text: Any, *, owner: str, count: int = 1, version: int = 0, **how: Any) -> Progress:
        """Begins `count` refinements of the same text, versions `version` and on. Raises what needs no waiting to be known."""
        chosen = self.backend_for(how.get("model", "pocket"), how.get("backend"))
        Ask(text=text, version=version)
        key, stop = secrets.token_hex(8), threading.Event()
        first = Progress(key, text, chosen)
        with self._lock:
            while len(self._kept) >= MOST_KEPT:
                (most, _), = Counter(whose for whose, _, _ in self._kept.values()).most_common(1)
                _, _, oldest = self._kept.pop(next(each for each, (whose, _, _) in self._kept.items() if whose == most))
                oldest.set()
            self._kept[key] = (owner, first, stop)
        if chosen == "pocket":
            self._run(key, text, count, version, stop, how)
        else:
            self._threads().submit(self._run, key, text, count, version, stop, how | {"owner": owner})
        return self.look(key, owner=owner)

    def look(self, key: str, *, owner: str) -> Progress:
        """Raises NotFound for one that was forgotten, or another's."""
        with self._lock:
            found = self._kept.get(key) if isinstance(key, str) else None
        if found is None or found[0] != owner:
            raise NotFound("That refinement is not here any more. Press Refine again.")
        return found[1]

    def stop(self, key: str, *, owner: str) -> None:
        """Gives up a refinement; its connection is closed at the next piece that comes."""
        self.look(key, owner=owner)
        with self._lock:
            self._kept[key][2].set()
        self._tell(key, error=STOPPED)

    # ---- inside

    def _run(self, key: str, text: str, count: int, version: int, stop: threading.Event, how: dict[str, Any]) -> None:
        found: list[Refinement] = []
        try:
            for number in range(count):
                told = (lambda so_far: self._tell(key, so_far=so_far)) if number == 0 else None
                found.append(self.refine(text, version=version + number, on_text=told, stop=stop, **how))
            self._tell(key, done=tuple(found))
        except SprocketError as error:
            self._tell(key, error=str(error))
        except Exception:  # noqa: BLE001  (a thread's last word; nobody else would see it)
            log.warning("refining failed in a way nobody thought of", exc_info=False)  # a traceback may hold the request's headers
            self._tell(key, error="Refining failed inside Sprocket. Nothing you typed is lost.")

    def _tell(self, key: str, **change: Any) -> None:
        with self._lock:
            if key in self._kept:
                owner, before, stop = self._kept[key]
                if not before.ended:
                    self._kept[key] = (owner, dataclasses.replace(before, seq=before.seq + 1, **change), stop)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(5 * self._settings.refiner_limit, "refine")
            return self._pool

    def _turn(self, owner: str, stop: threading.Event | None = None) -> _Turn:
        return _Turn(self, owner, stop or threading.Event())

    def _triggers(self, names: Sequence[str]) -> list[str]:
        cards = {card.name: card.trigger for card in self._loras.cards()} if names else {}
        return [cards[name] for name in names if cards.get(name)]


class _Turn:
    """One of the installation's slots, for as long as it is held. Raises RefinerFailed where too many wait, or for too long."""

    def __init__(self, desk: Refining, owner: str, stop: threading.Event) -> None:
        self._desk, self.owner, self.stop = desk, owner, stop

    def __enter__(self) -> None:
        desk, limit = self._desk, self._desk._settings.refiner_limit
        with desk._lock:
            own = [turn for turn in desk._entered if turn.owner == self.owner != LOCAL]
            if sum(not turn.stop.is_set() for turn in own) >= MOST_EACH:
                raise RefinerFailed(f"{MOST_EACH} texts of yours are being refined already, the most at once for one person. Wait for "
                                    "them, or stop one.")
            if len(own) > MOST_EACH:
                raise RefinerFailed("The refiner has yet to take note of the texts that you stopped. Try again in a moment.")
            if len(desk._entered) >= 5 * limit:
                raise RefinerFailed(f"Too many texts are being refined: {limit} at a time, and {4 * limit} wait already. Try again in a "
                                    "moment.")
            desk._entered.add(self)
        end = time.monotonic() + WAIT_SECONDS
        while not desk._turns.acquire(timeout=0.5):
            if time.monotonic() > end or desk._closed.is_set() or self.stop.is_set():
                self._leave()
                raise RefinerFailed(STOPPED if self.stop.is_set() else f"{limit} texts were being refined all the while, and this one got "
                                    f"no turn in {WAIT_SECONDS:g} s. Try again in a moment.")

    def __exit__(self, *_: object) -> None:
        self._desk._turns.release()
        self._leave()

    def _leave(self) -> None:
        with self._desk._lock:
            self._desk._entered.discard(self)


def _counter(spec: Any) -> Callable[[str], int] | None:
    path = getattr(spec, "path", None)
    return counter(Path(path)) if path else None


def _with_note(found: Refinement, note: str) -> Refinement:
    return dataclasses.replace(found, notes=(*found.notes, note))
