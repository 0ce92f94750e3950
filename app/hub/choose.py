"""Which files of a repository are fetched: pure, decided before the first byte.

    (paths and sizes on the hub, model_index.json) --choose--> the files of a diffusers CogVideoX layout, small ones first

An allow-list: configs, tokenizer, safetensors. Pickles and code are not even fetched, whatever the configs say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from engine.errors import ModelInvalid
from engine.models.weights import PICKLED, STEMS
from engine.spec import COMPONENTS, CONFIG_FILES, WEIGHTED, check_classes

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "special_tokens_map.json", "added_tokens.json")
EXTRAS = ("sprocket.json", "latent_rgb.json")
"""At the top, beside model_index.json; of our own making."""
MAX_SMALL_BYTES = 32 * 2**20
"""Nothing but weights is larger."""
SHARD = re.compile(r"(?P<stem>[a-z_]+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the hub lists it."""

    path: str
    """Relative, with '/'."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of the content, where it is stored by LFS."""
    git_sha1: str | None
    """Git's name of the content elsewhere: sha1 of 'blob <size>\\0' + content."""


def choose(repo: str, listed: Iterable[RemoteFile], index: Mapping[str, Any]) -> tuple[RemoteFile, ...]:
    """The files to fetch, configs before weights. Raises `ModelInvalid` for what must not or cannot be run."""
    files = {file.path: file for file in listed}
    for path in files:
        _check_path(repo, path)
    try:
        check_classes(index, repo)
    except ModelInvalid as error:
        raise ModelInvalid(f"{error} Nothing was downloaded.") from None
    wanted = ["model_index.json", *(name for name in EXTRAS if name in files)]
    wanted += [f"{part}/{CONFIG_FILES[part]}" for part in COMPONENTS]
    wanted += [f"tokenizer/{name}" for name in TOKENIZER_FILES if f"tokenizer/{name}" in files]
    small: list[str] = []
    weights: list[str] = []
    for part in WEIGHTED:
        for path in _weights(repo, part, files):
            (weights if path.endswith(".safetensors") else small).append(path)
    missing = [path for path in (*wanted, *small, *weights) if path not in files]
    if missing:
        raise ModelInvalid(f"{repo} lacks {', '.join(missing[:4])}, so it is no complete model in diffusers layout. "
                           "Choose another, or another revision.")
    chosen = tuple(files[path] for path in dict.fromkeys((*wanted, *small, *weights)))
    for file in chosen:
        _check_file(repo, file)
    return chosen


def _weights(repo: str, part: str, files: Mapping[str, RemoteFile]) -> list[str]:
    """One safetensors file, or an index and its shards, as `engine.models.weights.component_weights` will look for them."""
    for stem in STEMS:
        single, index = f"{part}/{stem}.safetensors", f"{part}/{stem}.safetensors.index.json"
        if single in files:
            return [single]
        if index in files:
            return [index, *_shards(repo, part, stem, files)]
    inside = [PurePosixPath(path).name for path in files if path.startswith(f"{part}/")]
    pickled = sorted(name for name in inside if name.endswith(PICKLED))
    if pickled:
        raise ModelInvalid(f"{repo} has only pickled weights for {part} ({', '.join(pickled)[:200]}). A pickle can run any "
                           "program when it is opened, so Sprocket fetches none. Look for a .safetensors version of it.")
    raise ModelInvalid(f"{repo} has no weights for {part}: no {part}/{STEMS[0]}.safetensors or {STEMS[1]}.safetensors. "
                       "Choose another, or another revision.")


def _shards(repo: str, part: str, stem: str, files: Mapping[str, RemoteFile]) -> list[str]:
    found = []
    for path in files:
        match = SHARD.fullmatch(path.removeprefix(f"{part}/"))
        if match and match["stem"] == stem:
            found.append((int(match["total"]), int(match["number"]), path))
    totals = {total for total, _, _ in found}
    if len(totals) != 1 or sorted(number for _, number, _ in found) != list(range(1, max(totals) + 1)):
        raise ModelInvalid(f"{repo} has an index of shards for {part}, but not all of them ({len(found)} found). Choose "
                           "another, or another revision.")
    return [path for _, _, path in sorted(found)]


def _check_path(repo: str, path: str) -> None:
    """A repository that names files outside its own folder is not an honest one: none of it is fetched."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or ":" in path or not path.isprintable() or {"..", ".", ""} & set(parts):
        raise ModelInvalid(f"{repo} names a file {path[:80]!r}, which would lie outside the model's folder. Nothing of it was "
                           "downloaded; do not trust it.")


def _check_file(repo: str, file: RemoteFile) -> None:
    if file.size < 0 or (not file.path.endswith(".safetensors") and file.size > MAX_SMALL_BYTES):
        raise ModelInvalid(f"{repo}: {file.path} has {file.size:,} bytes; a config or tokenizer has at most {MAX_SMALL_BYTES:,}. "
                           "Nothing was downloaded.")
    if file.sha256 is None and file.git_sha1 is None:
        raise ModelInvalid(f"{repo}: the hub gives no checksum for {file.path}, so what came could not be checked. Nothing was "
                           "downloaded.")
