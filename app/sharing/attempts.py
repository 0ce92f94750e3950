"""A limit on guessing: failures are counted by what they have in common, and too many of them make everyone with that wait."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

WINDOW_SECONDS = 300.0
MOST_KEYS = 20_000


class Attempts:
    """Keys with how many failures they may have within the window. Threads may share one."""

    def __init__(self, now: Callable[[], float], window: float = WINDOW_SECONDS) -> None:
        self._now, self._window = now, window
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, keys: Sequence[tuple[str, int]]) -> float:
        """Seconds until another attempt is looked at; 0: now."""
        now = self._now()
        with self._lock:
            return max((self._left(key, most, now) for key, most in keys), default=0.0)

    def failed(self, keys: Sequence[tuple[str, int]]) -> None:
        now = self._now()
        with self._lock:
            for key, most in keys:
                times = self._failures.setdefault(key, deque(maxlen=most))
                times.append(now)
                self._failures.move_to_end(key)
            while len(self._failures) > MOST_KEYS:
                self._failures.popitem(last=False)

    def succeeded(self, keys: Sequence[tuple[str, int]], forgotten: str) -> None:
        """The attempt just counted was none; all failures of the key `forgotten` are forgotten too."""
        with self._lock:
            for key, _most in keys:
                times = self._failures.get(key)
                if times:
                    times.pop()
                if key == forgotten or not times:
                    self._failures.pop(key, None)

    def _left(self, key: str, most: int, now: float) -> float:
        times = self._failures.get(key)
        if times is None or len(times) < most:
            return 0.0
        return max(0.0, times[0] + self._window - now)
