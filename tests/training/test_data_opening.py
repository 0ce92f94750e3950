"""A run finds its own set again: by its id, as it was when the run began, and whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InvalidRequest
from engine.spec import ModelSpec, read_spec
from tests.engine.media_files import write_video
from tests.engine.tiny import save_tiny
from tests.training.lora_tools import config
from training.data import edits
from training.data.buckets import rules_of
from training.data.cache import CachedSet, build, latents_file
from training.data.records import Dataset, write_json
from training.data.shelf import MANIFEST
from training.data.sources import Found
from training.data.store import Damaged
from training.data.taking import Taken, take
from training.lora.forecast import largest_bucket
from training.lora.opening import samples_of
from training.lora.rundir import RunDir


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    torch.set_num_threads(1)
    return read_spec(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def put(root: Path, dataset: Dataset) -> Dataset:
    (root / dataset.id).mkdir(parents=True, exist_ok=True)
    (root / dataset.id / MANIFEST).write_bytes(write_json(dataset))
    return dataset


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    """A set called 'made', as the run's settings name it, in `tmp_path / "sets"`."""
    clips = []
    for number in range(2):
        pictures = [np.full((64, 96, 3), 5 * step + 40 * number, np.uint8) for step in range(36)]
        path = write_video(tmp_path / f"{number}.mp4", pictures, fps=24)
        answer = take(Found(path, f"clip {'ab'[number]}", path.name), tmp_path / "elsewhere")
        assert isinstance(answer, Taken)
        clips.append(answer.clip)
    return put(tmp_path / "sets", Dataset(id="a" * 12, owner="ann", name="made", source="", layout="", created_at=0.0, changed_at=0.0,
                                          clips=tuple(clips), held_out=0.0))


@pytest.fixture
def run(tmp_path: Path, spec: ModelSpec) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create(config(Path(spec.path)))
    return made


def opened(run: RunDir, spec: ModelSpec, sets: Path) -> CachedSet:
    """What the session does: the set is opened, and its digest kept."""
    model: Any = SimpleNamespace(spec=spec, dtype=torch.float32, device="cpu")
    samples: Any = samples_of(run, run.read()[0], sets)(model)
    settings, facts, _ = run.read()
    run.write(settings, facts | {"data": samples.digest})
    return samples  # type: ignore[no-any-return]


def warnings(run: RunDir) -> list[str]:
    return [event["text"] for event in run.events() if event["kind"] == "warning"]


def test_a_run_goes_on_with_its_own_set_whatever_it_is_called_by_then(run: RunDir, spec: ModelSpec, made: Dataset, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    before = opened(run, spec, sets)
    put(sets, edits.with_name(made, "another name"))
    assert opened(run, spec, sets) == before
    put(sets, Dataset(id="b" * 12, owner="ann", name="made", source="", layout="", created_at=0.0, changed_at=0.0, clips=made.clips[:1]))
    assert opened(run, spec, sets) == before
    put(sets, made)  # two are called so now
    assert opened(run, spec, sets) == before and not warnings(run)
    (sets / made.id).rename(tmp_path / "gone")
    with pytest.raises(InvalidRequest, match=f"'made' .the set {made.id}., which this run began with, is not here any more"):
        opened(run, spec, sets)


def test_sizes_are_those_that_the_run_asks_for(tmp_path: Path, spec: ModelSpec, made: Dataset) -> None:
    path = write_video(tmp_path / "tall.mp4", [np.full((96, 64, 3), 5 * step, np.uint8) for step in range(36)], fps=24)
    answer = take(Found(path, "clip c", path.name), tmp_path / "elsewhere")
    assert isinstance(answer, Taken)
    sets, dataset = tmp_path / "sets", put(tmp_path / "sets", replace(made, clips=(*made.clips, answer.clip)))
    ahead = build(dataset, sets / dataset.id, spec, rules_of(spec, shapes="aspect"))  # `sprocket dataset cache --shapes aspect`
    assert ahead.clips == 3
    written = {file: file.stat().st_mtime_ns for file in (sets / dataset.id / "cache").rglob("*.safetensors")}
    for shapes, tall in (("aspect", (3, 12, 8)), ("native", (3, 8, 12))):
        run = RunDir(tmp_path / shapes)
        run.create(config(Path(spec.path), shapes=shapes))
        samples = opened(run, spec, sets)
        assert [tuple(entry.latents()[0].shape[1:]) for entry in samples.train] == [(3, 8, 12), (3, 8, 12), tall]
        now = {file: file.stat().st_mtime_ns for file in (sets / dataset.id / "cache").rglob("*.safetensors")}
        assert (now == written) is (shapes == "aspect") and now.items() >= written.items()
    square = largest_bucket(spec, config(Path(spec.path), shapes="aspect"))
    assert square == (9, 80, 80) and largest_bucket(spec, config(Path(spec.path))) == (9, 64, 96)


def test_a_flipped_bit_heals_when_the_run_is_opened_and_is_told(run: RunDir, spec: ModelSpec, made: Dataset, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    before = opened(run, spec, sets)
    path = latents_file(before.folder, before.entries[1].latents_key)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(Damaged, match="resume the run"):
        before.entries[1].latents()
    put(sets, edits.with_caption(made, made.clips[0].id, "clip z"))  # edited meanwhile: the run goes on with the set as it was
    assert opened(run, spec, sets) == before and path.read_bytes() == whole
    assert warnings(run) == ["the latents of 1.mp4 were damaged or gone, and were made again."]
    put(sets, made)
    listed = before.folder / "sets" / f"{before.digest}.json"
    kept = listed.read_bytes()
    listed.write_bytes(kept[:50])
    assert opened(run, spec, sets) == before and listed.read_bytes() == kept and "list of clips was damaged" in warnings(run)[-1]


def test_what_cannot_be_encoded_again_is_named(run: RunDir, spec: ModelSpec, made: Dataset, tmp_path: Path) -> None:
    before = opened(run, spec, tmp_path / "sets")
    latents_file(before.folder, before.entries[0].latents_key).unlink()
    (tmp_path / "0.mp4").unlink()
    with pytest.raises(Damaged, match=r"latents of 0\.mp4 in the cache of 'made' .* The run goes on when its file is back"):
        opened(run, spec, tmp_path / "sets")
