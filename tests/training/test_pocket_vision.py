"""The detector that judges the model is itself judged, on drawings whose truth is known."""

import numpy as np
import pytest

from bench.pocket_eval import ATTRIBUTES, Case, held_out_scene, scores
from bench.pocket_vision import Reading, read_clip
from training.pocket import world
from training.pocket.scenery import paint_background


def test_the_detector_reads_drawings():
    cases = []
    for index in range(50):
        scene = world.scene_at(99, index, "held-out", pair_share=0.0)
        subject = scene.subjects[0]
        truth = Reading(subject.shape, subject.colour, scene.background, scene.motion)
        cases.append(Case("", truth, read_clip(world.render(scene, 25).video)))
    table = scores(cases)
    assert all(table[name] >= 0.98 for name in ATTRIBUTES), table


def test_an_empty_stage_has_no_subject():
    stage = paint_background("sea", (0.0, 0.0, 0.0), 192, 128).astype(np.uint8)
    assert read_clip(np.repeat(stage[None], 9, 0)) == Reading("none", "none", "sea", "none")


@pytest.mark.parametrize("index", [0, 7, 300])
def test_evaluation_captions_are_held_out_and_fixed(index):
    prompt, truth = held_out_scene(index)
    assert (prompt, truth) == held_out_scene(index)
    assert world.is_held_out(truth.shape, truth.colour, truth.background, truth.motion)
