"""The people of a shared studio, in one file that only its operator writes (`sprocket users`).

    {"version": 1, "users": {"anna": {"role": "maker", "owner": "user:anna", "password": "scrypt$...", "tokens": [sha256, ...]}}}
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import NotFound
from app.lock import FileLock
from app.sharing.passwords import NOBODY, hashed, matches, new_token, token_record
from app.sharing.visitor import Role, Visitor
from engine.errors import InvalidRequest
from engine.video.publish import storage_errors, write_atomic

VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
MOST_TOKENS = 10
MOST_BYTES = 4 << 20
LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file."""

    name: str
    role: Role
    owner: str
    password: str
    """See `passwords.hashed`; '' for somebody whom only a proxy can sign in."""
    tokens: tuple[str, ...] = field(default=())
    """sha256 of what `sprocket users token` printed."""

    @property
    def stamp(self) -> str:
        """Changes with the password: sessions from before are over."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:16]

    @property
    def visitor(self) -> Visitor:
        return Visitor(self.owner, self.name, self.role)


def checked_user_name(name: str) -> str:
    """Raises InvalidRequest."""
    clean = name.strip().lower()
    if not NAME.fullmatch(clean):
        raise InvalidRequest("name", f"is {name[:80]!r}; use 1 to 64 letters a to z, digits and . _ @ + -, a letter or digit first.")
    return clean


def checked_role(role: str) -> Role:
    """Raises InvalidRequest."""
    try:
        return Role[role.strip().upper()]
    except KeyError:
        raise InvalidRequest("role", f"is {role[:40]!r}; use viewer, maker or admin.") from None


class Users:
    """The file, read again whenever it has changed, so that `sprocket users` speaks to a running server. Threads may share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[object, dict[str, User]] = (None, {})

    def all(self) -> dict[str, User]:
        """By name. No file is no users. Raises InvalidRequest for a file that is none of ours: nobody gets in by damage."""
        with self._lock:
            try:
                found = self.path.stat()
            except FileNotFoundError:
                return {}
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read[0] != mark:
                self._read = (mark, _parsed(self.path))
            return dict(self._read[1])

    def get(self, name: str) -> User | None:
        return self.all().get(name.strip().lower())

    def with_password(self, name: str, password: str) -> User | None:
        """The user, if that is the password. Takes as long for names that nobody has."""
        user = self.get(name)
        right = matches(password, user.password if user and user.password else NOBODY)
        return user if right and user is not None and user.password else None

    def with_token(self, token: str) -> User | None:
        record = token_record(token)
        return next((user for user in self.all().values() if record in user.tokens), None)

    def add(self, name: str, role: Role, password: str | None, *, owner: str | None = None, proxy_only: bool = False) -> User:
        """A new user, or new role and password for one who is there. Without a password one who is there keeps theirs; `proxy_only`
        takes it away with the sessions that it began: from then on only a proxy signs them in."""
        name, record = checked_user_name(name), None if password is None else hashed(password)
        with self._changing():
            users = self.all()
            before = users.get(name)
            kept = before.password if before else ""
            user = User(name, role, owner or (before.owner if before else f"user:{name}"), "" if proxy_only else record or kept,
                        before.tokens if before else ())
            self._write({**users, name: user})
        return user

    def add_token(self, name: str) -> str:
        """A fresh token for programs; it is nowhere but in the answer. Raises NotFound."""
        token = new_token()
        with self._changing():
            user = self._known(name)
            self._write({**self.all(), user.name: replace(user, tokens=(*user.tokens, token_record(token))[-MOST_TOKENS:])})
        return token

    def drop_tokens(self, name: str) -> int:
        """How many there were. Raises NotFound."""
        with self._changing():
            user = self._known(name)
            self._write({**self.all(), user.name: replace(user, tokens=())})
        return len(user.tokens)

    def remove(self, name: str) -> User:
        """Clips stay where they are, under the same owner. Raises NotFound."""
        with self._changing():
            user = self._known(name)
            self._write({other: each for other, each in self.all().items() if other != user.name})
        return user

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One command at a time from its reading to its writing: else the slower undoes what the other did."""
        with storage_errors(self.path.parent):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f"{self.path.name}.lock"), wait_seconds=LOCK_SECONDS):
                yield

    def _known(self, name: str) -> User:
        user = self.get(name)
        if user is None:
            raise NotFound(f"There is no user {name[:64]!r} in {self.path}. `sprocket users list` prints who is there.")
        return user

    def _write(self, users: dict[str, User]) -> None:
        rows = {name: {key: value for key, value in asdict(user).items() if key != "name"} | {"role": user.role.word}
                for name, user in sorted(users.items())}
        with storage_errors(self.path.parent):
            write_atomic(self.path, json.dumps({"version": VERSION, "users": rows}, indent=1).encode())
            self.path.chmod(0o600)


def _parsed(path: Path) -> dict[str, User]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        if said["version"] != VERSION:
            raise ValueError("another version")
        return {checked_user_name(name): User(checked_user_name(name), checked_role(row["role"]), str(row["owner"]), str(row["password"]),
                                              tuple(map(str, row.get("tokens", ())))) for name, row in said["users"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidRequest, RecursionError) as error:
        raise InvalidRequest("users_file", f"{str(path)!r} cannot be read as a users file ({str(error)[:80]}). Nobody can sign in until "
                                           "it is put right, or deleted and made again with `sprocket users add`.") from error
