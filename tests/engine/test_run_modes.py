"""Image to video and video to video as whole jobs: read, stopped anywhere, gone on from, refused when the input is not right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from engine.errors import Cancelled, InvalidRequest
from engine.events import GENERATION, ClipWritten, Event, Resumed, Stage, StageStarted, StepDone
from engine.inputs import input_name
from engine.models.cache import ModelCache
from engine.plan import Plan
from engine.run import run
from engine.video.recipe import build_recipe, read_recipe
from tests.engine.test_checkpoint import LONG_AGO, clip
from tests.engine.test_parity_modes import frames_of, reference

CacheOf = Callable[[Plan], ModelCache]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs with one of each."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(frames_of(1, 120, 64)[0]).save(folder / "one.png")
    with av.open(str(folder / "one.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8, options={"level": "3"})  # lossless
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        for pixels in frames_of(17):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return folder


def named(folder: Path, kind: str) -> str:
    source = folder / f"one.{kind}"
    name = input_name(source, kind)
    (folder / name).write_bytes(source.read_bytes())
    return name


@pytest.fixture
def job_of(folder: Path, tiny_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """job_of('i2v' | 'v2v', kind, **fields)."""
    def make(mode: str, kind: str, **fields: Any) -> Plan:
        if mode == "i2v":
            return tiny_plan(f"i2v-{kind}", image=named(folder, "png"), **fields)
        return tiny_plan(kind, **({"video": named(folder, "mkv"), "strength": 0.8, "steps": 4} | fields))
    return make


def events(job: Plan, folder: Path, models: ModelCache, inputs: Path | None, stop_after: int | None = None) -> list[Event]:
    """All events; the job is cancelled once `stop_after` sampling steps are done."""
    seen: list[Event] = []
    steps = lambda: sum(isinstance(e, StepDone) and e.stage == "sample" for e in seen)  # noqa: E731
    try:
        for event in run(job, part=folder / "clip.part", workspace=folder / "work", recipe=build_recipe(job, created=LONG_AGO),
                         models=models, cancelled=lambda: stop_after is not None and steps() >= stop_after, checkpoint_seconds=0,
                         inputs=inputs):
            seen.append(event)
    except Cancelled:
        assert stop_after is not None
    return seen


@pytest.mark.parametrize(("mode", "kind", "scheduler"), [("i2v", "rope", "dpm"), ("i2v", "1.5", "ddim"), ("v2v", "sincos", "dpm"),
                                                          ("v2v", "1.5", "dpm")])
def test_stopped_at_every_step_gives_the_same_file(mode: str, kind: str, scheduler: str, tmp_path: Path, folder: Path,
                                                   job_of: Callable[..., Plan], cache_of: CacheOf) -> None:
    job = job_of(mode, kind, scheduler=scheduler)
    models = cache_of(job)
    seen = events(job, tmp_path / "whole", models, folder)
    whole = clip(seen)
    assert job.sampled_steps == 3
    read = [(e.step, e.steps) for e in seen if isinstance(e, StepDone) and e.stage is Stage.ENCODE]
    assert read == [(1, 1)] if mode == "i2v" else [(9, 9)]
    assert [(e.step, e.steps) for e in seen if isinstance(e, StepDone) and e.stage is Stage.SAMPLE] == [(1, 3), (2, 3), (3, 3)]
    assert [e.stage for e in seen if isinstance(e, StageStarted)] == list(GENERATION)
    recipe = read_recipe(whole.part)
    assert recipe["request"] == job.request().to_json() | {"model": Path(job.model).name}
    for done in range(1, 4):
        stopped = events(job, tmp_path / "stopped", models, folder, stop_after=1)
        assert [e.step for e in stopped if isinstance(e, Resumed)] == ([done - 1] if done > 1 else [])
    rest = events(job, tmp_path / "stopped", models, folder if mode == "i2v" else None)  # a video is not needed any more
    assert [e.step for e in rest if isinstance(e, Resumed)] == [3]
    assert clip(rest).sha256 == whole.sha256


def test_a_whole_job_equals_the_pipeline_from_the_files(tmp_path: Path, folder: Path, job_of: Callable[..., Plan],
                                                        cache_of: CacheOf) -> None:
    """From the file of the input to the latents that are saved before decoding."""
    from safetensors.torch import load_file

    for mode in ("i2v", "v2v"):
        job = job_of(mode, "rope")
        if mode == "i2v":
            middle = np.asarray(Image.open(folder / "one.png"))[:, 12:108]
            latents, _ = reference(job, image=Image.fromarray(middle), num_frames=9)
        else:
            latents, _ = reference(job, video=[Image.fromarray(f) for f in frames_of(17)[:9]], strength=0.8)
        events(job, tmp_path / mode, cache_of(job), folder, stop_after=3)
        saved = load_file(tmp_path / mode / "work" / "step-0003.safetensors")
        assert (saved["latents"] == latents).all()


@pytest.mark.parametrize("asked", range(1, 9))
def test_cancel_is_noticed_between_the_chunks_of_a_video(asked: int, tmp_path: Path, folder: Path, job_of: Callable[..., Plan],
                                                         cache_of: CacheOf) -> None:
    """`cancelled` is asked before reading, load, encode, each of two chunks, each of three steps."""
    job, count = job_of("v2v", "rope", frames=17), 0

    def cancelled() -> bool:
        nonlocal count
        count += 1
        return count >= asked

    seen: list[Event] = []
    with pytest.raises(Cancelled):
        seen.extend(run(job, part=tmp_path / "clip.part", workspace=tmp_path / "work", recipe=build_recipe(job),
                        models=cache_of(job), cancelled=cancelled, inputs=folder))
    assert count == asked
    assert len(list((tmp_path / "work").glob("*"))) == (1 if asked > 6 else 0)


def test_an_input_that_is_gone_changed_or_short_is_told_before_loading(tmp_path: Path, folder: Path, job_of: Callable[..., Plan]) -> None:
    class Unloaded(ModelCache):
        def get(self, plan: Plan) -> Any:
            raise AssertionError("loaded")

    still, moved = job_of("i2v", "rope"), job_of("v2v", "rope")
    changed = tmp_path / "changed"
    changed.mkdir()
    for job in (still, moved):
        (changed / job.input).write_bytes(b"other bytes")
    text = b"no picture"
    (changed / "text").write_bytes(text)
    foreign = replace(still, input=input_name(changed / "text", "png"))
    (changed / foreign.input).write_bytes(text)
    for job, inputs, field, says in ((still, None, "image", "not among the inputs"), (moved, tmp_path, "video", "not among the inputs"),
                                     (still, changed, "image", "was changed after it was added"),
                                     (moved, changed, "video", "was changed after it was added"),
                                     (foreign, changed, "image", "is a text, not a picture"),
                                     (job_of("v2v", "rope", frames=25), folder, "video", "17 frames.*25 are needed")):
        with pytest.raises(InvalidRequest, match=says) as caught:
            events(job, tmp_path / "job", Unloaded(), inputs)
        assert caught.value.field == field


def test_another_picture_or_strength_has_its_own_checkpoints(tmp_path: Path, folder: Path, job_of: Callable[..., Plan],
                                                             cache_of: CacheOf) -> None:
    job = job_of("v2v", "rope")
    events(job, tmp_path, cache_of(job), folder, stop_after=2)
    for other in (job_of("v2v", "rope", strength=1.0), job_of("v2v", "rope", guidance_kind="cosine"), job_of("v2v", "rope", fit="pad"),
                  replace(job, input=f"{'a' * 64}.mkv")):
        if other.input == job.input:
            assert not any(isinstance(e, Resumed) for e in events(other, tmp_path, cache_of(job), folder, stop_after=0))
        else:
            with pytest.raises(InvalidRequest):  # it is looked for, not gone on without
                events(other, tmp_path, cache_of(job), folder)
    assert isinstance(events(job, tmp_path, cache_of(job), folder)[-1], ClipWritten)


def test_ddim_with_eta_is_the_papers(tiny_plan: Callable[..., Plan], cache_of: CacheOf) -> None:
    """Against diffusers' DDIMScheduler with CogVideoX's noise schedule; its CogVideoX class ignores eta."""
    import torch
    from diffusers import DDIMScheduler

    job = tiny_plan(scheduler="ddim", eta=0.7)
    ours = cache_of(job).get(job).scheduler("ddim", 10, eta=0.7)
    stock = DDIMScheduler.from_config(ours.scheduler.config, clip_sample=False, set_alpha_to_one=True)  # type: ignore[attr-defined]
    stock.alphas_cumprod = ours.scheduler.alphas_cumprod  # type: ignore[attr-defined]
    stock.set_timesteps(10)
    torch.manual_seed(1)
    latents, velocity = torch.randn(2, 1, 3, 4, 8, 12)
    for index, time in enumerate(ours.timesteps):
        draws = [torch.Generator().manual_seed(index) for _ in range(2)]
        given, clean = ours.step(velocity, index, latents, None, draws[0])
        expected = stock.step(velocity, int(time), latents, eta=0.7, generator=draws[1])
        assert torch.allclose(given.float(), expected.prev_sample.float(), atol=1e-5)
        assert torch.allclose(clean.float(), expected.pred_original_sample.float(), atol=1e-5)
        plain = cache_of(job).get(job).scheduler("ddim", 10).step(velocity, index, latents, None, draws[0])[0]
        assert torch.equal(plain.float(), given.float()) == (index == 9)  # the last step has no noise
