"""Datasets in a folder of datasets, for those who know no studio: a trainer in a process of its own."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidRequest
from training.data.records import DATASET_ID, Dataset, DatasetDamaged, read_json

MANIFEST = "dataset.json"
DATASET_FACT = "dataset"
"""Among the facts of a training run: the id of its set, which stays when the set, or another one, is given another name."""


def find_dataset(root: Path, text: str, *, owner: str | None = None) -> tuple[Dataset, Path]:
    """(the dataset, its folder) of an id or a name below `root`; `owner` None: whosever it is.

    Raises InvalidRequest (field 'dataset') naming what is there, DatasetDamaged for the one that was asked for.
    """
    if DATASET_ID.fullmatch(text) and (root / text / MANIFEST).is_file():
        found = read_json(root / text / MANIFEST)
        if owner in (None, found.owner):
            return found, root / text
    there = []
    for path in sorted(root.glob(f"*/{MANIFEST}")) if root.is_dir() else ():
        try:
            there.append((read_json(path), path.parent))
        except DatasetDamaged:
            continue
    there = [each for each in there if DATASET_ID.fullmatch(each[1].name) and owner in (None, each[0].owner)]
    named = [each for each in there if each[0].name == text]
    if len(named) == 1:
        return named[0]
    many = f"is the name of {len(named)} sets; use the id of one" if named else "is no set of clips here"
    names = ", ".join(f"{each.name!r} ({each.id})" for each, _ in there[:8]) or "none; `sprocket dataset import` takes one in"
    raise InvalidRequest("dataset", f"{text[:80]!r} {many}. There are: {names}.")
