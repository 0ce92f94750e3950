"""Sessions of people who have signed in: a random token in a cookie, its sha256 here, in memory and in one private file.

A session ends when it is signed out, unused for too long, too old, or when its user's password has changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.sharing.passwords import new_token, token_record
from engine.errors import StorageBlocked
from engine.video.publish import write_atomic

MOST_EACH = 20
MOST = 10_000
NOTED_SECONDS = 600.0
"""That sessions are used is written down this often at most."""


@dataclass(frozen=True, slots=True)
class Session:
    user: str
    stamp: str
    begun: float
    used: float


class Sessions:
    """`now`: UTC seconds. Threads may share one. What cannot be written down is lost with this process, no more."""

    def __init__(self, path: Path, *, idle_seconds: float, seconds: float, now: Callable[[], float]) -> None:
        self._path, self._idle, self._longest, self._now = path, idle_seconds, seconds, now
        self._lock = threading.Lock()
        self._sessions = self._alive(_read(path))
        self._noted_at = now()

    def begin(self, user: str, stamp: str) -> str:
        """The token for the cookie. The oldest sessions of somebody who has very many end."""
        token, now = new_token(), self._now()
        with self._lock:
            self._sessions = self._alive(self._sessions)
            own = sorted((each.used, key) for key, each in self._sessions.items() if each.user == user)
            for _used, key in own[:max(0, len(own) - MOST_EACH + 1)]:
                del self._sessions[key]
            if len(self._sessions) >= MOST:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]
            self._sessions[token_record(token)] = Session(user, stamp, now, now)
            self._save()
        return token

    def find(self, token: str) -> Session | None:
        """A session that goes on, and is used by this."""
        key, now = token_record(token), self._now()
        with self._lock:
            session = self._sessions.get(key)
            if session is None or not self._goes_on(session):
                return None
            self._sessions[key] = replace(session, used=max(now, session.used))
            if now - self._noted_at > NOTED_SECONDS:
                self._save()
            return session

    def end(self, token: str) -> None:
        with self._lock:
            if self._sessions.pop(token_record(token), None) is not None:
                self._save()

    def _goes_on(self, session: Session) -> bool:
        now = self._now()
        return now - session.used < self._idle and now - session.begun < self._longest

    def _alive(self, sessions: dict[str, Session]) -> dict[str, Session]:
        return {key: each for key, each in sessions.items() if self._goes_on(each)}

    def _save(self) -> None:
        self._noted_at = self._now()
        try:
            write_atomic(self._path, json.dumps({key: asdict(each) for key, each in self._sessions.items()}).encode())
            self._path.chmod(0o600)
        except (OSError, StorageBlocked):
            pass


def _read(path: Path) -> dict[str, Session]:
    """Nothing for a file that is not there or damaged: people sign in again."""
    try:
        return {str(key): Session(str(row["user"]), str(row["stamp"]), float(row["begun"]), float(row["used"]))
                for key, row in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
