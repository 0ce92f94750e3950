"""Same weights, same seed: the engine gives diffusers' pipeline bit for bit, latents and frames, with the convolutions it runs in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.models.cache import ModelCache
from engine.models.convolution import use_onednn
from engine.models.tokens import check_tokens
from engine.plan import Plan

CASES = [("rope", "dpm", 6.0, 9), ("rope", "dpm", 1.0, 9), ("rope", "ddim", 6.0, 17), ("rope", "ddim", 1.0, 9),
         ("sincos", "dpm", 6.0, 9), ("sincos", "ddim", 1.0, 1), ("1.5", "dpm", 6.0, 9), ("1.5", "ddim", 1.0, 17)]


def reference(job: Plan) -> tuple[Any, np.ndarray]:
    """(latents, uint8 frames) of `CogVideoXPipeline`."""
    import torch
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    pipe = CogVideoXPipeline.from_pretrained(job.spec.path)
    use_onednn(pipe.vae)
    if job.scheduler == "ddim":
        pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    kept: dict[str, Any] = {}

    def keep(_pipe: Any, _index: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.update(values)
        return values

    frames = pipe(prompt=job.prompt, negative_prompt=job.negative, height=job.height, width=job.width,
                  num_frames=job.frames, num_inference_steps=job.steps, guidance_scale=job.guidance,
                  generator=torch.Generator().manual_seed(job.seed), max_sequence_length=job.spec.max_text_tokens,
                  callback_on_step_end=keep, output_type="pil").frames[0]
    return kept["latents"], np.stack([np.asarray(frame) for frame in frames])


@pytest.mark.parametrize(("kind", "scheduler", "guidance", "frames"), CASES)
def test_bit_equal_to_the_pipeline(kind: str, scheduler: str, guidance: float, frames: int,
                                   tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    from engine.sample import SampleState, sample

    job = tiny_plan(kind, scheduler=scheduler, guidance=guidance, frames=frames, negative="blurry")
    latents, expected = reference(job)
    model = cache_of(job).get(job)
    generator = torch.Generator().manual_seed(job.seed)
    text = model.encode(job.prompt, job.negative if job.guided else None)
    assert len(text) == (2 if guidance > 1 else 1)
    state = SampleState(0, model.initial_latents(job.latent_shape, generator), None)
    states = list(sample(model, model.scheduler(scheduler, job.steps), text, state, [job.guidance] * job.steps, generator))
    assert [s.step for s in states] == [1, 2, 3]
    assert torch.equal(states[-1].latents, latents)
    decoded = [c.numpy() for c in model.decode(states[-1].latents[:, job.latent_padding:], job.tile)]
    assert np.array_equal(np.concatenate(decoded), expected)
    assert expected.shape == (frames, job.height, job.width, 3)


def test_the_empty_negative_is_encoded_once_and_equal(tiny_plan: Callable[..., Plan],
                                                      cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    job = tiny_plan()
    model = cache_of(job).get(job)
    first, second = model.encode("a fox", ""), model.encode("a fox", "")
    assert torch.equal(first, second)
    assert torch.equal(first[0], model.encode("", None)[0])


@pytest.mark.parametrize("field", ["prompt", "negative"])
def test_too_many_tokens_are_refused_with_the_count(field: str, tiny_plan: Callable[..., Plan],
                                                    cache_of: Callable[[Plan], ModelCache]) -> None:
    from engine.errors import InvalidRequest

    job = tiny_plan()
    texts = {"prompt": "fox", "negative": "dog"} | {field: "abc " * 8}
    with pytest.raises(InvalidRequest, match=r"has \d+ tokens; tiny-rope reads 16") as caught:
        cache_of(job).get(job).encode(texts["prompt"], texts["negative"])
    assert caught.value.field == field
    with pytest.raises(InvalidRequest) as early:  # the same count, before anything is loaded
        check_tokens(tiny_plan(**texts))
    assert early.value.message == caught.value.message
    check_tokens(job)
    check_tokens(tiny_plan(guidance=1.0, negative=texts["negative"]))  # an unused text may be long


def test_the_fast_parts_are_used_and_equal(tiny_plan: Callable[..., Plan],
                                           cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX

    job = tiny_plan()
    model = cache_of(job).get(job)
    list(model.decode(torch.randn(1, 1, 4, 4, 6), (999, 999)))
    assert "forward" in vars(model.vae.decoder.norm_out)
    stock = AutoencoderKLCogVideoX.from_pretrained(job.spec.path / "vae")
    for frames, height, width in ((1, 4, 6), (2, 10, 8), (3, 2, 2), (5, 6, 10), (7, 8, 12)):
        latents = torch.randn(1, 4, frames, height, width)
        with torch.inference_mode():
            expected = stock.decode(latents).sample[0]
        scaled = latents.permute(0, 2, 1, 3, 4) * job.spec.scaling_factor
        given = torch.cat(list(model.decode(scaled, (999, 999))))
        close = ((expected * 0.5 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 3, 0)
        assert given.shape == close.shape
        assert (given.float() - close).abs().max() <= 1  # scaling there and back may cross a rounding edge


def test_streamed_tiles_equal_diffusers_tiles(tiny_plan: Callable[..., Plan],
                                              cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from engine.models.vae_decode import decode_chunks

    job = tiny_plan()
    stock = AutoencoderKLCogVideoX.from_pretrained(job.spec.path / "vae")
    use_onednn(stock)
    stock.enable_tiling(48, 80)
    latents = torch.randn(1, 4, 5, 8, 14)
    with torch.inference_mode():
        expected = stock.decode(latents).sample
        given = torch.cat(list(decode_chunks(cache_of(job).get(job).vae, latents, (48, 80))), dim=2)
    assert given.shape == (1, 3, 17, 64, 112)
    assert torch.equal(given, expected)


def test_a_replacement_with_other_bits_is_taken_back(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from engine.models import vae_decode

    vae = AutoencoderKLCogVideoX.from_pretrained(tiny() / "vae")
    right = vae_decode._upsample
    monkeypatch.setattr(vae_decode, "_upsample", lambda self, x: right(self, x) * 1.0001)
    assert vae_decode.speed_up(vae, 4) is False
    assert not any("forward" in vars(module) for module in vae.decoder.modules())
    latents = torch.randn(1, 4, 3, 4, 6)
    with torch.inference_mode():
        assert torch.equal(torch.cat(list(vae_decode.decode_chunks(vae, latents, (99, 99))), dim=2), vae.decode(latents).sample)
