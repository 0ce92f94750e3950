"""Talking to the hub, through huggingface_hub's own session: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxies are honoured.

Only the fetching process imports this. Whole files are fetched by our own loop over `Range`, because the library's
`hf_hub_download` (2.4) begins anew after an interruption and does not compare checksums.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from app.errors import HubDamaged, HubGated, HubMissing, HubOffline, HubUnreachable
from app.hub.choose import MAX_SMALL_BYTES, RemoteFile
from app.hub.digest import new_digest
from engine.digest import PIECE_BYTES
from engine.errors import Cancelled, ModelInvalid
from engine.video.publish import sync_dir

ANSWER_SECONDS = 15.0
"""Longest silence of the hub before it is asked again."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be another one a little later."""
http: Any = importlib.import_module(type(get_session()).__module__.partition(".")[0])
"""The HTTP library of the installed huggingface_hub: httpx, or httpx2 from 2.0 on."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the hub says a repository consists of at one commit."""

    repo: str
    revision: str
    licence: str | None
    files: tuple[RemoteFile, ...]


def list_repository(repo: str, revision: str | None) -> Listing:
    """Raises HubGated, HubMissing, HubOffline, HubUnreachable, ModelInvalid."""
    with told(repo, revision):
        info = HfApi(library_name="sprocket").model_info(repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
    if not isinstance(info.sha, str) or len(info.sha) != 40:
        raise ModelInvalid(f"the hub names no commit for {repo}, so it cannot be pinned. Check HF_ENDPOINT ({constants.ENDPOINT}).")
    licence = getattr(info.card_data, "license_name", None) or getattr(info.card_data, "license", None)
    files = tuple(RemoteFile(s.rfilename, (s.lfs.size if s.lfs else s.size) or 0, s.lfs.sha256 if s.lfs else None, s.blob_id)
                  for s in info.siblings or ())
    return Listing(info.id or repo, info.sha, str(licence)[:80] if licence else None, files)


def read_small(repo: str, revision: str, path: str) -> dict[str, Any]:
    """A JSON object out of the repository, for looking at before anything is kept. Raises as `list_repository` does."""
    with told(repo, revision), get(repo, revision, path) as response:
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_SMALL_BYTES:
                raise ModelInvalid(f"{repo}: {path} has more than {MAX_SMALL_BYTES:,} bytes. Nothing was downloaded.")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{repo}: {path} is no JSON ({error}). Nothing was downloaded.") from error
    if not isinstance(value, dict):
        raise ModelInvalid(f"{repo}: {path} holds a {type(value).__name__}, not an object of settings. Nothing was downloaded.")
    return value


@contextlib.contextmanager
def get(repo: str, revision: str, path: str, start: int = 0) -> Iterator[Any]:
    """The answer to GET of one file, from byte `start` on. Redirects to a store elsewhere are followed, without the token."""
    headers = build_hf_headers(library_name="sprocket", library_version=huggingface_hub.__version__)
    headers["Accept-Encoding"] = "identity"  # a range of a compressed answer is not a range of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hf_hub_url(repo, path, revision=revision)
    with get_session().stream("GET", url, headers=headers, timeout=http.Timeout(ANSWER_SECONDS)) as response:
        if response.status_code != 416:
            hf_raise_for_status(response)
        yield response


def fetch(repo: str, revision: str, file: RemoteFile, target: Path, *, add: Callable[[int], None],
          stopped: Callable[[], bool]) -> None:
    """Fetches what is missing of `file`, and gives it its name, `target`, once its checksum is right and it is on the disk.

    What came earlier is in `target` + '.part', is read again for the checksum, and is used. `add` is told of bytes as they come
    (and of negative ones, where a part turns out to be useless). Raises as `list_repository`, and HubDamaged, Cancelled, OSError.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a+b", buffering=0) as out:
        digest, have = _known_digest(file, out, stopped)
        begun = have
        if have < file.size:
            with told(repo, revision), get(repo, revision, file.path, have) as response:
                if have and not _goes_on(response, have, file.size):
                    out.truncate(0)
                    add(-have)
                    digest, have, begun = new_digest(file), 0, 0
                for chunk in response.iter_bytes() if response.status_code != 416 else ():
                    if stopped():
                        raise Cancelled("stopped")
                    have += len(chunk)
                    if have > file.size:
                        break
                    if out.write(chunk) != len(chunk):  # unbuffered: the last room of a disk takes a part, and says no more than that
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    digest.update(chunk)
                    add(len(chunk))
        if have < file.size:
            raise HubUnreachable(f"the connection broke off in {file.path}, after {have:,} of {file.size:,} bytes.")
        os.fsync(out.fileno())
    if have == file.size and digest.hexdigest() == (file.sha256 or file.git_sha1):
        part.replace(target)
        sync_dir(target.parent)
        return
    add(-part.stat().st_size)
    part.unlink()
    if begun:
        raise HubUnreachable(f"what was there of {file.path} did not fit to the rest; it is fetched anew.")
    raise HubDamaged(f"{file.path} of {repo} does not have the {'length' if have > file.size else 'checksum'} the hub promises, so it "
                     "was thrown away. Try again; if it happens twice, something between here and the hub changes files.")


def _known_digest(file: RemoteFile, out: Any, stopped: Callable[[], bool]) -> tuple[Any, int]:
    """The digest of what is there already, and how much that is."""
    digest, have = new_digest(file), 0
    out.seek(0)
    while chunk := out.read(PIECE_BYTES):
        if stopped():
            raise Cancelled("stopped")
        digest.update(chunk)
        have += len(chunk)
    return digest, have


def _goes_on(response: Any, have: int, size: int) -> bool:
    """Does the answer begin where we asked it to? A server may ignore a range, or send another one."""
    return bool(response.status_code == 206 and response.headers.get("Content-Range", "") == f"bytes {have}-{size - 1}/{size}")


@contextlib.contextmanager
def told(repo: str, revision: str | None) -> Iterator[None]:
    """The library's errors as ours: what is wrong, and what to do."""
    site = constants.ENDPOINT
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubOffline("HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it and start Sprocket again, or copy the model's "
                         "folder here and add it by its path.") from error
    except GatedRepoError as error:
        raise HubGated(f"{repo} is gated: its makers want their conditions accepted first. Open {site}/{repo} in a browser, accept "
                       "them, put a token of yours into HF_TOKEN (or run `hf auth login`), then try again.") from error
    except DisabledRepoError as error:
        raise HubMissing(f"{repo} was switched off by the hub. Choose another model.") from error
    except RevisionNotFoundError as error:
        raise HubMissing(f"{repo} has no revision {str(revision)[:60]!r}. Leave it out for the newest one.") from error
    except RemoteEntryNotFoundError as error:
        raise HubMissing(f"{repo} lacks a file that every model in diffusers layout has, or it was removed ({_where(error)}). Choose "
                         "another model, or another revision.") from error
    except RepositoryNotFoundError as error:
        raise HubMissing(f"{site} has no model {repo}, or it is private. Check the spelling (owner/name); for a private one put a token "
                         "into HF_TOKEN, or run `hf auth login`.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in PASSING:
            raise HubUnreachable(f"{site} answered {status} ({_where(error)}).") from error
        if status in (401, 403):
            raise HubGated(f"{site} does not let you fetch {repo} ({status}). Open {site}/{repo} in a browser to see why, put a token "
                           "of yours into HF_TOKEN (or run `hf auth login`), then try again.") from error
        raise HubMissing(f"{site} answered {status} for {repo} ({_where(error)}). Check the id and HF_ENDPOINT.") from error
    except HFValidationError as error:
        raise HubMissing(f"{repo[:100]!r} is no id of a model on the hub. Write it as owner/name.") from error
    except http.HTTPError as error:
        raise HubUnreachable(f"{site} cannot be reached ({type(error).__name__}: {str(error)[:120]}). Check this machine's network, "
                             "HF_ENDPOINT and proxies.") from error


def _where(error: HfHubHTTPError) -> str:
    request = getattr(error.response, "request", None)
    return str(getattr(request, "url", "") or "").partition("?")[0][:200]
