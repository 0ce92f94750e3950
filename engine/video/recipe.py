"""What made a clip, as one JSON object: written into the mp4 and its sidecar, read back from either.

A file is untrusted: `read_recipe` bounds sizes and checks types, and the request inside still goes through
`GenerationRequest.from_mapping`. No torch.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.memory.corrections import measurable, placement_kind
from engine.plan import Plan

RECIPE_VERSION = 1
METADATA_KEY = "sprocket"
"""The inspector (`engine.media.inspector`) looks for it too."""
AI_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MAX_RECIPE_BYTES = 256 * 1024
PACKAGES = ("torch", "diffusers", "transformers", "av")


def build_recipe(plan: Plan, *, clip_id: str | None = None, made_from: str | None = None,
                 created: datetime | None = None, loras: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The recipe of the clip `plan` makes. Holds no path, user name or host name, so a file may be given away.

    `clip_id`, `made_from`: ids of this clip and its parent in the history. `created`: UTC, default now.
    `loras`: what is known of those in the request: name, weight, file (its name as it was added), rank, alpha, trigger.
    """
    spec = plan.spec
    request = plan.request().to_json() | {"model": told(plan.model)}
    return {
        "sprocket": RECIPE_VERSION,
        "app_version": app_version(),
        "created": (created or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        "clip_id": clip_id,
        "made_from": made_from,
        "digitalSourceType": AI_SOURCE,
        "request": request,
        "model": {"name": told(spec.name), "family": spec.family, "fingerprint": spec.fingerprint, "revision": spec.revision},
        "loras": [dict(lora) for lora in loras],
        "plan": {"dtype": plan.dtype, "device": plan.device, "residency": plan.residency, "tile": list(plan.tile),
                 "attention": plan.attention, "compile": plan.compile,
                 "fps": plan.fps, "latent_shape": list(plan.latent_shape), "work": dict(plan.work),
                 "quality": plan.quality, "placement": plan.placement.to_json(), "kind": placement_kind(plan.placement),
                 "forecast_bytes": round(measurable(plan.forecast, plan.device))},
        **({} if plan.hierarchy is None else {"hierarchy": plan.hierarchy.to_json()}),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES},
    }


def told(model: str) -> str:
    """A model as strangers may know it: a hub id whole, so that a clip's settings can be restored; of a local folder its name."""
    return Path(model).name if Path(model).is_absolute() else model


def comment(recipe: Mapping[str, Any]) -> str:
    """One line for people who look at the file's properties."""
    if recipe.get("kind") == "interpolate" and recipe["request"].get("method") == "generate":
        return f"AI-generated frames between those of an AI-generated clip, with Sprocket {recipe['app_version']}"
    if recipe.get("kind") == "interpolate":
        return f"Motion interpolation, not generation, with Sprocket {recipe['app_version']}"
    model, seed = recipe["request"]["model"], recipe["request"]["seed"]
    return f"AI-generated with Sprocket {recipe['app_version']} ({model}, seed {seed})"


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in `path`: a Sprocket mp4, or its .json sidecar.

    Raises `InvalidRequest` (field 'file') for anything else, with what to do.
    """
    text = _sidecar_text(path) if path.suffix.lower() == ".json" else _mp4_text(path)
    if len(text) > MAX_RECIPE_BYTES:
        raise InvalidRequest("file", f"holds a recipe of {len(text):,} bytes; the limit is {MAX_RECIPE_BYTES:,}. "
                                     "It was not written by Sprocket.")
    try:
        recipe = json.loads(text)
        # NaN, infinity and halves of characters pass the reader, and then no database, file or page takes them.
        json.dumps(recipe, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("file", f"holds a damaged recipe ({str(error)[:80]}). Use the .json file beside the clip, "
                                     "or another clip.") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("request"), dict) or "sprocket" not in recipe:
        raise InvalidRequest("file", "holds no Sprocket recipe. Only clips made with Sprocket carry their settings.")
    if recipe["sprocket"] != RECIPE_VERSION:
        raise InvalidRequest("file", f"was written by another version of Sprocket (recipe {str(recipe['sprocket'])[:20]}; "
                                     f"this one reads {RECIPE_VERSION}).")
    return recipe


def app_version() -> str:
    """Of the installed distribution; 'source' where Sprocket runs from a bare checkout."""
    return package_version("sprocket-studio") or "source"


def package_version(package: str) -> str | None:
    """Of an installed distribution; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _sidecar_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECIPE_BYTES + 1).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("file", "is not text, so it is no Sprocket sidecar.") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise InvalidRequest("file", f"cannot be read ({error}).") from error


def _mp4_text(path: Path) -> str:
    from engine.media.probe import probe_video

    try:
        text = probe_video(path, field="file").recipe  # in the limited process: the file may come from anyone
    except InvalidRequest as error:
        raise InvalidRequest("file", f"is no mp4 video, or is damaged: {error.message} Drop a clip made with Sprocket, or its "
                                     ".json file.") from error
    if text is None:
        raise InvalidRequest("file", "carries no Sprocket recipe. It was made elsewhere, or another program removed its "
                                     "metadata; the .json file beside the original still works.")
    return text
