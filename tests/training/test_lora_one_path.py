"""The trainer and Create share one path: what one predicts the other does, from the same words, picture, tables and factors."""

from __future__ import annotations

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
    ours = trainer(base, tmp_path / "run", samples=held, batch=1, accumulate=1, caption_dropout=0.0, image_dropout=0.0)
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
