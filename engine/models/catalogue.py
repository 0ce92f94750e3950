"""Which models are on this machine. No torch, no network: the pocket model, a models folder, and any local folder."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import ModelInvalid, ModelNotFound
from engine.spec import ModelSpec, read_spec

POCKET = "pocket"


def pocket_dir() -> Path:
    """Where the embedded model lies: `assets/pocket`, or the folder in `SPROCKET_POCKET_DIR`."""
    own = os.environ.get("SPROCKET_POCKET_DIR")
    return Path(own) if own else Path(__file__).resolve().parents[2] / "assets" / "pocket"


def find(model: str, *, models_dir: Path | None = None) -> Path:
    """The folder of `model`: 'pocket', a folder's name below `models_dir`, or an absolute path of a local folder.

    Raises `ModelNotFound`, naming what is there.
    """
    if model == POCKET:
        if not _is_model(pocket_dir()):
            raise ModelNotFound(f"the embedded model is not in {pocket_dir()}. Get a complete copy of Sprocket, or make "
                                "it with `make pocket`.")
        return pocket_dir()
    if Path(model).is_absolute():
        if _is_model(Path(model)):
            return Path(model)
        raise ModelNotFound(f"{model[:200]} has no model_index.json, so it is no model in diffusers layout.")
    # A name, never a path: "../x" and "a/b" must not lead out of the models folder.
    if models_dir is not None and Path(model).name == model and _is_model(models_dir / model):
        return models_dir / model
    known = ", ".join(_names(models_dir)) or "none"
    raise ModelNotFound(f"there is no model {model[:80]!r} on this machine. Installed: {known}. "
                        "A local folder in diffusers layout works too, by its absolute path.")


def installed(*, models_dir: Path | None = None) -> tuple[ModelSpec, ...]:
    """The specs of all sound models, pocket first. Damaged folders are left out; `find` and `read_spec` say why."""
    specs = []
    for name in _names(models_dir):
        try:
            specs.append(read_spec(find(name, models_dir=models_dir), name))
        except (ModelInvalid, ModelNotFound):
            continue
    return tuple(specs)


def _names(models_dir: Path | None) -> list[str]:
    names = [POCKET] if _is_model(pocket_dir()) else []
    if models_dir is not None and models_dir.is_dir():
        names += sorted(p.name for p in models_dir.iterdir() if _is_model(p) and p.name != POCKET)
    return names


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "model_index.json").is_file()
    except (OSError, ValueError):  # a name too long or impossible for the file system
        return False
