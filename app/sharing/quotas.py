"""How much one person may ask for. Pure: numbers in, a refusal or nothing out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import NotAllowed
from app.sharing.settings import SharingSettings
from engine.errors import InvalidRequest

MINUTE = 60.0
MOST_OWNERS = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What is there before anything is added."""

    own_jobs: int
    """Of this person, running or waiting."""
    all_jobs: int
    own_bytes: int
    """Clips, images and videos of this person."""


def check_jobs(limits: SharingSettings, standing: Standing, new: int, *, anonymous: bool = False) -> None:
    """May `new` more jobs wait? `anonymous`: the person has not signed in, though they could. Raises NotAllowed."""
    if anonymous and standing.own_jobs + new > limits.queued_anonymous:
        raise NotAllowed(f"Without signing in at most {limits.queued_anonymous} jobs run or wait at once. Sign in for more.")
    if standing.own_jobs + new > limits.queued_each:
        raise NotAllowed(f"You have {standing.own_jobs} jobs that run or wait, and asked for {new} more; the limit of one person is "
                         f"{limits.queued_each}. Cancel some, or come back when some are done.")
    if standing.all_jobs + new > limits.queue_size:
        raise NotAllowed(f"{standing.all_jobs} jobs of everybody run or wait, and you asked for {new} more; the limit is "
                         f"{limits.queue_size}. Try again when some are done.")
    check_bytes(limits, standing.own_bytes, 0)


def check_bytes(limits: SharingSettings, held: int, more: int) -> None:
    """May `more` bytes be kept? Raises NotAllowed."""
    if limits.disk_each and held + more >= limits.disk_each:
        raise NotAllowed(f"Your clips, images and videos take {held / 1e6:,.0f} MB; the limit of one person is "
                         f"{limits.disk_each / 1e6:,.0f} MB. Ask whoever runs this studio for more room.")


def check_prompt(limits: SharingSettings, field: str, text: object) -> None:
    """Raises InvalidRequest."""
    if isinstance(text, str) and len(text) > limits.prompt_chars:
        raise InvalidRequest(field, f"has {len(text):,} characters; here at most {limits.prompt_chars:,} are taken. Say it shorter.")


class Pace:
    """So many acts of one owner in any minute. Threads may share one."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._lock = threading.Lock()
        self._acts: OrderedDict[str, deque[float]] = OrderedDict()

    def step(self, owner: str) -> None:
        """Counts one. Raises NotAllowed when it is one too many, which then does not count."""
        now = self._now()
        with self._lock:
            acts = self._acts.setdefault(owner, deque(maxlen=self._most))
            self._acts.move_to_end(owner)
            while len(self._acts) > MOST_OWNERS:
                self._acts.popitem(last=False)
            if len(acts) == self._most and now - acts[0] < MINUTE:
                raise NotAllowed(f"That was one request too many: the limit is {self._most} in a minute. Try again in "
                                 f"{int(MINUTE - (now - acts[0])) + 1} seconds.")
            acts.append(now)
