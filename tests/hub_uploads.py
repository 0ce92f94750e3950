"""The part of the Hub's HTTP API that an upload uses, for `tests.hub_server`: what was sent is a repository that can be fetched again.

    POST /api/repos/create   /api/models/{repo}/preupload/{rev}   /{repo}.git/info/lfs/objects/batch   /api/models/{repo}/commit/{rev}
    PUT  /lfs/{sha256}       a large file; refused where its bytes are not of that hash
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "Bearer hf_good"
LFS = "application/vnd.git-lfs+json"


def _body(handler: Any) -> bytes:
    return bytes(handler.rfile.read(int(handler.headers.get("Content-Length") or 0)))


def _json(handler: Any, status: int, said: Any, kind: str = "application/json") -> None:
    data = json.dumps(said).encode()
    handler._head(status, {"Content-Type": kind, "Content-Length": str(len(data))})
    handler.wfile.write(data)


def post(handler: Any) -> None:
    body, path, hub = _body(handler), unquote(urlsplit(handler.path).path), handler.hub
    if path == "/api/validate-yaml":
        return _json(handler, 200, {"errors": [], "warnings": []})
    if handler.headers.get("Authorization") != TOKEN:
        return _json(handler, 401, {"error": "Invalid user token."})
    if path == "/api/repos/create":
        said = json.loads(body)
        name = f"{said.get('organization') or 'me'}/{said['name']}"
        hub.made[name] = said
        hub.repos.setdefault(name, hub.empty(private=said.get("visibility") == "private"))
        return _json(handler, 200, {"url": f"{hub.url}/{name}", "name": name, "id": "1"})
    for pattern, answer in ((r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", _preupload),
                            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
                            (r"/api/models/([^/]+/[^/]+)/commit/[^/]+", _commit)):
        found = re.fullmatch(pattern, path)
        if found and found[1] in hub.repos:
            return answer(handler, found[1], body)
    return _json(handler, 404, {"error": f"no {path}"})


def put(handler: Any) -> None:
    data, name = _body(handler), urlsplit(handler.path).path.removeprefix("/lfs/")
    if hashlib.sha256(data).hexdigest() != name:
        return _json(handler, 400, {"error": "these bytes are of another hash"})
    handler.hub.blobs[name] = (name, data)
    return _json(handler, 200, {})


def _preupload(handler: Any, _name: str, body: bytes) -> None:
    files = [{"path": each["path"], "uploadMode": "lfs" if each["path"].endswith((".safetensors", ".mp4")) else "regular",
              "shouldIgnore": False} for each in json.loads(body)["files"]]
    _json(handler, 200, {"files": files})


def _batch(handler: Any, _name: str, body: bytes) -> None:
    objects = [{"oid": each["oid"], "size": each["size"], "actions": {"upload": {"href": f"{handler.hub.url}/lfs/{each['oid']}"}}}
               for each in json.loads(body)["objects"]]
    _json(handler, 200, {"transfer": "basic", "objects": objects}, LFS)


def _commit(handler: Any, name: str, body: bytes) -> None:
    files = dict(handler.hub.repos[name].files)
    for line in body.splitlines():
        said = json.loads(line)
        value = said["value"]
        if said["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif said["key"] == "lfsFile":
            files[value["path"]] = handler.hub.blobs[value["oid"]][1]
    handler.hub.repos[name] = repo = handler.hub.empty(files)
    _json(handler, 200, {"success": True, "commitUrl": f"{handler.hub.url}/{name}/commit/{repo.revision}", "commitOid": repo.revision,
                         "hookOutput": ""})
