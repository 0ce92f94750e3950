"""From a run's settings to its data: a set that `training.data` encoded, or the pocket world, encoded into the run's own folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save

from engine.errors import InvalidRequest
from engine.video.publish import write_atomic
from training.data.alone import FramesAlone
from training.data.buckets import rules_of
from training.data.cache import CachedSet, build, mend, open_set
from training.data.encode import LoadedEncoders
from training.data.records import Dataset
from training.data.shelf import DATASET_FACT, MANIFEST, find_dataset
from training.data.store import Damaged
from training.lora.config import POCKET_WORLD, TrainConfig
from training.lora.processes import first_process
from training.lora.rundir import RunDir
from training.lora.samples import HeldSample, HeldSet, SampleSet, encode_set, pocket_world
from training.lora.windows import rates_of

SAMPLES = "samples.safetensors"


def samples_of(run: RunDir, config: TrainConfig, datasets: Path | None) -> Callable[[Any], SampleSet]:
    """What gives the run's set once the base is loaded. `datasets`: the folder of sets by id.

    Raises `InvalidRequest` (dataset) for one that is not there.
    """
    kept = run.folder / SAMPLES
    if config.dataset == POCKET_WORLD or kept.is_file():
        return lambda model: _held(kept, model, config.method)
    dataset, folder = _dataset_of(run, config, datasets or Path())
    _config, facts, _created = run.read()

    def encoded(model: Any) -> SampleSet:
        spec, dtype = model.spec, {"torch.bfloat16": "bf16", "torch.float16": "fp16"}.get(str(model.dtype), "fp32")
        alone = FramesAlone(LoadedEncoders(model), rates_of(spec.fps)) if config.method == "stage-two" else None
        how: dict[str, Any] = {"device": str(model.device), "dtype": dtype, "encoders": alone, "way": alone.way if alone else ""}
        begun, rules = _as_begun(run, folder, facts.get("data")), rules_of(spec, shapes=config.shapes)
        if begun is None:
            return build(dataset, folder, spec, rules, **how).cached
        for words in mend(begun, dataset, spec, rules, **how):
            _tell(run, words)
        return begun

    return encoded


def _dataset_of(run: RunDir, config: TrainConfig, datasets: Path) -> tuple[Dataset, Path]:
    """The set that the run began with, whatever it and others are called by now: its id is kept in the run's facts."""
    _config, facts, _created = run.read()
    known = facts.get(DATASET_FACT)
    if known is None:
        found = find_dataset(datasets, config.dataset, owner=facts.get("owner"))  # two people may call theirs alike
        if first_process(os.environ):
            run.write(config, facts | {DATASET_FACT: found[0].id})
        return found
    if not (datasets / str(known) / MANIFEST).is_file():
        raise InvalidRequest("dataset", f"{config.dataset[:80]!r} (the set {known}), which this run began with, is not here any more. "
                                        "Begin a new run with another set; this one can only be stopped or deleted.")
    return find_dataset(datasets, str(known), owner=facts.get("owner"))


def _as_begun(run: RunDir, folder: Path, digest: str | None) -> CachedSet | None:
    """The encoded set as it was when the run began, whatever was edited since; None for a run that begins. Where the list of it is damaged
    it is None as well: the set is built anew, and the session compares its digest."""
    if digest is None:
        return None
    try:
        return open_set(folder, digest)
    except Damaged as error:
        _tell(run, f"The list of clips was damaged and is made again: {error}")
        return None


def _tell(run: RunDir, words: str) -> None:
    if first_process(os.environ):
        run.tell("warning", text=words)


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
