"""Which models are on this machine. No torch, no network: the pocket model, a models folder, and any local folder.

    pocket, pocket-i2v      the embedded models, from words and from a first frame
    owner/name              a hub model that was downloaded; it lies in `models_dir/owner--name`
    name                    any other folder below `models_dir`, or one that `models_dir/local-folders.json` points at
    /absolute/folder        any folder in diffusers layout
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PureWindowsPath

from engine.errors import ModelInvalid, ModelNotFound
from engine.spec import ModelSpec, read_spec

POCKET = "pocket"
POCKET_I2V = "pocket-i2v"
LOCAL_FOLDERS = "local-folders.json"
"""{name: absolute folder}: models that stay where they are."""
MAX_LIST_BYTES = 2**20
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""`owner/name`. The hub allows neither '--' nor '..' in one, so `owner--name` names the same repository."""
MOVED_OWNERS = {"THUDM": "zai-org"}
"""Organisations the hub has renamed: the old id goes on working."""


def pocket_dir() -> Path:
    """Where the embedded model lies: `assets/pocket`, or the folder in `SPROCKET_POCKET_DIR`."""
    own = os.environ.get("SPROCKET_POCKET_DIR")
    return Path(own) if own else Path(__file__).resolve().parents[2] / "assets" / "pocket"


def embedded() -> dict[str, Path]:
    """Name -> folder of the models that ship with Sprocket, pocket first, there or not; pocket-i2v lies beside it."""
    return {POCKET: pocket_dir(), POCKET_I2V: pocket_dir().with_name(POCKET_I2V)}


def is_hub_id(text: str) -> bool:
    """True for `owner/name` as the hub allows it."""
    return HUB_ID.fullmatch(text) is not None and "--" not in text and ".." not in text


def is_path(model: str) -> bool:
    """Does it say where a folder lies? What is listed here is called `name` or `owner/name`."""
    said = model.strip()
    return said.startswith(("/", "~")) or bool(PureWindowsPath(said).anchor) or ".." in PureWindowsPath(said).parts


def folder_name(model: str) -> str:
    """The folder below `models_dir` that holds `model`: 'owner/name' -> 'owner--name', anything else as it is."""
    return model.replace("/", "--") if is_hub_id(model) else model


def model_name(folder: str) -> str:
    """The inverse of `folder_name`."""
    owner, mark, name = folder.partition("--")
    return f"{owner}/{name}" if mark and is_hub_id(f"{owner}/{name}") else folder


def find(model: str, *, models_dir: Path | None = None) -> Path:
    """The folder of `model`: an embedded one, a hub id or a name below `models_dir`, or an absolute path of a local folder.

    Raises `ModelNotFound`, naming what is there.
    """
    if model in embedded():
        folder = embedded()[model]
        if not _is_model(folder):
            raise ModelNotFound(f"the embedded model is not in {folder}. Get a complete copy of Sprocket, or make "
                                "it with `make pocket`.")
        return folder
    if Path(model).is_absolute():
        if _is_model(Path(model)):
            return Path(model)
        raise ModelNotFound(f"{model[:200]} has no model_index.json, so it is no model in diffusers layout.")
    there = places(models_dir)
    owner, _, rest = model.partition("/")
    for name in (model, f"{MOVED_OWNERS.get(owner, owner)}/{rest}"):
        if name in there:
            return there[name]
    known = ", ".join(_names(models_dir)) or "none"
    way = (f"`sprocket models download {model}` fetches it, or the Models page does." if is_hub_id(model)
           else "A local folder in diffusers layout works too, by its absolute path.")
    raise ModelNotFound(f"there is no model {model[:80]!r} on this machine. Installed: {known}. {way}")


def installed(*, models_dir: Path | None = None) -> tuple[ModelSpec, ...]:
    """The specs of all sound models, the embedded ones first. Damaged folders are left out; `find` and `read_spec` say why."""
    specs = []
    for name in _names(models_dir):
        try:
            specs.append(read_spec(find(name, models_dir=models_dir), name))
        except (ModelInvalid, ModelNotFound):
            continue
    return tuple(specs)


def places(models_dir: Path | None) -> dict[str, Path]:
    """Model name -> folder, of everything in `models_dir` that has a model_index.json. Damaged ones too, embedded ones not.

    A name, never a path: nothing here leads out of the models folder but what its owner wrote into `local-folders.json`.
    """
    if models_dir is None or not models_dir.is_dir():
        return {}
    found = {model_name(p.name): p for p in models_dir.iterdir() if not p.name.startswith(".") and _is_model(p)}
    for name, folder in local_folders(models_dir).items():
        if name not in found and _is_model(folder):
            found[name] = folder
    return dict(sorted((name, folder) for name, folder in found.items() if name not in embedded()))


def local_folders(models_dir: Path) -> dict[str, Path]:
    """What `local-folders.json` says, as far as it is sound."""
    path = models_dir / LOCAL_FOLDERS
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_LIST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    return {name: Path(folder) for name, folder in pairs
            if name and "/" not in name and isinstance(folder, str) and Path(folder).is_absolute()}


def _names(models_dir: Path | None) -> list[str]:
    return [name for name, folder in embedded().items() if _is_model(folder)] + list(places(models_dir))


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "model_index.json").is_file()
    except (OSError, ValueError):  # a name too long or impossible for the file system
        return False
