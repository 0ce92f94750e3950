"""A real PostgreSQL server for tests: in a folder of its own, on a free port of this machine alone, under a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ACCOUNTS = ("postgres", "nobody")


def programs() -> Path | None:
    """The folder with initdb and postgres; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def why_not() -> str:
    """Why there can be no server here; '' where there can."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"psycopg is not installed ({error}): pip install 'psycopg[binary]'"
    if programs() is None:
        return "there is no PostgreSQL server here: apt-get install postgresql"
    if os.geteuid() == 0 and account() is None:
        return f"PostgreSQL does not run as root, and none of {', '.join(ACCOUNTS)} is a user here"
    return ""


def account() -> str | None:
    """Whom the server runs as where the tests run as root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ACCOUNTS if name in known), None)


class Server:
    """Owns the process. `url(name)` makes an empty database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self._as = {"user": account()} if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._run("initdb", "-D", str(folder / "data"), "-U", "sprocket", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        tools = programs()
        assert tools is not None
        self._process = subprocess.Popen(
            [tools / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("ab"), **self._as)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(3)  # at once, without waiting for clients
            self._process.wait(20)
            self._process = None

    def url(self) -> str:
        """A fresh, empty database."""
        import psycopg

        self._made += 1
        name = f"studio{self._made}"
        with psycopg.connect(f"postgresql://sprocket@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://sprocket@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        tools = programs()
        assert tools is not None
        subprocess.run([tools / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self._as)


@contextmanager
def server() -> Iterator[Server]:
    """Started, and gone with its folder afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sprocket-postgres-"))  # not pytest's, into which only its own user may look
    if os.geteuid() == 0:
        shutil.chown(folder, account())
    made = None
    try:
        made = Server(folder)
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Cable:
    """A connection to the server that can be cut: a small TCP relay. `port` is where to connect."""

    def __init__(self, port: int) -> None:
        import threading

        self._to, self._pairs, self._whole = port, [], True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections and takes no new ones."""
        self._whole = False
        pairs, self._pairs = self._pairs, []
        for one in pairs:
            _hang_up(one)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        import threading

        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                _hang_up(near)
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._pairs += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    _hang_up(source)
    _hang_up(target)


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
