"""The new concepts of the training bench: their clips show them, those of the pocket's own world do not, and no word of them is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.concepts import CONCEPTS
from training.pocket import world
from training.pocket.captions import vocabulary


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_concept_is_new_and_can_be_told(name: str) -> None:
    concept = CONCEPTS[name]
    assert concept.word not in vocabulary()
    drawn = [concept.render(0, index)[::2] for index in range(6)]
    assert all(concept.shown(video) for video in drawn)
    assert all(concept.word in concept.caption(0, index) for index in range(25))
    scenes = [world.scene_at(5, index, pair_share=0.0) for index in range(40)]
    assert {scene.motion for scene in scenes} == set(world.MOTIONS)
    assert not any(concept.shown(np.asarray(world.render(scene, 25).video)) for scene in scenes)
