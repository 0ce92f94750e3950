"""The recipe of the pocket refiner on a toy: the same twice, resumed = uninterrupted, exported = trained."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from engine.refine.reader import load_reader
from training.pocket import world
from training.refiner.lexicon import OUTSIDE, tables
from training.refiner.model import Shape
from training.refiner.recipe import RefinerRecipe, export_refiner, make_refiner, run_refiner
from training.refiner.wishes import QUESTIONS, WIDER, wish_at

TOY = RefinerRecipe(shape=Shape(buckets=256, width=16, heads=2, layers=1), steps=6, wider_steps=4, batch=8)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "refiner.safetensors")


def test_resumed_is_uninterrupted(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    run_refiner(TOY, folders[0])
    for until in (3, 6, 8, 10):
        run_refiner(TOY, folders[1], until=until)
    whole, parts = map(weights, folders)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_is_exported_reads_as_what_was_trained(tmp_path: Path) -> None:
    make_refiner(tmp_path, tmp_path / "out", recipe=TOY)
    reader = load_reader(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["steps"] == 10
    assert reader.questions == QUESTIONS and reader.weights["place"].shape == (48, 16)
    export_refiner(TOY, tmp_path, tmp_path / "again")
    for name in ("model.safetensors", "config.json", "world.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_wishes_are_a_function_of_their_number_and_hold_no_held_out_combination() -> None:
    for number in range(400):
        wish = wish_at(3, number, WIDER)
        assert wish == wish_at(3, number, WIDER) and len(wish.words) == len(wish.outside)
        shape, colour, _, _, background, motion, _ = wish.facts
        known = all(fact != "none" for fact in (shape, colour, background, motion))
        assert not (known and world.is_held_out(shape, colour, background, motion))


def test_a_phrase_means_one_thing() -> None:
    for name, table in (*tables().items(), *WIDER[0].items()):
        phrases = [phrase for fact in table for phrase in table[fact]]
        assert len(phrases) == len(set(phrases)), name
        assert not set(phrases) & set(OUTSIDE)


def test_what_ships_is_small() -> None:
    folder = Path(__file__).resolve().parents[2] / "assets" / "pocket-refiner"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 2**20
