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
        if not (pocket_dir() / "model_index.json").is_file():
            raise ModelNotFound(f"the embedded model is not in {pocket_dir()}. Get a complete copy of Sprocket, or make "
                                "it with `make pocket`.")
        return pocket_dir()
    if Path(model).is_absolute():
        if (Path(model) / "model_index.json").is_file():
            return Path(model)
        raise ModelNotFound(f"{model} has no model_index.json, so it is no model in diffusers layout.")
    # A name, never a path: "../x" and "a/b" must not lead out of the models folder.
    if models_dir is not None and Path(model).name == model and (models_dir / model / "model_index.json").is_file():
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
    names = [POCKET] if (pocket_dir() / "model_index.json").is_file() else []
    if models_dir is not None and models_dir.is_dir():
        names += sorted(p.name for p in models_dir.iterdir() if (p / "model_index.json").is_file() and p.name != POCKET)
    return names
