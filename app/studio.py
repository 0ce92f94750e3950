"""The use-cases of the studio. Pages, command line and HTTP call this and nothing below it; no torch, no Gradio.

Every call names its owner; an id of somebody else is not found, like one that never was.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app import batches, input_view, inputs, key_frames, storage
from app.checked import checked_id, checked_key
from app.datasets import Datasets
from app.errors import NotAllowed, NotFound
from app.history.leases import Limits
from app.history.opening import MESSAGE, open_store
from app.history.records import Clip, ClipPage, ClipQuery, Forecast, Job, JobEvent, JobMark, JobState, Project, StudioStatus
from app.history.recovery import write_stale_sidecars
from app.history.sidecar import write_projects
from app.history.store import Store
from app.history.unused import touch
from app.hub.shelf import Hub
from app.interpolation import Interpolations
from app.loras import Loras
from app.planning import Weighing, forecast_of, hardware_on, plan_here, recent_clips, weighing
from app.published import PublicGallery
from app.queue.devices import mode_of, set_mode, shared_out
from app.queue.door import Engine, open_engine
from app.queue.kinds import GENERATE
from app.queue.process import this_process
from app.queue.reports import SUPERVISOR, key_of, living
from app.refining import Refining
from app.restoring import recipe_of, request_of, stand_in_words
from app.settings import Settings
from app.training import Trainings
from engine.alternatives import Alternative, Alternatives, alternatives, in_words
from engine.errors import AwaitingReview
from engine.events import Event
from engine.hardware import Hardware
from engine.inputs import input_file
from engine.models.tokens import check_tokens
from engine.plan import Plan
from engine.request import GenerationRequest
from engine.spec import ModelSpec
from engine.video.recipe import read_recipe

LOCAL = "local"
DRAWN_SEEDS = 2**31
"""Seeds that are drawn stay below this, so that people can read and type them."""


def open_studio(settings: Settings) -> Studio:
    """A studio on the history of `settings.data_dir`, which is made, migrated or recovered as needed."""
    return Studio(settings, open_store(settings))


class Studio:
    """Owns its store; `close()` it. Threads may share one."""

    def __init__(self, settings: Settings, store: Store, engine: Engine | None = None) -> None:
        self.settings = settings
        self.store = store
        self._engine = engine or open_engine(settings.engine, settings.data_dir)
        self._trouble: tuple[float, str | None] | None = None
        self.hub = Hub(settings, in_use=store.jobs.models_in_use, memory=self._memory_of)
        """Models: downloads, the Models page, `sprocket models`."""
        self.loras = Loras(settings, in_use=store.jobs.loras_in_use)
        """LoRAs: add, list, delete, `sprocket loras`."""
        self.training = Trainings(settings, store, self.loras, hardware=self._on_device, list_model=self.hub.add_folder,
                                  spec=self.spec, project=lambda asked, by: store.projects.chosen(asked, owner=by, now=time.time()).id)
        """Training runs: start, watch, pause, resume, `sprocket train`."""
        self.interpolations = Interpolations(self)
        """More frames for a clip or a video, `sprocket interpolate`."""
        self.refining = Refining(settings, self.spec, self.loras)
        """Prompt refinement: `refine`, `start` and `look`, `sprocket refine`."""
        self.published = PublicGallery(self)
        """Clips that others may look at, `sprocket history publish`."""
        self.datasets = Datasets(settings, self.spec, self.refining.describer, self.training)
        """Sets of clips to train on: the Train page, `sprocket dataset`."""

    def close(self) -> None:
        self.datasets.close()
        self.refining.close()
        self.store.close()

    # ---- jobs

    def submit(self, request: GenerationRequest | Mapping[str, Any], *, owner: str = LOCAL, project_id: str | None = None,
               idempotency_key: str | None = None, made_from: str | None = None, reserve: bool = False) -> Job:
        """One durable job, or the one that the same `idempotency_key` made before. Returns once it is on the disk.

        `reserve`: this process will run it itself (`run_here`); should it die first, the server's worker does.
        Raises InvalidRequest, CannotFit, ModelNotFound, ModelInvalid, NotFound (project, parent clip), NotAllowed (too
        many wait), StorageBlocked. No row exists then.
        """
        wish = _wish(request)
        key = checked_key(idempotency_key)
        if known := self.store.jobs.repeated(key, wish.to_json(), owner=owner, made_from=made_from):
            return known[0]  # whatever has become of its model or its parent since
        resolved = self._planned(wish)
        now = time.time()
        project = self.store.projects.chosen(project_id, owner=owner, now=now)
        if made_from is not None:
            self.clip(made_from, owner=owner)
        seed = secrets.randbelow(DRAWN_SEEDS) if wish.seed is None else wish.seed
        return self.store.jobs.add(
            owner=owner, project_id=project.id, request=dataclasses.replace(wish, seed=seed).to_json(),
            asked=wish.to_json(), now=now, steps=resolved.sampled_steps, notes=resolved.notes, idem_key=key, made_from=made_from,
            max_attempts=self.settings.max_crashes, max_waiting=self.settings.max_waiting,
            reserved_by=this_process().to_json() if reserve else None)

    def submit_batch(self, requests: Sequence[GenerationRequest | Mapping[str, Any]], *, owner: str = LOCAL, project_id: str | None = None,
                     idempotency_key: str | None = None, made_from: str | None = None, reserve: bool = False) -> tuple[Job, ...]:
        """One durable job for each request, all or none: all are planned before any row exists, and written at once.

        They wait one behind the other, so the model stays loaded for all. Raises as `submit`, naming which request it is.
        """
        wishes, key = batches.wishes(requests, self.settings.max_batch), checked_key(idempotency_key)
        if known := self.store.jobs.repeated(key, [wish.to_json() for wish in wishes], owner=owner, made_from=made_from):
            return known
        new = batches.new_jobs(wishes, self._planned, lambda: secrets.randbelow(DRAWN_SEEDS))
        now = time.time()
        project = self.store.projects.chosen(project_id, owner=owner, now=now)
        if made_from is not None:
            self.clip(made_from, owner=owner)
        return self.store.jobs.add_batch(
            new, owner=owner, project_id=project.id, now=now, idem_key=key, made_from=made_from, max_attempts=self.settings.max_crashes,
            max_waiting=self.settings.max_waiting, reserved_by=this_process().to_json() if reserve else None)

    def batch(self, batch_id: str, *, owner: str = LOCAL) -> tuple[Job, ...]:
        """The jobs of a batch in the order they were asked for. Raises NotFound."""
        return self.store.jobs.batch(checked_id(batch_id, "batch"), owner=owner)

    def cancel_batch(self, batch_id: str, *, owner: str = LOCAL) -> tuple[Job, ...]:
        """Cancels all of a batch that has not ended; what is being saved is finished. Raises NotFound. Cancelling twice is fine."""
        jobs = self.store.jobs.cancel_batch(checked_id(batch_id, "batch"), owner=owner, now=time.time())
        if any(job.state is JobState.CANCELLING for job in jobs) and self._reap():
            return self.store.jobs.batch(batch_id, owner=owner)
        return jobs

    def run_all_here(self, job_ids: Sequence[str], on_event: Callable[[Event], None] | None = None) -> tuple[Job, ...]:
        """`run_here` for several jobs with one loaded model; one that fails does not stop the next."""
        from app.queue.inline_batch import run_all

        return run_all(self.settings, self.store, self._engine, job_ids, on_event)

    def run_here(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """Runs a waiting job in this process and returns it as it then stands. See `app.queue.inline.run_one`."""
        from app.queue.inline import run_one

        return run_one(self.settings, self.store, self._engine, job_id, on_event)

    def job(self, job_id: str, *, owner: str = LOCAL) -> Job:
        return self.store.jobs.get(checked_id(job_id, "job"), owner=owner)

    def jobs(self, *, owner: str = LOCAL, active_only: bool = False, limit: int = 100) -> tuple[Job, ...]:
        """Running first, then waiting in order, then ended ones, newest first."""
        return self.store.jobs.list(owner=owner, active_only=active_only, limit=limit)

    def marks(self) -> tuple[JobMark, ...]:
        return self.store.jobs.marks()

    def job_events(self, job_id: str, *, owner: str = LOCAL) -> tuple[JobEvent, ...]:
        return self.store.jobs.events(checked_id(job_id, "job"), owner=owner)

    def current_job(self, *, owner: str = LOCAL) -> Job | None:
        """What a page that has just been opened should show: the running job, else the first waiting one."""
        return next(iter(self.store.jobs.list(owner=owner, active_only=True, limit=1)), None)

    def cancel(self, job_id: str, *, owner: str = LOCAL) -> Job:
        """Raises NotFound, NotAllowed (it has ended or is being saved). Cancelling twice is fine."""
        job = self.store.jobs.ask_cancel(checked_id(job_id, "job"), owner=owner, now=time.time())
        if job.state is JobState.CANCELLING and self._reap():  # its worker may be dead, and no server here to notice
            return self.store.jobs.get(job.id)
        return job

    def retry(self, job_id: str, *, owner: str = LOCAL) -> Job:
        """The same failed or cancelled job again, from where it saved its state. Raises NotFound, NotAllowed."""
        return self.store.jobs.retry(self.training.alone(self.job(job_id, owner=owner)).id, owner=owner, now=time.time())

    def duplicate(self, job_id: str, *, owner: str = LOCAL) -> Job:
        """A new job with the same request, seed included. Raises NotFound, NotAllowed."""
        job = self.training.alone(self.job(job_id, owner=owner))
        if job.kind != GENERATE:
            return self.store.jobs.add(owner=owner, project_id=job.project_id, kind=job.kind, request=job.request, asked=job.request,
                                       now=time.time(), steps=job.steps, notes=job.notes, made_from=job.made_from,
                                       max_attempts=self.settings.max_crashes, max_waiting=self.settings.max_waiting)
        return self.submit(job.request, owner=owner, project_id=job.project_id, made_from=job.made_from)

    def move(self, job_id: str, *, owner: str = LOCAL, to: str) -> Job:
        """`to`: up, down, top, bottom, among the owner's waiting jobs."""
        return self.store.jobs.move(checked_id(job_id, "job"), owner=owner, to=to)

    def pause(self, job_id: str, *, owner: str = LOCAL) -> Job:
        """A waiting job keeps waiting until `resume`."""
        return self.store.jobs.pause(checked_id(job_id, "job"), owner=owner, now=time.time())

    def resume(self, job_id: str, *, owner: str = LOCAL) -> Job:
        return self.store.jobs.resume(checked_id(job_id, "job"), owner=owner, now=time.time())

    def key_frames(self, job_id: str, *, owner: str = LOCAL) -> tuple[key_frames.KeyFrame, ...]:
        """Raises NotFound."""
        return key_frames.key_frames(self.settings, self.job(job_id, owner=owner))

    def edit_key_frame(self, job_id: str, index: int, what: int | str | None = None, *, owner: str = LOCAL) -> Job:
        """A key frame made anew (a seed; None: a drawn one) or replaced (an input). Raises NotFound, NotAllowed, InvalidRequest."""
        job, change = self.job(job_id, owner=owner), key_frames.edited(self.settings, index, what)
        self._planned(GenerationRequest.from_mapping(change(job.request)))  # an index that is no key frame is refused here
        return self.store.jobs.revise(job.id, owner=owner, now=time.time(), code=AwaitingReview.code, change=change)

    def go_on(self, job_id: str, *, owner: str = LOCAL) -> Job:
        """The rounds of a job that waits at its key frames may begin. Raises NotFound, NotAllowed."""
        job_id = checked_id(job_id, "job")
        return self.store.jobs.revise(job_id, owner=owner, now=time.time(), code=AwaitingReview.code, change=key_frames.approved)

    def take_back(self, job_id: str, *, owner: str = LOCAL) -> GenerationRequest:
        """Cancels a waiting job and returns its request, for changing and submitting again.

        Raises NotFound, NotAllowed when the job does not wait.
        """
        job = self.job(job_id, owner=owner)
        if job.state not in (JobState.QUEUED, JobState.BLOCKED, JobState.PAUSED):
            raise NotAllowed(f"Only waiting jobs can be taken back; this one is {job.state.value}.")
        if job.kind != GENERATE:
            raise NotAllowed("Only jobs of the form on Create can be taken back into it. Cancel this one and ask again.")
        request = GenerationRequest.from_mapping(job.request)
        after = self.store.jobs.ask_cancel(job.id, owner=owner, now=time.time())
        if after.state is not JobState.CANCELLED:
            raise NotAllowed("This job has just been started; it is being cancelled. Its settings stay in the list.")
        return request

    def preview_path(self, job_id: str, *, owner: str = LOCAL) -> Path | None:
        """The newest preview (WebP film strip) of a job; None when there is none."""
        job = self.job(job_id, owner=owner)
        path = self.settings.job_dir(job.id) / "preview.webp"
        return path if path.is_file() else None

    def log_text(self, job_id: str, *, owner: str = LOCAL, last_bytes: int = 20_000) -> str:
        """The end of the job's own log, plain text."""
        path = self.settings.job_dir(self.job(job_id, owner=owner).id) / "log.txt"
        try:
            return path.read_bytes()[-last_bytes:].decode("utf-8", "replace")
        except OSError:
            return ""

    # ---- images and videos to start from

    def add_input(self, path: Path, *, field: str | None = None) -> str:
        """Keeps a copy of an image or video and returns the name requests use for it; the same file gives the same name.

        `field`: 'image' or 'video', where it must be one of them. Raises InvalidRequest for anything that cannot be
        used, StorageBlocked.
        """
        return inputs.add_file(self.settings, Path(path), field)

    def add_frame(self, clip_id: str, frame: int | None = None, *, owner: str = LOCAL) -> str:
        """One frame of a clip as an image to start from; `frame` from 0, None: the last. Raises NotFound, InvalidRequest."""
        clip = self.clip(clip_id, owner=owner)
        return inputs.add_frame(self.settings, self.clip_path(clip.id, owner=owner), clip, frame)

    def input_facts(self, name: str) -> input_view.InputFacts:
        """What an input is. Raises InvalidRequest when it is not (any more) here."""
        return input_view.facts(self.settings, name)

    def input_preview(self, name: str, *, width: int, height: int, fit: str, frames: int = 1, fps: float = 8.0) -> bytes:
        """WebP: the input as it will be fitted, see `app.input_view.preview`. Raises InvalidRequest."""
        return input_view.preview(self.settings, name, width=width, height=height, fit=fit, frames=frames, fps=fps)

    # ---- clips

    def clips(self, query: ClipQuery | None = None, *, owner: str = LOCAL) -> ClipPage:
        return self.store.clips.page(query or ClipQuery(), owner=owner)

    def clip(self, clip_id: str, *, owner: str = LOCAL) -> Clip:
        return self.store.clips.get(checked_id(clip_id, "clip"), owner=owner)

    def clip_path(self, clip_id: str, *, owner: str = LOCAL) -> Path:
        """The mp4. Raises NotFound, also when the file is gone."""
        return self._file(clip_id, owner, ".mp4")

    def poster_path(self, clip_id: str, *, owner: str = LOCAL) -> Path:
        """The poster (WebP)."""
        return self._file(clip_id, owner, ".webp")

    def lineage(self, clip_id: str, *, owner: str = LOCAL) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        """(what this clip was made from, nearest first; what was made from it)."""
        return self.store.clips.lineage(checked_id(clip_id, "clip"), owner=owner)

    def rename(self, clip_id: str, name: str, *, owner: str = LOCAL) -> Clip:
        return self._saved(self.store.clips.rename(checked_id(clip_id, "clip"), name, owner=owner))

    def set_favourite(self, clip_id: str, favourite: bool = True, *, owner: str = LOCAL) -> Clip:
        return self._saved(self.store.clips.set_favourite(checked_id(clip_id, "clip"), bool(favourite), owner=owner))

    def trash(self, clip_id: str, *, owner: str = LOCAL) -> Clip:
        """Out of the gallery, also the public one; `untrash` brings it back to the owner's. The files stay."""
        clip = self._saved(self.store.clips.set_trashed(checked_id(clip_id, "clip"), time.time(), owner=owner))
        self.published.forget(clip.id)
        return clip

    def untrash(self, clip_id: str, *, owner: str = LOCAL) -> Clip:
        return self._saved(self.store.clips.set_trashed(checked_id(clip_id, "clip"), None, owner=owner))

    def move_clip(self, clip_id: str, project_id: str, *, owner: str = LOCAL) -> Clip:
        return self._saved(self.store.clips.set_project(checked_id(clip_id, "clip"), checked_id(project_id, "project"), owner=owner))

    def clip_request(self, clip_id: str, *, owner: str = LOCAL) -> GenerationRequest:
        """What to ask for to get this clip again."""
        clip = self.clip(clip_id, owner=owner)
        return request_of(clip.recipe, self.models(), clip.model)

    def request_from_file(self, path: Path) -> GenerationRequest:
        """The request in a Sprocket mp4 or sidecar from anywhere. Raises InvalidRequest."""
        return request_of(read_recipe(Path(path)), self.models())

    def missing_loras(self, source: str, *, owner: str = LOCAL) -> list[str]:
        """Of the LoRAs that made a clip (its id, mp4 or sidecar) those that are not here, as people know them."""
        return self.loras.missing(recipe_of(source, lambda: self.clip(source, owner=owner)))

    def stand_in(self, source: str, *, owner: str = LOCAL) -> str:
        """A sentence where the model that made a clip (as above) goes by another name here, which its request then says; else ''."""
        return stand_in_words(recipe_of(source, lambda: self.clip(source, owner=owner)), self.models())

    # ---- projects

    def projects(self, *, owner: str = LOCAL) -> tuple[Project, ...]:
        return self.store.projects.list(owner=owner, now=time.time())

    def create_project(self, name: str, *, owner: str = LOCAL) -> Project:
        self.store.projects.default(owner=owner, now=time.time())
        project = self.store.projects.create(name, owner=owner, now=time.time())
        write_projects(self.settings.media_dir, self.store.projects)
        return project

    def rename_project(self, project_id: str, name: str, *, owner: str = LOCAL) -> Project:
        project = self.store.projects.rename(checked_id(project_id, "project"), name, owner=owner)
        write_projects(self.settings.media_dir, self.store.projects)
        return project

    # ---- models, forecasts, health

    def models(self) -> tuple[ModelSpec, ...]:
        return self._engine.installed(self.settings.models_dir)

    def spec(self, model: str) -> ModelSpec:
        """Raises ModelNotFound, ModelInvalid."""
        return self._engine.spec(model, self.settings.models_dir)

    def forecast(self, request: GenerationRequest | Mapping[str, Any], *, owner: str = LOCAL) -> Forecast:
        """What the request would cost here. Raises what `submit` raises for the request."""
        return forecast_of(self.store, self._planned(_wish(request)))

    def in_words(self, request: GenerationRequest | Mapping[str, Any], *, owner: str = LOCAL) -> tuple[Alternative, ...]:
        """Fast, Balanced and Tiny, each with its predicted cost, quickly. Raises what `submit` raises for the request."""
        return in_words(*self._weighing(_wish(request)))

    def alternatives(self, request: GenerationRequest | Mapping[str, Any], *, owner: str = LOCAL) -> Alternatives:
        """The three words, and every way this machine could make it, each with its predicted cost. Raises as `in_words`."""
        return alternatives(*self._weighing(_wish(request)))

    def status(self, *, owner: str | None = None) -> StudioStatus:
        """`owner`: whose jobs count as queued and running; None: everybody's."""
        counts = self.store.jobs.counts(owner=owner)
        process, hardware = self._worker()
        messages = [said for said, _ in self.store.recall_all(key_of(SUPERVISOR, self.settings)).values() if said]
        recovery = self.store.recall(MESSAGE)
        return StudioStatus(
            worker_alive=process, disk_free_bytes=storage.free_bytes(self.settings),
            blocked_reason=self._blocked(), queued=counts[JobState.QUEUED] + counts[JobState.BLOCKED],
            running=counts[JobState.RUNNING] + counts[JobState.FINALIZING] + counts[JobState.CANCELLING],
            hardware=hardware, worker_message=messages[0] if messages and not process else None,
            recovery_message=recovery[0] if recovery else None)

    def _reap(self) -> int:
        return self.store.leases.reap(now=time.time(), limits=Limits(self.settings.max_crashes, self.settings.max_kills))

    def _blocked(self) -> str | None:
        """Why nothing can be written; looked up at most every second, for pages that ask often."""
        now = time.monotonic()
        if self._trouble is None or now - self._trouble[0] > 1.0:
            self._trouble = (now, storage.problem(self.settings))
        return self._trouble[1]

    def dismiss_recovery_message(self) -> None:
        self.store.forget(MESSAGE)

    # ---- inside

    def _memory_of(self, model: str) -> int:
        """Bytes that a video of the model's own size takes on this machine. Raises CannotFit."""
        return self._planned(GenerationRequest(prompt="a video", model=model)).predicted_bytes

    def _planned(self, wish: GenerationRequest) -> Plan:
        made = plan_here(wish, self.spec(wish.model), self._on_device(wish.device), recent_clips(self.store, wish.model), self.settings,
                         own_device=shared_out(self.store, self.settings, self._engine.hardware))
        check_tokens(made)
        key_frames.check_inputs(self.settings, wish)
        if made.input:
            touch(input_file(self.settings.inputs_dir, made.input, "image" if made.mode == "i2v" else "video"))
        return made

    def _weighing(self, wish: GenerationRequest) -> Weighing:
        return weighing(self.store, self._planned(wish), self._on_device(wish.device))

    def devices(self) -> str:
        """'together': all GPUs for one job; 'each': one job per GPU."""
        return mode_of(self.store, self.settings)

    def set_devices(self, mode: str) -> str:
        """For every host of this history; running jobs are saved and go on. Raises InvalidRequest."""
        set_mode(self.store, mode)
        return self.devices()

    def hardware(self) -> Hardware:
        """What a job may use now, on the best device."""
        return self._engine.hardware()

    def _on_device(self, device: str | None) -> Hardware:
        """As the worker reported it, for it knows what it holds itself; asked anew for another device."""
        _alive, hardware = self._worker()
        if hardware is None or (device is not None and device != hardware.device.partition(":")[0]):
            return hardware_on(self._engine, device)
        return hardware

    def _worker(self) -> tuple[bool, Hardware | None]:
        """(is a worker alive, the hardware it reported); this host's own before others'."""
        workers = living(self.store)
        return bool(workers), workers[0].hardware if workers else None

    def _file(self, clip_id: str, owner: str, ending: str) -> Path:
        clip = self.clip(clip_id, owner=owner)
        there = (path := (self.settings.media_dir / clip.file).with_suffix(ending)).is_file()
        if ending == ".mp4" and there == clip.missing:
            self.store.clips.set_missing([clip.id], not there)
        if there:
            return path
        raise NotFound(f"The file {path.name} is no longer in {path.parent}.")

    def _saved(self, clip: Clip) -> Clip:
        """Brings the sidecar up to the row; what fails is done by the next housekeeping."""
        write_stale_sidecars(self.settings, self.store)
        return clip


def _wish(request: GenerationRequest | Mapping[str, Any]) -> GenerationRequest:
    return request if isinstance(request, GenerationRequest) else GenerationRequest.from_mapping(request)
