"""One plan to one verified file, as a generator of events. The only door into torch for the rest of the program.

    load -> encode (words, image or video) -> sample (previews, checkpoints) -> decode (streaming into the writer) -> verify -> ClipWritten
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from engine.cache.magnitude import SHIPPED, changes_key, read_changes, with_changes
from engine.cache.measured import work_share
from engine.cache.shortcut import Shortcut
from engine.checkpoint import Checkpoint, fingerprint, newest_checkpoint, save_checkpoint
from engine.digest import file_sha256
from engine.errors import Cancelled, CannotFit, DeviceLost, MemoryRanOut, ModelInvalid, OutputRejected
from engine.events import (
    GENERATION,
    CheckpointSaved,
    ClipWritten,
    Event,
    Preview,
    Resumed,
    Stage,
    StageStarted,
    StepDone,
)
from engine.guidance import guidance_weights
from engine.inputs import read_input, read_shown
from engine.interpolate.community import shown_parts
from engine.interpolate.hierarchy_run import HierarchyRun
from engine.ladder import PHASES
from engine.lora import read_stack
from engine.memory.peak import CONTEXT_BYTES
from engine.models.cache import ModelCache
from engine.models.family import Stepper, VideoModel
from engine.parallel.mesh import Mesh
from engine.parallel.spread import spread
from engine.plan import Plan, check_executable
from engine.process_memory import begin_peak, peak_resident
from engine.sample import SampleState, sample
from engine.video.publish import storage_errors, write_atomic
from engine.video.writer import ClipWriter

RECENT_STEPS = 8
NO_ENGINE = ("unable to find an engine", "status_not_initialized")
"""What cuDNN and cuBLAS say where no memory is left for them, and where they are broken."""
CROWDED = 0.8
"""Of a device's memory: from here on those words mean that it ran out."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "status_alloc_failed", "out_of_device_memory")


def run(plan: Plan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], models: ModelCache,
        cancelled: Callable[[], bool], checkpoint_seconds: float = 30.0, preview_seconds: float = 1.0,
        inputs: Path | None = None, loras: Path | None = None, calibrations: Path | None = None,
        mesh: Mesh | None = None) -> Iterator[Event]:
    """Make the clip of `plan` in the file `part`; the last event is its one `ClipWritten`.

    `workspace`: this job's own folder for checkpoints; one left there by an earlier attempt at the same plan is gone on
    from. `recipe`: `build_recipe(plan)`, written into the file. `cancelled` is asked before every step and chunk.
    `checkpoint_seconds`, `preview_seconds`: least time between two of them; a checkpoint is always written before
    decoding. `inputs`: the folder with the image or video that `plan` starts from, if any; `loras`: the one with its
    LoRAs; `calibrations`: the one where MagCache's magnitudes of other models than the pocket are kept. Closing the generator
    stops the work. `mesh`: the ranks that do this together, each with this call; the first one writes, all end alike.

    Raises `Cancelled`, `StorageBlocked`, `OutputRejected`, `ModelInvalid`, `InvalidRequest` (too many prompt tokens; an image
    or video that is not there, cannot be read or is too short; a LoRA that is not there, damaged or of another model),
    `MemoryRanOut` (the forecast was wrong, or the memory went after planning), `DeviceLost`, `CannotFit` (the plan asks for what this
    version cannot do), `ModelNotFound` (a plan from facts alone). `part` does not exist then; the checkpoints do.
    """
    check_executable(plan)
    job = Job(plan, part, workspace, recipe, models, cancelled, checkpoint_seconds, preview_seconds, inputs, loras, calibrations, mesh)
    try:
        with storage_errors(workspace):
            workspace.mkdir(parents=True, exist_ok=True)
            _begin_memory(plan)
            if plan.hierarchy is not None:
                yield from HierarchyRun(job, lambda one: replace_plan(job, one)).events()
                return
            saved, frames = job.look()
            model, text = yield from job.prepare()
            start = yield from job.begin(model, saved, frames)
            state = yield from job.denoise(model, text, start)
            yield from job.write(model, state)
    except (MemoryError, RuntimeError, ModelInvalid) as error:  # torch's own out-of-memory errors are RuntimeErrors
        if not (_out_of_memory(error) or _out_of_memory(error.__cause__)  # loading takes it for a damaged file
                or (no_engine(error) and _crowded(plan))):
            if mesh is None and (lost := _device_lost(error)):  # a rank ends by it, and its fleet begins again
                raise DeviceLost(f"the GPU gave up {PHASES[job.phase]}: {str(lost).splitlines()[0][:200]}. Retry goes on from the saved "
                                 "state in a new process. If it happens again, look at the driver's log (dmesg), or start the computer "
                                 "again.") from error
            raise
        where = "ram" if plan.device != "cpu" and not _on_the_gpu(error) else "device"
        raise MemoryRanOut(f"the memory ran out {PHASES[job.phase]} ({plan.predicted_bytes / 1e9:.1f} GB were expected to do). "
                           "Close other programs, or ask for fewer frames or a smaller size.", phase=job.phase, where=where) from error


def replace_plan(job: Job, plan: Plan) -> Job:
    """The same job with another plan: a stage of its own."""
    return Job(plan, job.part, job.workspace, job.recipe, job.models, job.cancelled, job.checkpoint_seconds, job.preview_seconds,
               job.inputs, job.loras, job.calibrations_dir, None)  # key frames and rounds run on one device


@dataclass(frozen=True, slots=True)
class _Start:
    """What sampling begins with."""

    state: SampleState
    beside: torch.Tensor | None
    """Latents of the image that stand beside the noise at every step."""
    stepper: Stepper
    generator: torch.Generator


class Job:
    """The state of one run: its clock and its arguments."""

    def __init__(self, plan: Plan, part: Path, workspace: Path, recipe: Mapping[str, Any], models: ModelCache,
                 cancelled: Callable[[], bool], checkpoint_seconds: float, preview_seconds: float, inputs: Path | None,
                 loras: Path | None, calibrations: Path | None, mesh: Mesh | None = None) -> None:
        self.mesh, self.leads = mesh, mesh is None or mesh.leads
        self.plan, self.part, self.workspace, self.recipe, self.models = plan, part, workspace, recipe, models
        self.cancelled = cancelled if mesh is None else lambda: mesh.agree(cancelled())
        self.checkpoint_seconds, self.preview_seconds = checkpoint_seconds, preview_seconds
        self.inputs, self.loras, self.calibrations_dir = inputs, loras, calibrations
        self.calibrations = None if calibrations is None else calibrations / f"{plan.spec.fingerprint}.json"
        self.changes = self.read_changes() if mesh is None else mesh.tell(self.read_changes())
        self.mark = fingerprint(plan, self.changes)
        self.seconds = {stage.value: 0.0 for stage in GENERATION}
        self.phase = Stage.LOAD.value
        """One of `engine.ladder.PHASES`: where memory ran out, if it does."""

    @contextmanager
    def stage(self, stage: Stage, phase: str = "") -> Iterator[None]:
        """Counts the wall time of the block under `stage`, and does not start it once the job is cancelled."""
        self.stop_if_cancelled()
        self.phase = phase or stage.value
        start, before = time.perf_counter(), self.seconds[stage.value]
        try:
            yield
        finally:
            self.seconds[stage.value] = before + time.perf_counter() - start

    def stop_if_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled("stopped on request.")

    def prepare(self) -> Generator[Event, None, tuple[VideoModel, torch.Tensor]]:
        """The loaded model and the encoded text."""
        yield StageStarted(Stage.LOAD)
        with self.stage(Stage.LOAD):
            model: VideoModel = self.models.get(self.plan)
            model.loras.use(self.plan.loras, self.loras)
            if self.mesh is not None:
                model = spread(model, self.mesh, self.plan.spec.path)
        yield StageStarted(Stage.ENCODE)
        with self.stage(Stage.ENCODE, "text"):
            text = model.encode(self.plan.prompt, self.plan.negative if self.plan.guided else None)
        return model, text

    def look(self) -> tuple[Checkpoint | None, np.ndarray | None]:
        """What an earlier attempt left, and the image or video if it is (still) needed: before minutes of loading weights,
        and so are LoRAs looked at."""
        plan = self.plan
        read_stack(plan.loras, self.loras, plan.spec)
        saved = newest_checkpoint(self.workspace, self.mark, plan.latent_shape, plan.sampled_steps)
        saved = saved if self.mesh is None else self.mesh.tell(saved)  # told from the processor: every rank has a device of its own
        saved = saved and saved.to(torch.device(plan.device))
        if plan.spec.shown:
            with self.stage(Stage.ENCODE, "image"):
                return saved, read_shown(plan, self.inputs)
        if plan.mode == "t2v" or (plan.mode == "v2v" and saved is not None):
            return saved, None
        with self.stage(Stage.ENCODE, "image"):
            return saved, read_input(plan, self.inputs)

    def begin(self, model: VideoModel, saved: Checkpoint | None, frames: np.ndarray | None) -> Generator[Event, None, _Start]:
        """From a checkpoint, or from noise, with the image or video encoded; the generator stands where diffusers' would."""
        plan = self.plan
        # Noise is drawn on the processor whatever the device, so a seed means the same clip everywhere.
        generator = torch.Generator("cpu").manual_seed(plan.seed)
        stepper = model.scheduler(plan.scheduler, plan.steps, run=plan.sampled_steps, eta=plan.eta)
        beside: torch.Tensor | None
        if plan.spec.shown:
            assert frames is not None
            beside = yield from self.show(model, frames, generator)
        else:
            moments = [] if frames is None else (yield from self.encode(model, frames))
            beside = model.image_beside(moments, plan.latent_shape, generator) if plan.mode == "i2v" else None
        if saved is not None:
            generator.set_state(saved.generator)
            self.seconds[Stage.SAMPLE.value] = saved.seconds
            return _Start(saved.state, beside, stepper, generator)
        if plan.mode == "v2v":
            latents = model.video_latents(moments, plan.latent_shape, stepper, generator)
        else:
            latents = model.initial_latents(plan.latent_shape, generator)
        if self.mesh is not None:
            latents = self.mesh.same(latents)
        return _Start(SampleState(0, latents, None), beside, stepper, generator)

    def show(self, model: VideoModel, frames: np.ndarray, generator: torch.Generator) -> Generator[Event, None, torch.Tensor]:
        """What stands beside the noise of a model that is shown these frames of the clip."""
        plan, moments = self.plan, []
        known = tuple(plan.frames_shown)
        for part in shown_parts(plan.spec, frames, known, plan.frames, plan.seed):
            moments.append((yield from self.encode(model, part)))
        return model.shown_beside(moments, known, plan.frames, plan.latent_shape, generator)

    def encode(self, model: VideoModel, frames: np.ndarray) -> Generator[Event, None, list[torch.Tensor]]:
        """All moments of an image or video."""
        self.phase = "image"
        chunks, moments, done = model.encode_frames(frames, self.plan.tile, self.plan.placement.decode), [], 0
        while done < len(frames):
            with self.stage(Stage.ENCODE, "image"):
                done, part = next(chunks)
            moments.append(part)
            yield StepDone(Stage.ENCODE, done, len(frames), None)
        return moments

    def denoise(self, model: VideoModel, text: torch.Tensor, start: _Start) -> Generator[Event, None, SampleState]:
        """The state after the last step; saved to disk whatever comes."""
        plan, mark, total = self.plan, self.mark, self.plan.sampled_steps
        state, generator = start.state, start.generator
        yield StageStarted(Stage.SAMPLE)
        if state.step:
            yield Resumed(state.step, total)
        previewed, checkpointed, on_disk, durations = float("-inf"), time.monotonic(), state.step, []
        weights = guidance_weights(plan.guidance_kind, plan.guidance, start.stepper.timesteps.tolist())
        shortcut = None
        if plan.cache != "off" or plan.cfg_gate < 1:
            shortcut = Shortcut(model, start.stepper, text, weights, cache=plan.cache, gate=plan.cfg_gate, beside=start.beside,
                                changes=self.changes, added=None if self.mesh is None else self.mesh.added)
        steps = sample(model, start.stepper, text, state, weights, generator, start.beside, shortcut)
        while state.step < total:
            begun, before = time.perf_counter(), generator.get_state()
            try:
                with self.stage(Stage.SAMPLE):
                    after = next(steps)
                    _check_finite(after, plan)
                    state = after  # only now: what is saved below belongs to the generator as it was before
            except (Cancelled, MemoryError, RuntimeError) as error:
                # A worker that has to end hands its job on: what was sampled since the last checkpoint goes with it.
                if self.leads and state.step > on_disk and (isinstance(error, Cancelled) or _out_of_memory(error)):
                    generator.set_state(before)  # a step that broke off may have drawn its noise
                    save_checkpoint(self.workspace, state, generator, mark, self.seconds[Stage.SAMPLE.value])
                raise
            durations.append(time.perf_counter() - begun)
            yield StepDone(Stage.SAMPLE, state.step, total, self.eta_sampling(state.step, durations, shortcut))
            now, last = time.monotonic(), state.step == total
            if self.leads and (last or now - checkpointed >= self.checkpoint_seconds):
                path = save_checkpoint(self.workspace, state, generator, mark, self.seconds[Stage.SAMPLE.value])
                checkpointed, on_disk = time.monotonic(), state.step
                yield CheckpointSaved(state.step, path)
            if self.leads and now - previewed >= self.preview_seconds and state.clean is not None and not last:
                previewed = now
                yield Preview(state.step, self.models.colours(plan).strip(state.clean[0, plan.latent_padding:]))
        self.keep_changes(None if shortcut is None else shortcut.changes)
        return state

    def read_changes(self) -> tuple[float, ...] | None:
        """MagCache's magnitudes for this plan: shipped with the checkpoint or calibrated here before; None: to be calibrated."""
        plan = self.plan
        if plan.cache != "magcache":
            return None
        files = [plan.spec.path / SHIPPED, *([] if self.calibrations is None else [self.calibrations])]
        return read_changes(files, plan.spec.fingerprint, plan.scheduler, plan.steps, plan.sampled_steps)

    def keep_changes(self, changes: tuple[float, ...] | None) -> None:
        """For the next clip of this model, where this one measured them."""
        if changes is None or self.calibrations is None or self.plan.loras or not self.leads:  # with LoRAs it is another model
            return
        plan = self.plan
        key = changes_key(plan.scheduler, plan.steps, plan.sampled_steps)
        self.calibrations.parent.mkdir(parents=True, exist_ok=True)
        if self.calibrations.is_dir():  # key frames once left a folder of this name
            shutil.rmtree(self.calibrations)
        write_atomic(self.calibrations, with_changes(self.calibrations, plan.spec.fingerprint, key, changes).encode())

    def help_write(self, model: VideoModel, state: SampleState) -> None:
        """What the ranks that write nothing do for the one that does."""
        plan, done = self.plan, 0
        chunks = model.decode(state.latents[:, plan.latent_padding:], plan.tile, plan.placement.decode)
        while done < plan.frames:
            with self.stage(Stage.DECODE):
                frames = next(chunks, None)
            if frames is None:
                break
            done += len(frames)
        with self.stage(Stage.VERIFY):
            pass

    def write(self, model: VideoModel, state: SampleState) -> Generator[Event, None, None]:
        """Decode into the writer, check, and say so."""
        plan = self.plan
        if not self.leads:
            self.help_write(model, state)
            return
        yield StageStarted(Stage.DECODE)
        with ClipWriter(self.part, width=plan.width, height=plan.height, fps=plan.fps, frames=plan.frames,
                        recipe=self.recipe) as writer:
            chunks, done = model.decode(state.latents[:, plan.latent_padding:], plan.tile, plan.placement.decode), 0
            while done < plan.frames:
                with self.stage(Stage.DECODE):
                    frames = next(chunks, None)
                    if frames is None:
                        break
                    if not len(frames):  # tiles are worked on; a moment to be cancelled
                        continue
                    writer.write(frames.numpy())
                done += len(frames)
                each = self.seconds[Stage.DECODE.value] / done
                yield StepDone(Stage.DECODE, done, plan.frames, each * (plan.frames - done))
            yield StageStarted(Stage.VERIFY)
            with self.stage(Stage.VERIFY):
                writer.finish()
                digest = file_sha256(self.part)
        yield ClipWritten(self.part, writer.poster, digest, self.part.stat().st_size, plan.frames, plan.width, plan.height,
                          plan.fps, dict(self.seconds), peak_bytes(plan.device))

    def eta_sampling(self, step: int, durations: list[float], shortcut: Shortcut | None = None) -> float:
        """Seconds to the end: the remaining steps at the recent pace of those that are run in full, each for the share of it that
        `shortcut` runs, and decoding at the same arithmetic speed."""
        plan, total = self.plan, self.plan.sampled_steps
        costs, whole = ([1.0] * total,) * 2 if shortcut is None else shortcut.costs
        ran = range(step - len(durations), step)
        full = [took / whole[index] for index, took in zip(ran, durations, strict=True) if costs[index] == whole[index]]
        each = median(full[-RECENT_STEPS:]) if full else sum(durations) / (sum(costs[index] for index in ran) or 1.0)
        uncached = plan.work["sample"] / work_share(plan.cache, plan.cfg_gate, total, plan.guided)
        return each * sum(costs[step:]) + each * total * plan.work["decode"] / uncached


def _check_finite(state: SampleState, plan: Plan) -> None:
    if not torch.isfinite(state.latents).all():
        raise OutputRejected(f"step {state.step} of {plan.sampled_steps} gave numbers that are not finite (NaN). Likely cause: "
                             f"damaged weights, or guidance {plan.guidance:g} far above this model's "
                             f"{plan.spec.recommended_guidance:g}."
                             + (" Or FP16, in which numbers above 65504 are lost: use precision bf16 or auto."
                                if plan.placement.homes["transformer"].precision == "fp16" else "")
                             + (f" Or the attention kernel {plan.attention}; SPROCKET_ATTENTION=native avoids it."
                                if plan.attention != "native" else ""))


def _out_of_memory(error: BaseException | None) -> bool:
    # On the processor torch has no class of its own for it, and CUDA's libraries say it in words of their own.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY))


def no_engine(error: BaseException) -> bool:
    """True for words of CUDA's libraries that mean either."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_ENGINE)


def _device_lost(error: BaseException) -> BaseException | None:
    """torch's error of a device that gave up (memory that ran out aside), as it is or as loading took it for a damaged file."""
    return next((one for one in (error, error.__cause__) if isinstance(one, getattr(torch, "AcceleratorError", ()))), None)


def _crowded(plan: Plan) -> bool:
    """True where this job has had nearly all that there is for it."""
    if not plan.device.startswith("cuda"):
        return False
    device = torch.device(plan.device)
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    room = min(room, max(plan.budget - CONTEXT_BYTES, 1)) if plan.budget else room
    return torch.cuda.max_memory_reserved(device) > CROWDED * room


def _on_the_gpu(error: BaseException) -> bool:
    return any(isinstance(one, RuntimeError) and "can't allocate memory" not in str(one) for one in (error, error.__cause__))


def _begin_memory(plan: Plan) -> None:
    """From here on the highest memory is counted (on a processor where the kernel lets a process start anew), and torch's
    allocator on a GPU stays within the budget: what goes beyond it is memory that ran out."""
    if plan.device.startswith("cuda"):
        device = torch.device(plan.device)
        _begin_cuda(device)
        torch.cuda.reset_peak_memory_stats(device)
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, max(plan.budget - CONTEXT_BYTES, 0) / total) if plan.budget else 1.0
        torch.cuda.set_per_process_memory_fraction(share, device)
    else:
        begin_peak()


def _begin_cuda(device: torch.device) -> None:
    """Raises `CannotFit` where torch cannot use the GPU that the driver tells of."""
    try:
        torch.cuda.init()
        torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError) as error:
        if _out_of_memory(error):
            raise
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CannotFit(f"torch {torch.__version__} cannot use the GPU ({device}) that the driver tells of: {words[:240]}. Update the "
                        "NVIDIA driver, or install a torch that fits it, or make this on the processor (device cpu).") from error


def peak_bytes(device: str) -> int:
    """Highest resident set of this process, or of torch's allocator on a GPU, since `_begin_memory`."""
    return torch.cuda.max_memory_allocated(torch.device(device)) if device.startswith("cuda") else peak_resident()
