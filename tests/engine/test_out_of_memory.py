"""Memory that runs out in every phase of a true run: the phase is named, nothing half-written stays, and what goes on from the
checkpoint one rung lower gives the same file as that rung gives by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import PATTERN
from engine.errors import CannotFit, DeviceLost, MemoryRanOut, ModelInvalid
from engine.events import ClipWritten, Event, Resumed
from engine.ladder import Lapse
from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from engine.video.recipe import build_recipe
from tests.engine.test_checkpoint import LONG_AGO, clip
from tests.engine.test_run_modes import folder as folder  # noqa: PLC0414  (a fixture)
from tests.engine.test_run_modes import named
from tests.engine.tiny import CPU

PHASES = ["load", "text", "image", "sample 1", "sample 2", "sample 3", "scheduler", "decode", "verify"]


def an_error(kind: str) -> BaseException:
    import torch

    return {"torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), "python": MemoryError(),
            "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
            "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")}[kind]


class Faulty(ModelCache):
    """A cache whose model runs out of memory in one phase."""

    def __init__(self, models: ModelCache, phase: str, error: BaseException) -> None:
        super().__init__()
        self.models, self.error = models, error
        self.phase, _, step = phase.partition(" ")
        self.left = int(step or 1)

    def get(self, plan: Plan) -> Any:
        if self.phase == "load":
            raise self.error
        return _FaultyModel(self.models.get(plan), self)

    def colours(self, plan: Plan) -> Any:
        return self.models.colours(plan)

    def close(self) -> None:
        pass


class _FaultyModel:
    def __init__(self, model: Any, faults: Faulty) -> None:
        self._model, self._faults = model, faults

    def __getattr__(self, name: str) -> Any:
        real, faults = getattr(self._model, name), self._faults
        if faults.phase != {"encode": "text", "encode_frames": "image", "predict": "sample", "decode": "decode"}.get(name):
            return self._scheduler if name == "scheduler" and faults.phase == "scheduler" else real

        def fails(*args: Any, **more: Any) -> Any:
            faults.left -= 1
            if faults.left == 0:
                raise faults.error
            return real(*args, **more)

        def fails_midway(*args: Any, **more: Any) -> Iterator[Any]:
            yield next(real(*args, **more))
            raise faults.error
        return fails_midway if name == "decode" else fails

    def _scheduler(self, *args: Any, **more: Any) -> Any:
        """The second step breaks off after it has drawn its noise."""
        real, faults = self._model.scheduler(*args, **more), self._faults
        step, seen = real.step, []

        def fails(*args: Any, **more: Any) -> Any:
            result = step(*args, **more)
            seen.append(1)
            if len(seen) == 2:
                raise faults.error
            return result
        real.step = fails
        return real


def events(job: Plan, folder: Path, models: ModelCache, inputs: Path, seen: list[Event] | None = None) -> list[Event]:
    seen = [] if seen is None else seen
    for event in run(job, part=folder / "clip.part", workspace=folder / "work", recipe=build_recipe(job, created=LONG_AGO), models=models,
                     cancelled=lambda: False, checkpoint_seconds=3600, inputs=inputs):
        seen.append(event)
    return seen


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase(phase: str, folder: Path, tmp_path: Path, tiny: Callable[..., Path], cache_of: Callable[[Plan], ModelCache],
                     monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(tiny("rope"), "tiny-rope")
    video = {"video": named(folder, "mkv"), "strength": 1.0} if phase == "image" else {}
    wish = GenerationRequest(prompt="a red fox", steps=3, seed=7, model=str(tiny("rope")), frames=17, guidance=6.0, **video)
    job = plan(wish, spec, CPU)
    models = cache_of(job)
    faulty: ModelCache = Faulty(models, phase, an_error("torch"))
    with monkeypatch.context() as patch:
        if phase == "verify":
            patch.setattr("engine.video.writer.ClipWriter.finish", lambda self: (_ for _ in ()).throw(MemoryError()))
        seen: list[Event] = []
        with pytest.raises(MemoryRanOut, match="memory ran out while") as caught:
            events(job, tmp_path / "job", faulty, folder, seen)
    named_phase = {"scheduler": "sample"}.get(phase, phase.split(maxsplit=1)[0])
    assert (caught.value.phase, caught.value.where, caught.value.code) == (named_phase, "device", "out_of_memory")
    assert not (tmp_path / "job" / "clip.part").exists() and not any(isinstance(event, ClipWritten) for event in seen)
    kept = {"sample 2": 1, "sample 3": 2, "scheduler": 1, "decode": 3, "verify": 3}.get(phase, 0)  # with checkpoints far apart
    assert len(list((tmp_path / "job" / "work").glob(PATTERN))) == bool(kept)

    lower = plan(wish, spec, CPU, lapses=[Lapse(caught.value.phase, caught.value.where, job.placement)])
    assert lower.notes[-1].startswith("Memory ran out while")
    if named_phase in ("image", "decode", "verify"):
        assert lower.placement != job.placement
    assert (lower.placement == job.placement) == ("in a fresh process" in lower.notes[-1])
    rest = events(lower, tmp_path / "job", models, folder)
    assert [event.step for event in rest if isinstance(event, Resumed)] == ([kept] if kept else [])
    assert clip(rest).sha256 == clip(events(lower, tmp_path / "alone", models, folder)).sha256


@pytest.mark.parametrize("kind", ["torch", "python", "cpu", "cublas"])
def test_however_it_is_said(kind: str, tmp_path: Path, tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan()
    with pytest.raises(MemoryRanOut):
        events(job, tmp_path, Faulty(cache_of(job), "sample", an_error(kind)), tmp_path)
    with pytest.raises(RuntimeError, match="shape"):
        events(job, tmp_path, Faulty(cache_of(job), "sample", RuntimeError("shape mismatch")), tmp_path)


@pytest.mark.parametrize("kind", ["itself", "as damage"])
def test_a_gpu_that_gave_up_is_an_error_of_its_own(kind: str, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                   cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    error: Exception = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    if kind == "as damage":
        error, cause = ModelInvalid("cannot be loaded"), error
        error.__cause__ = cause
    job = tiny_plan()
    with pytest.raises(DeviceLost, match="illegal memory access"):
        events(job, tmp_path, Faulty(cache_of(job), "sample", error), tmp_path)
    with pytest.raises(MemoryRanOut):
        events(job, tmp_path, Faulty(cache_of(job), "sample", torch.AcceleratorError("CUDA error: out of memory")), tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
                                   AssertionError("Torch not compiled with CUDA enabled")], ids=["driver", "torch"])
def test_a_gpu_that_torch_cannot_use_is_said_so(error: Exception, tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    job = replace(tiny_plan(), device="cuda:0")
    monkeypatch.setattr("torch.cuda.init", fails)
    with pytest.raises(CannotFit, match=str(error).split("(")[0]) as caught:
        events(job, tmp_path, ModelCache(), tmp_path)
    assert "device cpu" in str(caught.value) and not isinstance(caught.value, MemoryRanOut)
    error.args = ("CUDA error: out of memory",)
    if isinstance(error, RuntimeError):
        with pytest.raises(MemoryRanOut):
            events(job, tmp_path, ModelCache(), tmp_path)


def test_weights_that_do_not_go_into_memory_are_not_called_damaged(tmp_path: Path, tiny_plan: Callable[..., Plan],
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_plan()

    def full(*_args: Any, **_more: Any) -> Any:
        raise an_error("cpu")

    with monkeypatch.context() as patched:
        patched.setattr("engine.models.loading.WeightFiles.fill", full)
        with pytest.raises(MemoryRanOut) as caught:
            events(job, tmp_path, ModelCache(), tmp_path)
    assert caught.value.phase == "load"
    monkeypatch.setattr("transformers.T5Config.from_pretrained", lambda *a, **k: (_ for _ in ()).throw(OSError("bits")))
    with pytest.raises(ModelInvalid, match="cannot be loaded"):
        events(job, tmp_path, ModelCache(), tmp_path)


def test_the_peak_is_that_of_this_job_alone(tmp_path: Path, tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    import numpy as np

    job = tiny_plan()
    first = clip(events(job, tmp_path / "a", cache_of(job), tmp_path)).peak_bytes
    big = np.ones(600 * 2**20, np.uint8)
    held = clip(events(job, tmp_path / "b", cache_of(job), tmp_path)).peak_bytes
    del big
    after = clip(events(replace(job), tmp_path / "c", cache_of(job), tmp_path)).peak_bytes
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system keeps one peak for the whole process")
    assert held - first > 500 * 2**20
    assert held - after > 500 * 2**20


@pytest.mark.parametrize("words", ["GET was unable to find an engine to execute this computation",
                                   "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"])
def test_words_that_may_mean_it_do_so_only_where_a_gpu_is_full(words: str, tiny_plan: Callable[..., Plan]) -> None:
    from engine.run import _crowded, no_engine

    assert no_engine(RuntimeError(words)) and not no_engine(RuntimeError("out of ideas")) and not no_engine(ValueError(words))
    assert not _crowded(tiny_plan())  # a processor has no such engines
