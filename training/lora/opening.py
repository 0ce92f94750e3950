"""From a run's settings to its data: a set that `training.data` encoded, or the pocket world, encoded into the run's own folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save

from engine.video.publish import write_atomic
from training.data.alone import FramesAlone
from training.data.buckets import rules_of
from training.data.cache import build, open_set
from training.data.encode import LoadedEncoders
from training.data.shelf import find_dataset
from training.lora.config import POCKET_WORLD, TrainConfig
from training.lora.rundir import RunDir
from training.lora.samples import HeldSample, HeldSet, SampleSet, encode_set, pocket_world
from training.lora.windows import rates_of

SAMPLES = "samples.safetensors"


def samples_of(run: RunDir, config: TrainConfig, datasets: Path | None) -> Callable[[Any], SampleSet]:
    """What gives the run's set once the base is loaded. `datasets`: the folder of sets by name.

    Raises `InvalidRequest` (dataset) for one that is not there.
    """
    kept = run.folder / SAMPLES
    if config.dataset == POCKET_WORLD or kept.is_file():
        return lambda model: _held(kept, model, config.method)
    _config, facts, _created = run.read()
    dataset, folder = find_dataset(datasets or Path(), config.dataset, owner=facts.get("owner"))  # two people may call theirs alike

    def encoded(model: Any) -> SampleSet:
        if facts.get("data"):  # as it was when the run began, whatever was edited since
            return open_set(folder, facts["data"])
        spec, dtype = model.spec, {"torch.bfloat16": "bf16", "torch.float16": "fp16"}.get(str(model.dtype), "fp32")
        if config.method == "stage-two":
            alone = FramesAlone(LoadedEncoders(model), rates_of(spec.fps))
            return build(dataset, folder, spec, rules_of(spec), device=str(model.device), dtype=dtype, encoders=alone, way=alone.way).cached
        return build(dataset, folder, spec, rules_of(spec), device=str(model.device), dtype=dtype).cached

    return encoded


def _held(kept: Path, model: Any, method: str) -> HeldSet:
    if not kept.is_file():
        save_set(kept, encode_set(model, pocket_world(24), rates=rates_of(model.spec.fps) if method == "stage-two" else ()))
    return load_set(kept)


def save_set(path: Path, made: HeldSet) -> None:
    """A set in one file."""
    tensors, rows = {"empty": made.empty.contiguous()}, []
    for number, entry in enumerate(made.entries):
        for name, value in (("mean", entry.moments[0]), ("std", entry.moments[1]), ("first_mean", entry.first[0]),
                            ("first_std", entry.first[1]), ("text", entry.words), ("picture", entry.shown)):
            tensors[f"{number}.{name}"] = value.contiguous().clone()
        rows.append([entry.key, entry.split, list(entry.bucket), entry.caption])
    write_atomic(path, save(tensors, metadata={"entries": json.dumps(rows)}))


def load_set(path: Path) -> HeldSet:
    """The inverse of `save_set`."""
    with safe_open(path, "pt") as file:
        rows = json.loads(file.metadata()["entries"])
    tensors = load_file(path)
    entries = tuple(HeldSample(key, split, tuple(bucket), caption, (tensors[f"{n}.mean"], tensors[f"{n}.std"]),
                               (tensors[f"{n}.first_mean"], tensors[f"{n}.first_std"]), tensors[f"{n}.text"], tensors[f"{n}.picture"])
                    for n, (key, split, bucket, caption) in enumerate(rows))
    return HeldSet(entries, tensors["empty"])
