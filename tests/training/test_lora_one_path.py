"""The trainer and Create share one path: what one predicts the other does, from the same words, picture, tables and factors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.memory import everywhere
from engine.models.accelerate import Ways
from engine.models.cogvideox import CogVideoX
from engine.spec import read_spec
from engine.speed import KERNELS
from tests.training.lora_tools import base_of, trainer
from training.lora.samples import Clip, encode_set
from training.lora.streams import generator, normal

KINDS = ["rope", "sincos", "1.5", "i2v-rope", "i2v-sincos", "i2v-1.5"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainers_prediction_is_creates(tmp_path: Path, kind: str) -> None:
    """Words, a picture and noise through both, from pixels on: encoding, scale factors, first frame, padding, rotary tables, offset."""
    base = base_of(tmp_path, kind)
    spec = read_spec(base)
    create = CogVideoX(spec, dtype="fp32", device="cpu", placement=everywhere("fp32", "resident", (64, 96), tiled=False),
                       ways=Ways(KERNELS[0], False, False))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), np.uint8)
    held = encode_set(create, [Clip(pixels, "a fox")] * 2)
    ours = trainer(base, tmp_path / "run", samples=held, batch=1, accumulate=1, caption_dropout=0.0, image_dropout=0.0, image_noise=False)
    batch = ours.batches.visit([ours.samples.train[0]], 0)

    text = create.encode("a fox", None)
    assert torch.equal(batch.text, text)
    beside = None
    if kind.startswith("i2v"):
        moments = [part for _, part in create.encode_frames(pixels[:1], (64, 96))]
        beside = create.image_beside(moments, tuple(batch.noisy.shape), generator(0, "image-posterior", 0))
        assert batch.beside is not None
        torch.testing.assert_close(batch.beside, beside, rtol=0, atol=1e-6)
    said = create.predict(batch.noisy, batch.times[0], text, beside)
    trained = ours.velocity(batch.noisy, batch.times, batch.text, batch.beside)
    assert trained.requires_grad and not said.requires_grad
    torch.testing.assert_close(trained.detach(), said, rtol=1e-5, atol=1e-6)

    # and from clean latents with Create's own noise schedule: the step a clip is made by undoes what the trainer's noise did
    clean, noise = ours.batches.drawn(held.train[0].latents(), "posterior", 0), normal(tuple(batch.noisy.shape[1:]), 0, "noise", 0)
    again = create.scheduler("ddim", 4).scheduler.add_noise(clean[None], noise[None], batch.times)  # type: ignore[attr-defined]
    torch.testing.assert_close(batch.noisy, again, rtol=1e-5, atol=1e-5)
    create.close()


@pytest.mark.parametrize("kind", ["i2v-rope", "i2v-1.5"])
def test_a_first_frame_has_fresh_noise_at_every_visit(tmp_path: Path, kind: str) -> None:
    """Drawn by the number of the visit, of the published strength, and encoded as Create encodes a picture."""
    ours = trainer(base_of(tmp_path, kind), tmp_path / "run", image_dropout=0.0)
    sample, batches = ours.samples.train[0], ours.batches
    clean = sample.picture().permute(2, 0, 1).float() / 255 * 2 - 1
    strengths = torch.stack([(batches.noised_picture(sample, visit) - clean).std().log() for visit in range(200)])
    assert abs(float(strengths.mean()) + 3) < 0.15 and abs(float(strengths.std()) - 0.5) < 0.1
    shape = tuple(batches.visit([sample], 0).noisy.shape[1:])
    shown = [batches.beside(sample, shape, visit) for visit in (0, 1, 0)]
    assert torch.equal(shown[0], shown[2]) and not torch.equal(shown[0], shown[1])
    assert torch.count_nonzero(shown[0][1:]) == 0 and torch.count_nonzero(shown[0][0])

    pixels = sample.picture().numpy()
    moments = torch.cat([part for _, part in ours.model.encode_frames(pixels[None], pixels.shape[:2])], dim=2)[0]
    assert batches.encode is not None
    torch.testing.assert_close(batches.encode(clean), moments, rtol=0, atol=1e-6)
    dropped = trainer(base_of(tmp_path, kind), tmp_path / "none", image_dropout=1.0)
    assert torch.count_nonzero(dropped.batches.beside(sample, shape, 0)) == 0
    assert dropped.model.components["vae"].home.residency == "staged"  # not kept loaded for nothing
    clear = trainer(base_of(tmp_path, kind), tmp_path / "clear", image_noise=False)
    assert clear.look() == ours.look()  # held-out clips start from the frame itself, as Create does
    assert math.isfinite(ours.update().loss)
