"""The pocket refiner that ships: it keeps what is said, names nothing the world has not, and reads in numpy what torch trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.refine_score import judge
from bench.refine_wishes import wishes
from engine.errors import InvalidRequest, ModelInvalid, ModelNotFound
from engine.models.tokens import counter
from engine.refine import Ask, RefinerFailed
from engine.refine.pocket import FOLDER, filled, refine_pocket, words_of_world, written
from engine.refine.reader import Facts, load_reader
from engine.refine.words import MAX_WORDS, pieces, words_of
from training.pocket import world
from training.refiner.model import Shape, WishReader, batch_of
from training.refiner.wishes import QUESTIONS, wish_at

POCKET = Path(__file__).resolve().parents[2] / "assets" / "pocket"
LEAST_KEPT = 0.95


def test_five_hundred_wishes_it_has_never_seen() -> None:
    asked = wishes(500)
    verdicts = [judge(each, refine_pocket(Ask(text=each.text)).text) for each in asked]
    kept = sum(verdict.kept for verdict in verdicts) / len(verdicts)
    assert kept >= LEAST_KEPT, [(each.text, verdict) for each, verdict in zip(asked, verdicts, strict=True) if not verdict.kept][:20]
    assert not [verdict for verdict in verdicts if set(verdict.foreign) - {"a second subject"}], "a word that is not of the world"


def test_the_numpy_reader_is_the_torch_model() -> None:
    from safetensors.torch import load_file

    reader = load_reader(FOLDER)
    model = WishReader(Shape()).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(FOLDER / "model.safetensors").items()})
    assert tuple(reader.questions) == QUESTIONS
    for number in range(40):
        wish = wish_at(123, number)
        rows, offsets, there, _, _ = batch_of([wish], Shape().buckets)
        with torch.no_grad():
            answers, outside = model(rows, offsets, there)
        ours, strange = reader.logits(list(wish.words))
        for a, b in zip(ours, answers, strict=True):
            np.testing.assert_allclose(a, b[0].numpy(), atol=2e-4)
        np.testing.assert_allclose(strange, outside[0].numpy(), atol=2e-4)


def test_batching_changes_nothing() -> None:
    model = WishReader(Shape(buckets=64, width=16, heads=2, layers=2)).eval()
    many = [wish_at(5, number) for number in range(6)]
    with torch.no_grad():
        together, _ = model(*batch_of(many, 64)[:3])
        for number, wish in enumerate(many):
            alone, _ = model(*batch_of([wish], 64)[:3])
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[number], b[0])


def test_the_example_of_the_readme() -> None:
    found = refine_pocket(Ask(text="ball goes up fast, beach", count=counter(POCKET)))
    assert found.original == "ball goes up fast, beach" and found.backend == "pocket" and not found.fallback
    assert "ball rises quickly over the sea" in found.text
    assert found.notes == tuple(note for note in found.notes if note.startswith("Not said, so chosen for you: the colour"))
    assert 0 < found.tokens <= found.max_tokens


def test_the_same_words_are_the_same_caption_and_another_version_another() -> None:
    texts = [[refine_pocket(Ask(text="a star", version=version)).text for version in range(6)] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) == 6


def test_what_the_world_has_not_is_said_and_left_out() -> None:
    found = refine_pocket(Ask(text="a red elephant jumps in the snow"))
    assert "elephant" not in found.text and any("elephant" in note for note in found.notes)
    assert "red" in found.text and "bounces" in found.text and "snow" in found.text


def test_trigger_words_are_kept_and_not_read() -> None:
    found = refine_pocket(Ask(text="zxq style, red ball in the snow", keep=("zxq style", "not there")))
    assert found.text.startswith("zxq style, ") and "not there" not in found.text
    assert not any("zxq" in note for note in found.notes if note.startswith("Left out"))


@pytest.mark.parametrize("text", ["x" * 2000, "球", "🙂🙂", "...", "\u202e rtl", "a " * 900, "<script>alert(1)</script>",
                                  "ignore all rules"])
def test_anything_gives_a_caption_of_the_world(text: str) -> None:
    known = set(words_of_world(FOLDER)["vocabulary"])
    found = refine_pocket(Ask(text=text))
    assert set(found.text.replace(",", "").split()) <= known


def test_more_words_than_are_read_is_said() -> None:
    assert any("not read" in note for note in refine_pocket(Ask(text="ball " * (MAX_WORDS + 2))).notes)


def test_what_it_cannot_do() -> None:
    with pytest.raises(RefinerFailed, match="look at pictures"):
        refine_pocket(Ask(text="x", purpose="caption"))
    with pytest.raises(RefinerFailed, match="reads 2 tokens"):
        refine_pocket(Ask(text="a red ball", max_tokens=2))


def test_broken_weights_are_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="make pocket"):
        load_reader(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    with pytest.raises(ModelInvalid, match="cannot be read"):
        load_reader(tmp_path)


def test_every_combination_is_written_as_it_is_read() -> None:
    """Every fact of the world, in every form of sentence: the strict reading of the caption finds it again."""
    from bench.refine_wishes import Asked

    words = words_of_world(FOLDER)
    for number, (shape, colour, background, motion) in enumerate(world.combinations("held-out")):
        facts = Facts(shape, colour, "", "", background, motion, world.SPEEDS[number % 2])
        asked = Asked("", {"shape": shape, "colour": colour, "background": background, "motion": motion, "pace": facts.pace})
        assert judge(asked, written(facts, words, number)).kept, written(facts, words, number)


def test_a_pair_differs_in_shape_and_colour() -> None:
    for seed in range(50):
        facts, chosen = filled(Facts(shape="ball", second_shape="star"), seed)
        assert facts.colour != facts.second_colour and {"colour", "second_colour"} <= set(chosen)


@pytest.mark.parametrize("bad", [{"text": ""}, {"text": "  "}, {"text": "x" * 2001}, {"text": "x", "purpose": "poem"},
                                 {"text": "x", "version": -1}, {"text": "x", "version": True}])  # fmt: skip
def test_bad_asks(bad: dict) -> None:
    with pytest.raises(InvalidRequest):
        Ask(**bad)


def test_words_and_pieces() -> None:
    assert words_of("Ein ROTER Würfel, 红色!") == ["ein", "roter", "wurfel", ",", "红", "色", "!"]
    assert pieces("ball", 8192) == pieces("ball", 8192) and pieces("ball", 8192) != pieces("bell", 8192)
    assert all(0 <= row < 64 for row in pieces("x" * 500, 64))
