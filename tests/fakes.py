"""A fake engine behind the real door: twelve steps, a real small mp4, no torch, no weights. Plans are the real ones.

Environment: FAKE_STEP_SECONDS (default 0), FAKE_FAIL (an error by name, once sampling begins), FAKE_DIE (a signal number
at step 6), CRASH_AT (a named point of publishing, see `reached`). A prompt 'memory PHASE N' makes memory run out in that phase, N
times in all, over however many processes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from engine import errors
from engine.events import CheckpointSaved, ClipWritten, Event, Preview, Resumed, Stage, StageStarted, StepDone
from engine.hardware import Gpu, Hardware
from engine.plan import Plan
from engine.spec import ModelSpec
from engine.video.publish import storage_errors, write_atomic

STEPS = 12
POCKET = Path(__file__).resolve().parents[1] / "assets" / "pocket"
"""For FAKE_MODEL, where LoRAs must fit something: whose layers and whose words the pretended model has."""
SPEC = ModelSpec(
    name="pocket", path=Path(os.environ.get("FAKE_MODEL", "/nowhere")), family="cogvideox",
    fingerprint="f" * 40, revision=None, native_width=64, native_height=48, native_frames=9, fps=8.0,
    max_frames=49, max_width=256, max_height=256, fixed_size=False,
    frame_step=8, size_multiple=16, spatial_scale=8, temporal_scale=4, patch_size=2, patch_size_t=None, latent_channels=4,
    max_text_tokens=64, position="rope", scaling_factor=1.0, invert_scale_latents=False, scheduler="dpm",
    train_timesteps=1000, recommended_steps=STEPS, recommended_guidance=4.0, layers=2, width=64, heads=2,
    vae_channels=(8, 8, 8, 8), vae_layers=1, text_width=32, stored_dtype="bf16",
    component_bytes={"text_encoder": 1000, "vae": 1000, "transformer": 1000},
    component_parameters={"text_encoder": 500, "vae": 500, "transformer": 500})
MACHINE = Hardware(device="cpu", name="fake processor", total_bytes=8 * 10**9, free_bytes=6 * 10**9, cores=2, bf16=False)


class FakeModels:
    closed = False

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """Implements `app.queue.door.Engine`."""

    def installed(self, models_dir: Path | None) -> tuple[ModelSpec, ...]:
        return (SPEC,)

    def spec(self, model: str, models_dir: Path | None) -> ModelSpec:
        if model != SPEC.name:
            raise errors.ModelNotFound(f"there is no model {model[:80]!r} on this machine. Installed: pocket.")
        return SPEC

    def hardware(self, device: str | None = None) -> Hardware:
        """FAKE_GPUS=N: so many, of which a process sees those of CUDA_VISIBLE_DEVICES."""
        count = int(os.environ.get("FAKE_GPUS", "0"))
        seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",") if one]
        if not count or not seen or device == "cpu":
            return MACHINE
        gpus = tuple(Gpu(device=f"cuda:{at}", name="fake GPU", total_bytes=48 * 10**9, free_bytes=(40 - 9 * int(one)) * 10**9,
                         load=7 * int(one)) for at, one in enumerate(seen))
        return Hardware(device="cuda:0", name="fake GPU", total_bytes=48 * 10**9, free_bytes=gpus[0].free_bytes, cores=2, bf16=True,
                        ram_bytes=6 * 10**9, capability=(8, 9), gpus=gpus)

    def open_models(self) -> FakeModels:
        return FakeModels()

    def warm_up(self) -> None:
        pass

    def reached(self, point: str) -> None:
        if os.environ.get("CRASH_AT") == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, plan: Plan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], models: Any,
            cancelled: Callable[[], bool], checkpoint_seconds: float, preview_seconds: float,
            inputs: Path | None = None, loras: Path | None = None, calibrations: Path | None = None) -> Iterator[Event]:
        pause = float(os.environ.get("FAKE_STEP_SECONDS", "0"))
        begun = time.perf_counter()
        yield StageStarted(Stage.LOAD)
        _run_out(plan, workspace, "load")
        yield StageStarted(Stage.ENCODE)
        _run_out(plan, workspace, "text")
        _stop(cancelled)
        yield StepDone(Stage.ENCODE, 1, 1, None)
        _run_out(plan, workspace, "image")
        yield StageStarted(Stage.SAMPLE)
        asked = plan.request().to_json() | {"parallel": None}  # a saved state is of the clip, not of the devices
        mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        done = _saved_step(workspace, mark)
        if done:
            yield Resumed(done, plan.steps)
        for step in range(done + 1, plan.steps + 1):
            _stop(cancelled)
            time.sleep(pause)
            if step == 6:
                _misbehave()
                _run_out(plan, workspace, "sample")
            write_atomic(workspace / "checkpoint.json", json.dumps({"mark": mark, "step": step}).encode())
            yield StepDone(Stage.SAMPLE, step, plan.steps, (plan.steps - step) * pause)
            yield CheckpointSaved(step, workspace / "checkpoint.json")
            yield Preview(step, _webp(np.full((8, 32, 3), step * 20 % 256, np.uint8)))
        yield StageStarted(Stage.DECODE)
        frames = moving_square(plan.frames, plan.height, plan.width, plan.seed)
        _run_out(plan, workspace, "decode")
        yield from _write(part, frames, plan, recipe, cancelled, pause)
        yield StageStarted(Stage.VERIFY)
        _run_out(plan, workspace, "verify")
        data = part.read_bytes()
        yield ClipWritten(part, _webp(frames[0]), hashlib.sha256(data).hexdigest(), len(data), plan.frames, plan.width,
                          plan.height, plan.fps, {"load": 0.0, "encode": 0.0, "sample": time.perf_counter() - begun,
                                                  "decode": 0.01, "verify": 0.0}, int(plan.predicted_bytes / plan.forecast.correction))


def _stop(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise errors.Cancelled("stopped on request.")


def _misbehave() -> None:
    if os.environ.get("FAKE_DIE"):
        os.kill(os.getpid(), int(os.environ["FAKE_DIE"]))
    name = os.environ.get("FAKE_FAIL")
    if name:
        raise getattr(errors, name)("the fake was told to fail.")


def _run_out(plan: Plan, workspace: Path, phase: str) -> None:
    words = plan.prompt.split()
    if words[0] != "memory" or words[1] != phase:
        return
    workspace.mkdir(parents=True, exist_ok=True)
    count = workspace / "lapses"
    before = int(count.read_text()) if count.exists() else 0
    if before < int(words[2]):
        count.write_text(str(before + 1))
        if phase in ("load", "image", "verify"):  # as Python says it, and as the engine does
            raise MemoryError
        raise errors.MemoryRanOut("the memory ran out.", phase=phase)


def _saved_step(workspace: Path, mark: str) -> int:
    try:
        saved = json.loads((workspace / "checkpoint.json").read_text())
    except (OSError, ValueError):
        return 0
    return int(saved["step"]) if saved["mark"] == mark else 0


def moving_square(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 (frames, height, width, 3)."""
    pixels = np.zeros((frames, height, width, 3), np.uint8)
    pixels[:] = (seed % 200, 80, 120)
    for number in range(frames):
        pixels[number, 8:24, number : number + 16] = (240, 200, 40)
    return pixels


def _webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP")
    return buffer.getvalue()


def _write(part: Path, frames: np.ndarray, plan: Plan, recipe: Mapping[str, Any], cancelled: Callable[[], bool],
           pause: float) -> Iterator[Event]:
    try:
        with storage_errors(part.parent), av.open(str(part), "w", format="mp4",
                                                  options={"movflags": "faststart+use_metadata_tags"}) as container:
            container.metadata["sprocket"] = json.dumps(dict(recipe))
            stream = container.add_stream("libx264", rate=int(plan.fps), options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
            for number, pixels in enumerate(frames, start=1):
                _stop(cancelled)
                time.sleep(pause / 4)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                yield StepDone(Stage.DECODE, number, len(frames), 0.0)
            container.mux(stream.encode())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
