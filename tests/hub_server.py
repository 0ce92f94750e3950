"""A small hub on this machine: the parts of the Hub's HTTP API that a download uses, with faults on demand.

    GET       /api/models/{owner}/{name}[/revision/{rev}]?blobs=true    what a repository consists of, at which commit
    GET, HEAD /{owner}/{name}/resolve/{rev}/{path}                      a file; LFS files redirect to another host name, as to a CDN
    GET, HEAD /cdn/{sha256}                                             Range answered with 206, ETag, Content-Length

Uploads (`tests.hub_uploads`) and gated repositories want `Authorization: Bearer hf_good`. Error answers carry `X-Error-Code`, as the
Hub does it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests import hub_uploads as uploads

GOOD_TOKEN = "hf_good"
BLOCK = 16 * 1024
LARGE = (".safetensors", ".bin", ".ckpt")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repo:
    """One repository at one commit."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    licence: str = "apache-2.0"
    revision: str = ""
    promised: dict[str, dict[str, Any]] = field(default_factory=dict)
    """path -> {'size': .., 'sha256': ..}: what the listing says instead of the truth."""
    moved_to: str | None = None

    def __post_init__(self) -> None:
        names = "".join(f"{path}:{sha256(data)}\n" for path, data in sorted(self.files.items()))
        self.revision = self.revision or hashlib.sha1(names.encode()).hexdigest()

    def listing(self, name: str) -> dict[str, Any]:
        siblings = []
        for path, data in self.files.items():
            lie = self.promised.get(path, {})
            entry: dict[str, Any] = {"rfilename": path, "size": lie.get("size", len(data)),
                                     "blobId": lie.get("blob_id", hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())}
            if path.endswith(LARGE):
                entry["lfs"] = {"sha256": lie.get("sha256", sha256(data)), "size": entry["size"], "pointerSize": 134}
            siblings.append(entry)
        return {"_id": "1", "id": name, "modelId": name, "sha": self.revision, "private": self.private, "gated": self.gated, "tags": [],
                "downloads": 0, "likes": 0, "cardData": {"license": self.licence}, "siblings": siblings}


def repo_of(folder: Path, **options: Any) -> Repo:
    """The files of a folder as a repository."""
    return Repo({str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}, **options)


@dataclass
class Faults:
    """What goes wrong, by path in the repository."""

    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """path -> for each of the next answers, after how many bytes the connection breaks off."""
    status: dict[str, list[int]] = field(default_factory=dict)
    """path -> error codes of the next answers."""
    bytes_per_second: float = 0.0
    """Of weights; 0: as fast as it goes."""
    no_ranges: bool = False
    hang: threading.Event = field(default_factory=threading.Event)
    """Set: weights stop coming in the middle."""


@dataclass
class Asked:
    """One request, as the server saw it."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: int = 0
    """Bytes of the body that went out."""


class LocalHub:
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        """By name; a dataset's begins with 'datasets/'."""
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.down = False
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.made: dict[str, dict[str, Any]] = {}
        """Repositories that were asked for, and what was said of each."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """For a process that shall use this hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "no_proxy": "*"}

    def empty(self, files: dict[str, bytes] | None = None, *, private: bool = False) -> Repo:
        """A repository of what was sent."""
        return Repo(files or {}, private=private)

    def of(self, path: str) -> list[Asked]:
        """The requests for the content of one file, redirects not counted."""
        return [asked for asked in self.asked if asked.path == path and asked.method == "GET"]

    def bodies(self) -> int:
        """Bytes of weights that went out."""
        return sum(asked.sent for asked in self.asked if asked.path.endswith(LARGE))


@contextlib.contextmanager
def local_hub(repos: Mapping[str, Repo] | None = None) -> Iterator[LocalHub]:
    """A hub on a free port of this machine."""
    hub = LocalHub()
    hub.repos.update(repos or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.faults.hang.clear()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        uploads.post(self)

    def do_PUT(self) -> None:
        uploads.put(self)

    def answer(self) -> None:
        if self.hub.down:
            self._drop()
            return
        path = unquote(urlsplit(self.path).path)
        path = path.replace("/api/datasets/", "/api/models/datasets/")
        api = re.fullmatch(r"/api/models/((?:datasets/)?[^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/models/((?:datasets/)?[^/]+/[^/]+)/tree/([^/]+)", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self._model(api[1], api[2])
        elif tree:
            self._tree(tree[1], tree[2])
        elif file:
            self._resolve(file[1], file[2], file[3])
        elif path.startswith("/cdn/") and path[5:] in self.hub.blobs:
            name, data = self.hub.blobs[path[5:]]
            self._content(name, data, path[5:])
        else:
            self._error(404, "RepoNotFound")

    def _repo(self, name: str, revision: str | None) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401, "RepoNotFound")
        elif repo.gated and self.headers.get("Authorization") != f"Bearer {GOOD_TOKEN}":
            self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        elif revision not in (None, "main", repo.revision):
            self._error(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _model(self, name: str, revision: str | None) -> None:
        self.hub.asked.append(Asked(self.command, f"api:{name}", None, self.headers.get("Authorization")))
        known = self.hub.repos.get(name)
        if known is not None and known.moved_to:
            self._redirect(f"/api/models/{known.moved_to}" + (f"/revision/{revision}" if revision else "") + "?blobs=true", 307)
            return
        repo = None if self._fails(f"api:{name}") else self._repo(name, revision)
        if repo is not None:
            self._send(200, json.dumps(repo.listing(name)).encode(), {"Content-Type": "application/json"})

    def _tree(self, name: str, revision: str) -> None:
        self.hub.asked.append(Asked(self.command, f"tree:{name}", None, self.headers.get("Authorization")))
        repo = None if self._fails(f"tree:{name}") else self._repo(name, revision)
        if repo is not None:
            entries = [{"type": "file", "path": each["rfilename"], "size": each["size"], "oid": each["blobId"]}
                       | ({"lfs": each["lfs"] | {"oid": each["lfs"]["sha256"]}} if "lfs" in each else {})
                       for each in repo.listing(name)["siblings"]]
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = None if self._fails(path) else self._repo(name, revision)
        if repo is None:
            return
        if path not in repo.files:
            self._error(404, "EntryNotFound")
            return
        data = repo.files[path]
        head = {"X-Repo-Commit": repo.revision, "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            digest = sha256(data)
            self.hub.blobs[digest] = (path, data)
            head |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"'}
            self._redirect(f"http://localhost:{self.hub.port}/cdn/{digest}", 302, head)
        else:
            self._content(path, data, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), head)

    def _content(self, name: str, data: bytes, etag: str, head: Mapping[str, str] | None = None) -> None:
        wanted = self.headers.get("Range")
        asked = Asked(self.command, name, wanted, self.headers.get("Authorization"))
        self.hub.asked.append(asked)
        start, status = 0, 200
        headers = {**(head or {}), "ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if match and not self.hub.faults.no_ranges:
            start, status = int(match[1]), 206
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(status, {**headers, "Content-Length": str(len(data) - start)})
        if self.command == "GET":
            self._body(name, data[start:], asked)

    def _body(self, name: str, data: bytes, asked: Asked) -> None:
        cuts = self.hub.faults.cut_after.get(name) or []
        most = cuts.pop(0) if cuts else len(data)
        try:
            while asked.sent < min(most, len(data)):
                while name.endswith(LARGE) and self.hub.faults.hang.is_set():
                    time.sleep(0.02)
                block = data[asked.sent:min(asked.sent + BLOCK, most, len(data))]
                self.wfile.write(block)
                asked.sent += len(block)
                pace = self.hub.faults.bytes_per_second if name.endswith(LARGE) else 0.0
                if pace:
                    time.sleep(len(block) / pace)
        except OSError:  # the other side is gone
            self.close_connection = True
            return
        if most < len(data):
            self._drop()

    def _fails(self, name: str) -> bool:
        codes = self.hub.faults.status.get(name) or []
        if codes:
            self._error(codes.pop(0), "")
            return True
        return False

    def _error(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code, "Content-Type": "application/json"})

    def _redirect(self, to: str, status: int, head: Mapping[str, str] | None = None) -> None:
        self._send(status, b"", {**(head or {}), "Location": to})

    def _send(self, status: int, body: bytes, head: Mapping[str, str]) -> None:
        self._head(status, {**head, "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, head: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
