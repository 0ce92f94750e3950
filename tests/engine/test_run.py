"""One run end to end: events in order, stopping at once, clean failures, a file that is what it says."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from engine.errors import Cancelled, CannotFit, ModelInvalid, OutputRejected, StorageBlocked
from engine.events import GENERATION, CheckpointSaved, ClipWritten, Event, Preview, Stage, StageStarted, StepDone
from engine.models.cache import ModelCache
from engine.plan import Plan
from engine.preview import MAX_BYTES
from engine.run import run
from engine.video.probe import probe
from engine.video.recipe import build_recipe, read_recipe


def start(job: Plan, folder: Path, models: ModelCache, cancelled: Callable[[], bool] = lambda: False,
          **more: Any) -> Iterator[Event]:
    return run(job, part=folder / "clip.part", workspace=folder / "work", recipe=build_recipe(job), models=models,
               cancelled=cancelled, **({"preview_seconds": 0.0} | more))


def test_events_and_file(tmp_path: Path, tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan(frames=17, prompt="ü🦊 <b>\"q\"")
    seen = list(start(job, tmp_path, cache_of(job)))
    assert [e.stage for e in seen if isinstance(e, StageStarted)] == list(GENERATION)
    steps = [e for e in seen if isinstance(e, StepDone)]
    assert [(e.stage.value, e.step, e.steps) for e in steps] == [
        ("sample", 1, 3), ("sample", 2, 3), ("sample", 3, 3), ("decode", 9, 17), ("decode", 17, 17)]
    assert all(e.eta_seconds is not None and e.eta_seconds >= 0 for e in steps)
    assert [e.step for e in seen if isinstance(e, CheckpointSaved)] == [3]
    written = seen[-1]
    assert isinstance(written, ClipWritten)
    assert sum(isinstance(e, ClipWritten) for e in seen) == 1
    facts = probe(written.part)
    assert (facts.frames, facts.width, facts.height, facts.fps) == (17, 96, 64, 8.0)
    assert (facts.codec, facts.pixel_format) == ("h264", "yuv420p")
    assert (written.frames, written.width, written.height, written.fps) == (17, 96, 64, 8.0)
    assert written.size_bytes == written.part.stat().st_size
    assert set(written.seconds) == {stage.value for stage in GENERATION}
    assert written.peak_bytes > 10**8
    head = written.part.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # faststart
    assert Image.open(io.BytesIO(written.poster_webp)).size == (96, 64)
    recipe = read_recipe(written.part)
    assert recipe == json.loads(json.dumps(build_recipe(job, created=None) | {"created": recipe["created"]}))
    assert recipe["request"]["prompt"] == job.prompt
    assert str(tmp_path) not in json.dumps(recipe)


def test_previews_are_small_strips_of_all_latent_frames(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                        cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan(frames=17)
    previews = [e for e in start(job, tmp_path, cache_of(job)) if isinstance(e, Preview)]
    assert [e.step for e in previews] == [1, 2]  # after the last step the clip itself is next
    for preview in previews:
        assert len(preview.webp) <= MAX_BYTES
        assert Image.open(io.BytesIO(preview.webp)).size == (5 * 96, 64)
    rare = [e for e in start(job, tmp_path / "rare", cache_of(job), preview_seconds=3600) if isinstance(e, Preview)]
    assert [e.step for e in rare] == [1]


def test_colours_of_a_known_map() -> None:
    import torch

    from engine.preview import LatentColours

    colours = LatentColours(torch.eye(3), torch.zeros(3))
    clean = torch.zeros(2, 3, 4, 6)
    clean[0, 0], clean[1, 2] = 1.0, 1.0
    strip = np.asarray(Image.open(io.BytesIO(colours.strip(clean))).convert("RGB")).astype(int)
    assert strip.shape == (64, 192, 3)
    assert np.abs(strip[32, 40] - (255, 0, 0)).max() < 12
    assert np.abs(strip[32, 150] - (0, 0, 255)).max() < 12
    assert LatentColours.read(Path("/nowhere.json"), 3) is None


@pytest.mark.parametrize("asked", range(1, 8))
def test_cancel_is_noticed_at_the_next_step_and_leaves_no_file(asked: int, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                                cache_of: Callable[[Plan], ModelCache]) -> None:
    """`cancelled` says yes the n-th time it is asked: before load, encode, each step, each chunk."""
    job, count = tiny_plan(frames=17), 0

    def cancelled() -> bool:
        nonlocal count
        count += 1
        return count >= asked

    seen: list[Event] = []
    with pytest.raises(Cancelled):
        seen.extend(start(job, tmp_path, cache_of(job), cancelled))
    assert count == asked
    assert not (tmp_path / "clip.part").exists()
    sampled = min(asked - 3, 3)  # and what was sampled is kept: a worker told to end hands the job on
    kept = [f"step-{sampled:04d}.safetensors"] if sampled > 0 else []
    assert [p.name for p in (tmp_path / "work").glob("*")] == kept


def test_closing_the_generator_removes_the_part(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan(frames=17)
    going = start(job, tmp_path, cache_of(job))
    for event in going:
        if isinstance(event, StepDone) and event.stage is Stage.DECODE:
            break
    going.close()
    assert not (tmp_path / "clip.part").exists()
    done = list(start(job, tmp_path, cache_of(job)))[-1]  # the consumer closes after the last event: the file stays
    assert isinstance(done, ClipWritten)
    assert done.part.exists()


def test_a_full_disk_blocks_and_leaves_nothing(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                               cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan()
    (tmp_path / "clip.part").symlink_to("/dev/full")
    with pytest.raises(StorageBlocked, match="disk is full"):
        list(start(job, tmp_path, cache_of(job)))
    assert not (tmp_path / "clip.part").is_symlink()
    assert list(start(job, tmp_path, cache_of(job)))[-1].frames == 9  # type: ignore[union-attr]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_checkpoint_that_cannot_be_written_blocks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    tiny_plan: Callable[..., Plan],
                                                    cache_of: Callable[[Plan], ModelCache]) -> None:
    import os

    def full(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    job = tiny_plan()
    monkeypatch.setattr("engine.video.publish.os.fsync", full)
    with pytest.raises(StorageBlocked):
        list(start(job, tmp_path, cache_of(job)))
    assert list((tmp_path / "work").iterdir()) == []


class Held(ModelCache):
    """A cache whose model has been tampered with."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def get(self, plan: Plan) -> Any:
        return self.model


class Tampered:
    """A real model, one method replaced."""

    def __init__(self, model: Any, **methods: Any) -> None:
        self.model, self.methods = model, methods

    def __getattr__(self, name: str) -> Any:
        return self.methods.get(name) or getattr(self.model, name)


def decode_of(frames: np.ndarray) -> Callable[..., Iterator[Any]]:
    import torch

    return lambda latents, tile, how: iter([torch.from_numpy(frames)])


def test_broken_output_fails_with_a_cause(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                          cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    job = tiny_plan()
    model = cache_of(job).get(job)
    noise = np.random.default_rng(0).integers(0, 255, (9, 64, 96, 3), dtype=np.uint8)
    cases = {
        "all 9 frames are black": {"decode": decode_of(np.zeros((9, 64, 96, 3), np.uint8))},
        "one flat colour": {"decode": decode_of(np.full((9, 64, 96, 3), 120, np.uint8))},
        "exactly equal": {"decode": decode_of(np.repeat(noise[:1], 9, axis=0))},
        "5 frames": {"decode": decode_of(noise[:5])},
        "not finite": {"predict": lambda latents, time, text, beside: torch.full((len(text), *latents.shape[1:]), float("nan"))},
    }
    for index, (message, methods) in enumerate(cases.items()):
        with pytest.raises(OutputRejected, match=message):
            list(start(job, tmp_path / str(index), Held(Tampered(model, **methods))))
        assert not (tmp_path / str(index) / "clip.part").exists()


def test_memory_that_runs_out_is_told_as_such(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                              cache_of: Callable[[Plan], ModelCache]) -> None:
    def fails(*_args: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    job = tiny_plan()
    with pytest.raises(CannotFit, match="memory ran out"):
        list(start(job, tmp_path, Held(Tampered(cache_of(job).get(job), predict=fails))))


def test_weights_that_do_not_belong_are_refused(tmp_path: Path, tiny: Callable[..., Path],
                                                tiny_plan: Callable[..., Plan]) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    from engine.spec import read_spec

    folder = tmp_path / "broken"
    shutil.copytree(tiny(), folder)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    good = load_file(file)
    job = tiny_plan()
    cases = {"NaN or infinity": good | {"proj_out.bias": torch.full_like(good["proj_out.bias"], float("nan"))},
             "1 missing keys": {k: v for k, v in good.items() if k != "proj_out.bias"},
             "1 unexpected keys": good | {"surprise": torch.zeros(1)}}
    for message, tensors in cases.items():
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ModelInvalid, match=message):
            ModelCache().get(replace(job, spec=read_spec(folder)))


def test_a_stock_reader_sees_the_colours_that_went_in(tmp_path: Path, tiny_plan: Callable[..., Plan]) -> None:
    from engine.video.writer import ClipWriter

    bars = np.zeros((9, 64, 96, 3), np.uint8)
    for index, colour in enumerate([(220, 40, 40), (40, 200, 60), (40, 60, 210), (235, 220, 50)]):
        bars[:, :, index * 24:(index + 1) * 24] = colour
    bars[4:, 28:36] = 128
    with ClipWriter(tmp_path / "bars.part", width=96, height=64, fps=8, frames=9, recipe=build_recipe(tiny_plan())) as writer:
        writer.write(bars)
        writer.finish()
    with av.open(str(tmp_path / "bars.part"), format="mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for x in (12, 36, 60, 84):
        assert np.abs(frames[0][10, x].astype(int) - bars[0, 10, x]).max() <= 6


def test_colours_of_a_preview_are_fitted_in_full_precision_on_a_processor(tiny: Callable[..., Path]) -> None:
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from engine.preview import LatentColours

    vae = AutoencoderKLCogVideoX.from_pretrained(tiny() / "vae", torch_dtype=torch.bfloat16).eval()
    seen: list[torch.dtype] = []
    for layer in vae.encoder.modules():
        layer.register_forward_hook(lambda _layer, _given, out: seen.append(out.dtype) if isinstance(out, torch.Tensor) else None)
    colours = LatentColours.fit(vae, 1.0)
    assert set(seen) == {torch.float32} and torch.isfinite(colours.weight).all()
    assert next(vae.parameters()).dtype == torch.bfloat16 and vae.decoder is not None
