"""Captions name every attribute, in many ways, and every word of them is one token."""

import numpy as np

from training.pocket import world
from training.pocket.captions import HUES, MOVES, NOUNS, PACES, PLACES, caption, vocabulary
from training.pocket.models import TEXT_TOKENS
from training.pocket.tokenizer import build_tokenizer, entries, fold_table


def said(text: str, table: dict[str, tuple]) -> set[str]:
    """Keys of a table with at least one phrase in the text."""
    padded = f" {text.rstrip('.').replace(',', ' ,')} "

    def spoken(key: str, phrases: tuple) -> bool:
        forms = [key, *(form for p in phrases for form in ((p,) if isinstance(p, str) else p))]
        return any(f" {form} " in padded for form in forms)

    return {key for key, phrases in table.items() if spoken(key, phrases)}


def test_captions_can_be_parsed_back_to_the_scene():
    rng = np.random.default_rng(0)
    for index in range(500):
        scene = world.scene_at(1, index, "all", pair_share=0.2)
        text = caption(scene, rng)
        for subject in scene.subjects:
            assert subject.shape in said(text, NOUNS), text
            assert subject.colour in said(text, HUES), text
        assert scene.background in said(text, PLACES), text
        assert scene.motion in said(text, MOVES), text
        assert said(text, PACES) <= {scene.speed}, text


def test_captions_vary_and_are_reproducible():
    scene = world.scene_at(1, 0)
    texts = {caption(scene, np.random.default_rng(n)) for n in range(100)}
    assert len(texts) > 80
    assert caption(scene, np.random.default_rng(5)) == caption(scene, np.random.default_rng(5))


def test_captions_are_tidy():
    rng = np.random.default_rng(2)
    for index in range(500):
        text = caption(world.scene_at(2, index), rng)
        assert text == text.lower().strip()
        assert "  " not in text and " ," not in text and ",," not in text and "{" not in text


def test_every_caption_fits_and_has_no_unknown_token():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(3)
    longest = 0
    for index in range(500):
        ids = tokenizer(caption(world.scene_at(3, index, pair_share=0.5), rng)).input_ids
        assert tokenizer.unk_token_id not in ids
        longest = max(longest, len(ids))
    assert longest <= TEXT_TOKENS


def test_any_case_and_any_letter_is_read():
    tokenizer, fold = build_tokenizer(), fold_table()
    plain = tokenizer("a red ball rises").input_ids
    assert fold[tokenizer("A RED Ball rises").input_ids].tolist() == plain
    assert tokenizer.unk_token_id not in tokenizer('A "zeppelin" (über 9,000!) — café').input_ids


def test_the_tokenizer_survives_saving(tmp_path):
    from transformers import T5Tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = T5Tokenizer.from_pretrained(tmp_path)
    text = "A three-sided shape, slowly falling!"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert len(set(entries())) == len(entries()) == len(tokenizer)
    assert len(vocabulary()) > 200
