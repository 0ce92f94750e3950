"""Who is behind a request: a session's cookie, a program's token, or a name from a reverse proxy that is trusted.

Nothing else counts: no field of a form, no id of gradio's, nothing a browser keeps.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.sharing.attempts import Attempts
from app.sharing.cookies import Headers, cookies
from app.sharing.sessions import Sessions
from app.sharing.settings import SharingSettings
from app.sharing.users import NAME, Users, checked_role
from app.sharing.visitor import Visitor
from engine.errors import SprocketError

COOKIE = "sprocket_session"
EACH_PAIR, EACH_ADDRESS, EACH_NAME = 5, 30, 60
"""Failures within five minutes: of one name from one address, of one address, of one name from anywhere."""


class SignInRefused(SprocketError):
    """No such name and password; the two are not told apart."""

    code = "sign_in_refused"


class TooManyAttempts(SprocketError):
    """Wait `seconds`, then try again."""

    code = "too_many_attempts"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many attempts to sign in failed. Try again in {int(seconds) // 60 + 1} minutes.")
        self.seconds = seconds


class Access:
    """The doorkeeper of one studio. Threads may share one."""

    own_paths: tuple[str, ...] = ()
    """Paths of its own way to sign in; open to everybody."""

    inline: Any = None
    """Runs jobs inside the events of the page, where no worker may (`app.space.zero.Zero`)."""

    def __init__(self, sharing: SharingSettings, data_dir: Path, *, now: Callable[[], float] = time.time,
                 ticks: Callable[[], float] = time.monotonic) -> None:
        """`now`: the time of day, for sessions, which outlive a restart; `ticks`: a clock that nobody sets, for waits."""
        self.sharing = sharing
        self.users = Users(sharing.users_path(data_dir))
        self._sessions = Sessions(data_dir / "sessions.json", idle_seconds=sharing.session_idle_seconds,
                                  seconds=sharing.session_seconds, now=now)
        self._attempts = Attempts(ticks)

    def visitor(self, peer: str, headers: Headers) -> Visitor | None:
        """`peer`: address of the other end of the connection. Raises InvalidRequest where the users file is damaged."""
        said = list(headers)
        named = self._named_by_proxy(peer, said)
        if named is not None:
            return named
        bearer = _one(said, b"authorization")
        if bearer and bearer[:7].lower() == "bearer ":
            user = self.users.with_token(bearer[7:].strip())
            return user.visitor if user else None
        token = session_token(said)
        session = self._sessions.find(token) if token else None
        user = self.users.get(session.user) if session else None
        if session is None or user is None or not hmac.compare_digest(user.stamp, session.stamp):
            return None
        return user.visitor

    def visitor_of(self, scope: Mapping[str, Any]) -> Visitor | None:
        """The visitor of one ASGI request."""
        return self.visitor((scope.get("client") or ("", 0))[0], scope["headers"])

    def welcome(self) -> tuple[Visitor, bytes] | None:
        """Somebody nobody knows: who they are from now on, and the cookie that says so. None: they have to sign in."""
        return None

    def sign_in(self, name: str, password: str, address: str) -> str:
        """A new session's token. Raises SignInRefused, TooManyAttempts, InvalidRequest (the users file is damaged)."""
        name = name.strip().lower()[:100]
        pair = (f"{name}@{address}", EACH_PAIR)
        keys = (pair, (f"@{address}", EACH_ADDRESS), (name, EACH_NAME))
        wait = self._attempts.wait(keys)
        if wait > 0:
            raise TooManyAttempts(wait)
        self._attempts.failed(keys)  # before the slow part: guesses sent at once count too
        user = self.users.with_password(name, password)
        if user is None:
            raise SignInRefused("That name and password do not go together.")
        self._attempts.succeeded(keys, pair[0])
        return self._sessions.begin(user.name, user.stamp)

    def sign_out(self, headers: Headers) -> None:
        token = session_token(headers)
        if token:
            self._sessions.end(token)

    def address(self, peer: str, headers: Headers) -> str:
        """Of the person, for counting attempts: behind a trusted proxy the last address it added."""
        said = _one(list(headers), b"x-forwarded-for")
        return said.rpartition(",")[2].strip()[:64] if said and self.sharing.trusts(peer) else peer

    def is_https(self, peer: str, scheme: str, headers: Headers) -> bool:
        said = _one(list(headers), b"x-forwarded-proto")
        return scheme == "https" or (said == "https" and self.sharing.trusts(peer))

    def _named_by_proxy(self, peer: str, headers: list[tuple[bytes, bytes]]) -> Visitor | None:
        header = self.sharing.proxy_header
        if not header or not self.sharing.trusts(peer):
            return None
        name = (_one(headers, header.encode()) or "").strip().lower()
        if not NAME.fullmatch(name):
            return None
        user = self.users.get(name)
        return user.visitor if user else Visitor(f"user:{name}", name, checked_role(self.sharing.proxy_role))


def session_token(headers: Headers) -> str | None:
    """From the cookie; None where there is none."""
    return next((value for value in cookies(headers, COOKIE) if 0 < len(value) <= 100), None)


def _one(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header that was sent once. Sent twice it is nobody's word: the proxy's and a stranger's cannot be told apart."""
    found = [value for key, value in headers if key.lower() == name]
    return found[0].decode("latin-1") if len(found) == 1 else None
