"""Image to video and video to video: the engine gives diffusers' pipelines bit for bit, with the convolutions it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.guidance import guidance_weights
from engine.models.cache import ModelCache
from engine.models.convolution import use_onednn
from engine.plan import Plan

IMAGE, VIDEO = f"{'a' * 64}.png", f"{'b' * 64}.mp4"


def frames_of(count: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 (count, height, width, 3): a moving gradient with noise."""
    noise = np.random.default_rng(3).integers(0, 60, (count, height, width, 3))
    ramp = np.linspace(0, 150, width)[None, None, :, None] + np.arange(count)[:, None, None, None] * 4
    return (noise + ramp).clip(0, 255).astype(np.uint8)


def pipeline(job: Plan) -> Any:
    import diffusers
    import torch

    kind = {"t2v": "CogVideoXPipeline", "i2v": "CogVideoXImageToVideoPipeline", "v2v": "CogVideoXVideoToVideoPipeline"}[job.mode]
    pipe = getattr(diffusers, kind).from_pretrained(job.spec.path, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[job.dtype])
    if job.scheduler == "ddim":
        pipe.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    use_onednn(pipe.vae)
    return pipe


def reference(job: Plan, **given: Any) -> tuple[Any, np.ndarray]:
    """(latents, uint8 frames) of diffusers' pipeline of the job's mode."""
    import torch

    kept: dict[str, Any] = {}

    def keep(_pipe: Any, _index: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.update(values)
        return values

    frames = pipeline(job)(
        prompt=job.prompt, negative_prompt=job.negative, height=job.height, width=job.width, num_inference_steps=job.steps,
        guidance_scale=job.guidance, use_dynamic_cfg=job.guidance_kind == "as-published", eta=job.eta,
        generator=given.pop("generator", None) or torch.Generator().manual_seed(job.seed),
        max_sequence_length=job.spec.max_text_tokens, callback_on_step_end=keep, output_type="pil", **given).frames[0]
    return kept["latents"], np.stack([np.asarray(frame) for frame in frames])


def made(job: Plan, models: ModelCache, frames: np.ndarray | None) -> tuple[Any, np.ndarray]:
    """(latents, uint8 frames) of the engine."""
    import torch

    from engine.sample import SampleState, sample

    model = models.get(job)
    generator = torch.Generator().manual_seed(job.seed)
    text = model.encode(job.prompt, job.negative if job.guided else None)
    stepper = model.scheduler(job.scheduler, job.steps, run=job.sampled_steps, eta=job.eta)
    moments = [] if frames is None else [part for _, part in model.encode_frames(frames, job.tile)]
    beside = model.image_beside(moments, job.latent_shape, generator) if job.mode == "i2v" else None
    latents = (model.video_latents(moments, job.latent_shape, stepper, generator) if job.mode == "v2v"
               else model.initial_latents(job.latent_shape, generator))
    weights = guidance_weights(job.guidance_kind, job.guidance, stepper.timesteps.tolist())
    states = list(sample(model, stepper, text, SampleState(0, latents, None), weights, generator, beside))
    assert len(states) == job.sampled_steps
    last = states[-1].latents
    decoded = [chunk.numpy() for chunk in model.decode(last[:, job.latent_padding:], job.tile)]
    return last, np.concatenate(decoded)


Made = Callable[..., Plan]
CacheOf = Callable[[Plan], ModelCache]


@pytest.mark.parametrize(("kind", "scheduler", "guidance", "frames"), [
    ("rope", "dpm", 6.0, 9), ("rope", "ddim", 1.0, 9), ("rope", "dpm", 6.0, 17), ("sincos", "dpm", 1.0, 9), ("sincos", "ddim", 6.0, 1),
    ("1.5", "dpm", 6.0, 9), ("1.5", "ddim", 6.0, 17), ("1.5", "dpm", 1.0, 1)])
def test_image_to_video(kind: str, scheduler: str, guidance: float, frames: int, tiny_plan: Made, cache_of: CacheOf) -> None:
    import torch

    job = tiny_plan(f"i2v-{kind}", scheduler=scheduler, guidance=guidance, frames=frames, negative="blurry", image=IMAGE)
    picture = frames_of(1)
    latents, expected = reference(job, image=Image.fromarray(picture[0]), num_frames=frames)
    given, shown = made(job, cache_of(job), picture)
    assert torch.equal(given, latents)
    assert np.array_equal(shown, expected)
    assert expected.shape == (frames, 64, 96, 3)
    other, _ = made(job, cache_of(job), 255 - picture)
    assert not torch.equal(other, latents)  # the picture does something


@pytest.mark.parametrize(("kind", "scheduler", "guidance", "frames", "strength"), [
    ("rope", "dpm", 6.0, 9, 0.7), ("rope", "ddim", 6.0, 17, 0.5), ("rope", "dpm", 1.0, 25, 1.0), ("sincos", "dpm", 6.0, 9, 0.25),
    ("sincos", "ddim", 1.0, 9, 0.9), ("sincos", "dpm", 6.0, 1, 0.8)])
def test_video_to_video(kind: str, scheduler: str, guidance: float, frames: int, strength: float, tiny_plan: Made,
                        cache_of: CacheOf) -> None:
    import torch

    job = tiny_plan(kind, scheduler=scheduler, guidance=guidance, frames=frames, negative="blurry", video=VIDEO,
                    strength=strength, steps=4)
    assert job.sampled_steps == int(4 * strength)
    video = frames_of(frames)
    latents, expected = reference(job, video=[Image.fromarray(f) for f in video], strength=strength)
    given, shown = made(job, cache_of(job), video)
    assert torch.equal(given, latents)
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(("scheduler", "strength"), [("dpm", 0.7), ("ddim", 1.0)])
def test_video_to_video_with_patches_in_time(scheduler: str, strength: float, tiny_plan: Made, cache_of: CacheOf) -> None:
    """1.5: diffusers runs whole patches only (16 frames are 4 latent frames), so that is where it can be compared."""
    import torch

    job = tiny_plan("1.5", scheduler=scheduler, video=VIDEO, strength=strength, steps=4, negative="blurry")
    job = replace(job, frames=16, latent_shape=(1, 4, *job.latent_shape[2:]), latent_padding=0)
    video = frames_of(16)
    latents, expected = reference(job, video=[Image.fromarray(f) for f in video], strength=strength)
    given, shown = made(job, cache_of(job), video)
    assert torch.equal(given, latents)
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("scheduler", ["dpm", "ddim"])
def test_video_to_video_pads_where_diffusers_refuses(scheduler: str, tiny_plan: Made, cache_of: CacheOf) -> None:
    """25 frames are 7 latent frames: refused as a video, so diffusers is given our 8 noised ones as latents."""
    import torch

    job = tiny_plan("1.5", scheduler=scheduler, video=VIDEO, strength=0.7, steps=4, frames=25)
    assert (job.latent_shape[1], job.latent_padding) == (8, 1)
    video = frames_of(25)
    with pytest.raises(ValueError, match="not divisible"):
        reference(job, video=[Image.fromarray(f) for f in video], strength=0.7)
    model, generator = cache_of(job).get(job), torch.Generator().manual_seed(job.seed)
    moments = [part for _, part in model.encode_frames(video, job.tile)]
    stepper = model.scheduler(scheduler, 4, run=job.sampled_steps)
    start = model.video_latents(moments, job.latent_shape, stepper, generator)
    latents, _ = reference(job, latents=start, video=None, strength=0.7, generator=generator)
    given, shown = made(job, cache_of(job), video)
    assert torch.equal(given, latents)
    assert shown.shape == (25, 64, 96, 3)


@pytest.mark.parametrize(("kind", "fields"), [("rope", {}), ("i2v-1.5", {"image": IMAGE}), ("sincos", {"video": VIDEO, "strength": 0.6})])
def test_guidance_as_published(kind: str, fields: dict[str, Any], tiny_plan: Made, cache_of: CacheOf) -> None:
    """In every mode, at a number of steps where the formula swings."""
    import torch

    job = tiny_plan(kind, steps=5, guidance_kind="as-published", scheduler="ddim", **fields)
    video = frames_of(1 if job.mode == "i2v" else 9)
    stock: dict[str, dict[str, Any]] = {
        "t2v": {"num_frames": 9}, "i2v": {"num_frames": 9, "image": Image.fromarray(video[0])},
        "v2v": {"video": [Image.fromarray(f) for f in video], "strength": 0.6}}
    latents, _ = reference(job, **stock[job.mode])
    given, _ = made(job, cache_of(job), None if job.mode == "t2v" else video)
    assert torch.equal(given, latents)
    plain, _ = made(replace(job, guidance_kind="constant"), cache_of(job), None if job.mode == "t2v" else video)
    assert not torch.equal(plain, given)


@pytest.mark.parametrize(("kind", "fields"), [("i2v-1.5", {"image": IMAGE}), ("rope", {"video": VIDEO, "strength": 0.7})])
def test_in_bf16(kind: str, fields: dict[str, Any], tiny_plan: Made) -> None:
    import torch

    job = replace(tiny_plan(kind, width=48, height=32, **fields), dtype="bf16")
    video = frames_of(1 if job.mode == "i2v" else 9, 48, 32)
    pictures = [Image.fromarray(f) for f in video]
    stock = {"num_frames": 9, "image": pictures[0]} if job.mode == "i2v" else {"video": pictures, "strength": 0.7}
    latents, expected = reference(job, **stock)
    given, shown = made(job, ModelCache(), video)
    assert given.dtype == torch.bfloat16 and torch.equal(given, latents)
    assert np.array_equal(shown, expected)


def test_tiled_encoding_equals_diffusers(tiny: Callable[..., Path], tiny_plan: Made, cache_of: CacheOf) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from engine.models.vae_encode import pixels

    job = tiny_plan()
    stock = AutoencoderKLCogVideoX.from_pretrained(tiny() / "vae")
    use_onednn(stock)
    video = frames_of(17, width=112)
    for tile in ((64, 112), (48, 80)):
        stock.use_tiling = tile == (48, 80)
        if stock.use_tiling:
            stock.enable_tiling(*tile)
        with torch.inference_mode():
            expected = stock.encode(pixels(video, single=False)).latent_dist.parameters
        seen = list(cache_of(job).get(job).encode_frames(video, tile))
        assert [count for count, _ in seen] == [9, 17]
        assert torch.equal(torch.cat([part for _, part in seen], dim=2), expected)
