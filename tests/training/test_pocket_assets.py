"""The released pocket models load with stock classes, obey their size limits and run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image

from engine.cache.magnitude import SHIPPED
from engine.cache.measured import FILE as MEASURED
from engine.interpolate.adapter import FILE, read_facts
from engine.spec import read_spec
from training.pocket import world
from training.pocket.arithmetic import native
from training.pocket.captions import caption

FOLDER = Path(__file__).parents[2] / "assets" / "pocket"
ANIMATOR = FOLDER.with_name("pocket-i2v")
STAGE_TWO = FOLDER.with_name("pocket-stage2")


@pytest.fixture(scope="module")
def pipeline():
    loaded = CogVideoXPipeline.from_pretrained(FOLDER, dtype=native())
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_files_are_small_and_only_safetensors_hold_weights():
    sizes = {path: path.lstat().st_size for folder in (FOLDER, ANIMATOR, STAGE_TWO) for path in folder.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 16 * 2**20
    assert sum(sizes.values()) < 40 * 2**20
    assert not [path for path in sizes if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


def test_the_stock_pipeline_runs_it_at_its_native_size(pipeline):
    result = pipeline(
        "A red ball rises slowly over the sea.",
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=4.0,
        max_sequence_length=48,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    assert result.frames.shape == (1, 9, 128, 192, 3)
    assert np.isfinite(result.frames).all()
    assert result.frames.std() > 0.02


def test_the_stock_pipeline_of_image_to_video_runs_it_and_shares_what_it_can(pipeline):
    animator = CogVideoXImageToVideoPipeline.from_pretrained(ANIMATOR, dtype=native())
    animator.set_progress_bar_config(disable=True)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        assert (ANIMATOR / part).resolve() == FOLDER / part
    scene = world.scene_at(5, 1)
    picture = Image.fromarray(world.render(scene, 25, only=range(1)).video[0])
    result = animator(picture, caption(scene, np.random.default_rng(0)), num_frames=9, num_inference_steps=4, max_sequence_length=48,
                      generator=torch.Generator().manual_seed(0), output_type="np")
    assert result.frames.shape == (1, 9, 128, 192, 3)
    assert np.isfinite(result.frames).all()


def test_the_scheduler_starts_from_pure_noise(pipeline):
    config = pipeline.scheduler.config
    assert config.prediction_type == "v_prediction"
    assert config.rescale_betas_zero_snr and config.timestep_spacing == "trailing"
    assert float(pipeline.scheduler.alphas_cumprod[-1]) == 0.0


def test_case_does_not_change_what_is_read(pipeline):
    def encode(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, return_tensors="pt").input_ids
        return pipeline.text_encoder(ids).last_hidden_state

    assert torch.equal(encode("a red ball rises"), encode("A RED Ball rises"))


def test_preview_colours_and_recommendations_are_there(pipeline):
    rgb = json.loads((FOLDER / "latent_rgb.json").read_text())
    assert np.array(rgb["weight"]).shape == (pipeline.vae.config.latent_channels, 3)
    assert np.array(rgb["bias"]).shape == (3,)
    facts = json.loads((FOLDER / "sprocket.json").read_text())
    assert facts["recommended"]["num_frames"] == 25 and facts["max_frames"] == 49


def test_what_was_made_for_the_weights_was_made_for_these():
    """Magnitudes, measured shortcuts and the stage-two adapter are of no use to other weights: whoever changes these makes those anew."""
    own = read_spec(FOLDER, "pocket").fingerprint
    assert json.loads((FOLDER / SHIPPED).read_text())["fingerprint"] == own
    assert json.loads(MEASURED.read_text())["about"]["fingerprint"] == own
    assert read_facts(STAGE_TWO / FILE).base == read_spec(ANIMATOR, "pocket-i2v").fingerprint
