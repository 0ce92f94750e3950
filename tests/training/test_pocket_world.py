"""The pocket world draws the same scene from the same seed, keeps its promises and its secrets."""

import numpy as np
import pytest

from training.pocket import world
from training.pocket.scenery import paint_background


def test_a_scene_and_its_pixels_depend_on_the_seed_and_number_only():
    scene = world.scene_at(3, 17)
    assert scene == world.scene_at(3, 17)
    assert scene != world.scene_at(3, 18)
    assert scene != world.scene_at(4, 17)
    again = world.render(world.scene_at(3, 17), 9)
    assert np.array_equal(world.render(scene, 9).video, again.video)


def test_a_tenth_of_the_combinations_is_held_out_and_never_trained_on():
    held = set(world.combinations("held-out"))
    assert len(world.combinations()) == 6 * 8 * 6 * 8
    assert 0.08 < len(held) / len(world.combinations()) < 0.12
    assert held.isdisjoint(world.combinations("train"))
    for index in range(400):
        scene = world.scene_at(0, index, "train", pair_share=0.5)
        for subject in scene.subjects:
            assert (subject.shape, subject.colour, scene.background, scene.motion) not in held
        first = world.scene_at(0, index, "held-out")
        assert (first.subjects[0].shape, first.subjects[0].colour, first.background, first.motion) in held


def test_the_split_never_changes():
    """The released weights were made without these; a different hash would leak them."""
    assert len(world.combinations("held-out")) == 222
    assert world.combinations("held-out")[:2] == [("ball", "red", "night sky", "spins"), ("ball", "red", "desert", "bounces")]


@pytest.mark.parametrize("frames", [1, 9, 25, 49])
def test_subjects_stay_in_the_frame(frames):
    for index in range(60):
        clip = world.render(world.scene_at(11, index, "all", pair_share=0.3), frames)
        assert clip.video.shape == (frames, 128, 192, 3)
        border = np.concatenate([clip.mask[:, 0], clip.mask[:, -1]], axis=1)
        sides = np.concatenate([clip.mask[:, :, 0], clip.mask[:, :, -1]], axis=1)
        assert border.max() == 0 and sides.max() == 0
        assert (clip.mask.reshape(frames, -1).max(1) == 255).all()


def test_paths_lie_on_the_grid_of_patches_wherever_a_subject_is():
    """Bounces stand on the ground, wherever that leaves them; all else has its middle on a corner of the transformer's patches."""
    places = set()
    for index in range(1500):
        scene = world.scene_at(7, index, "all", pair_share=0.3)
        for subject in scene.subjects:
            assert subject.x % world.GRID == 0
            assert subject.y % world.GRID == 0 or scene.motion == "bounces"
        if len(scene.subjects) == 1 and scene.motion == "spins":
            places.add((scene.subjects[0].x, scene.subjects[0].y))
    assert len(places) == 15


@pytest.mark.parametrize("low, high, share, wanted", [(40.0, 90.0, 0.0, 48.0), (40.0, 90.0, 0.999, 80.0), (48.0, 48.0, 0.5, 48.0),
                                                      (33.0, 47.0, 0.2, 40.0)])
def test_a_place_on_the_grid_lies_between_its_bounds(low, high, share, wanted):
    assert world._on_grid(low, high, share) == wanted


def test_part_of_a_clip_equals_that_part():
    scene = world.scene_at(5, 1)
    whole, part = world.render(scene, 25), world.render(scene, 25, only=range(8, 17))
    assert np.array_equal(whole.video[8:17], part.video)
    assert np.array_equal(whole.mask[8:17], part.mask)


def test_edges_are_antialiased():
    clip = world.render(world.scene_at(5, 2), 1)
    assert len(np.unique(clip.mask)) > 20


@pytest.mark.parametrize("width,height", [(96, 64), (256, 128), (128, 128)])
def test_other_sizes_scale_the_canvas(width, height):
    clip = world.render(world.scene_at(5, 3), 9, width, height)
    assert clip.video.shape == (9, height, width, 3)
    assert clip.mask.max() == 255


def test_subjects_are_colourful_and_backgrounds_are_not():
    for name in world.BACKGROUNDS:
        stage = paint_background(name, (0.0, 0.0, 0.0), 192, 128)
        assert (stage.max(-1) - stage.min(-1)).max() < 90
    for rgb in world.COLOURS.values():
        assert max(rgb) - min(rgb) > 120


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split 'test'"):
        world.scene_at(0, 0, "test")
