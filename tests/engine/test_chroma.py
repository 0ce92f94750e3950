"""Colour in a quarter of the samples: given frames come back at 40 dB, flat colours as they are, readers find colour in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.media.clip import read_frames
from engine.video.chroma import halved
from engine.video.writer import ClipWriter
from training.pocket import world

RECIPE = {"app_version": "1", "request": {"model": "m", "seed": 1}}
CLIP = world.render(world.scene_at(7, 0, "held-out"), 5).video


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def read_back(folder: Path, *, faithful: bool) -> float:
    """dB of a written file, over all its frames."""
    path = folder / f"{faithful}.mp4"
    with ClipWriter(path, width=192, height=128, fps=8, frames=len(CLIP), recipe=RECIPE, faithful=faithful) as writer:
        writer.write(CLIP)
        writer.finish()
    return psnr(read_frames(path, frames=len(CLIP), width=192, height=128, fit="crop"), CLIP)


def test_given_frames_come_back(tmp_path: Path) -> None:
    plain, faithful = (read_back(tmp_path, faithful=each) for each in (False, True))
    assert faithful >= 40 and faithful > plain + 1.5


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 60, 40), (10, 180, 250), (255, 0, 0)])
def test_flat_colours_are_what_they_are(colour: tuple[int, int, int]) -> None:
    frame = halved(np.full((20, 36, 3), colour, np.uint8))
    back = frame.to_ndarray(format="rgb24")
    assert np.abs(back.astype(int) - colour).max() <= 2 and back.shape == (20, 36, 3)


def test_the_brightness_is_that_of_every_pixel() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (16, 24, 1), dtype=np.uint8).repeat(3, axis=2)
    frame = halved(grey)
    luma = np.array(np.frombuffer(frame.planes[0], np.uint8)).reshape(16, -1)[:, :24]
    assert np.abs(luma - (16 + grey[..., 0].astype(float) * 219 / 255)).max() <= 0.51


def test_a_sample_lies_in_the_middle_of_its_four_pixels() -> None:
    """Read with the standard's own siting, half a pixel to the left, an edge of colour would come back shifted."""
    left = np.zeros((16, 32, 3), np.uint8)
    left[:, :16] = (200, 40, 40)
    left[:, 16:] = (40, 40, 200)
    frame = halved(left)
    red = np.frombuffer(frame.planes[2], np.uint8).reshape(8, -1)[:, :16].astype(int)
    middle = red[4, :8].mean() / 2 + red[4, 8:].mean() / 2
    assert np.abs((red[4] - middle) + (red[4] - middle)[::-1]).max() <= 1  # the two sides mirror each other
