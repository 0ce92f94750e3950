"""The published CogVideoX checkpoints as facts: their configs and the shapes of their weights, no weight and no network.

    'THUDM/CogVideoX-5b' --published--> ModelSpec with `installed` False

So `sprocket plan` can say what a checkpoint would need before 20 GB are fetched for it. Where each value comes from stands
in the JSON files beside this one, under `source`; `tests/engine/test_facts.py` builds diffusers' and transformers' classes
from the configs and compares every tensor. Once a checkpoint is on the machine, its own files are read instead.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import ModelNotFound
from engine.models.weights import DTYPE_BYTES, WeightFile
from engine.spec import COMPONENTS, ModelSpec, build_spec

FOLDER = Path(__file__).parent
NAMES = ("cogvideox-2b", "cogvideox-5b", "cogvideox-5b-i2v", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v")
OWNERS = ("thudm/", "zai-org/")
"""The same repositories under the authors' old and new name."""


def published_ids() -> tuple[str, ...]:
    """Hub ids of the checkpoints whose facts are bundled."""
    return tuple(_read(f"{name}.json")["id"] for name in NAMES)


def is_published(model: str) -> bool:
    """True where `published(model)` has an answer: a hub id, or its last part, in any case."""
    return _name(model) in NAMES


def configs(model: str) -> dict[str, dict[str, Any]]:
    """The configs of a published checkpoint by component, as they stand in its files. Raises `ModelNotFound`."""
    facts = _facts(model)
    return {part: facts.get(part, {}) for part in COMPONENTS} | {"text_encoder": _read(f"{facts['text_encoder']}.json")["config"]}


@lru_cache(maxsize=len(NAMES))
def published(model: str) -> ModelSpec:
    """The spec of a published checkpoint, by hub id ('THUDM/CogVideoX-5b') or its last part ('cogvideox-5b'), in any case.

    Its `path` is the hub id and `installed` is False: it can be planned, not run. Raises `ModelNotFound`.
    """
    facts, own = _facts(model), configs(model)
    shapes = {"transformer": _name(model), "vae": "vae", "text_encoder": facts["text_encoder"]}
    weights = {part: (_weights(shapes[part], facts["stored"][part], own[part].get("num_layers", 0)),) for part in shapes}
    digest = hashlib.sha256(json.dumps([facts, own], sort_keys=True).encode()).hexdigest()[:40]
    return build_spec(Path(facts["id"]), facts["id"].split("/")[1], facts["model_index"], own, weights, {},
                      fingerprint=digest, installed=False)


def _facts(model: str) -> Any:
    if (name := _name(model)) not in NAMES:
        raise ModelNotFound(f"there are no bundled facts about {model[:80]!r}. Known: {', '.join(published_ids())}.")
    return _read(f"{name}.json")


def _name(model: str) -> str:
    low = model.strip().lower()
    for owner in OWNERS:
        low = low.removeprefix(owner)
    return low


def _weights(part: str, dtype: str, blocks: int) -> WeightFile:
    """What the header of the component's weights promises; `*` in a name stands for every block's number."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for pattern, shape in _read("tensors.json")[part].items():
        for name in [pattern.replace("*", str(block)) for block in range(blocks)] if "*" in pattern else [pattern]:
            tensors[name] = (dtype, tuple(shape))
    size = DTYPE_BYTES[dtype] * sum(math.prod(shape) for _, shape in tensors.values())
    return WeightFile(Path(part), size, 0, tensors)


@lru_cache(maxsize=8)
def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))
