"""A studio in memory with the real one's methods: jobs go forward with the clock, previews and clips are real small files.

For tests of pages that need states a real worker reaches only by accident (blocked, failed, a dead worker).
"""

from __future__ import annotations

import dataclasses
import io
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from app import input_view, inputs
from app.errors import NotAllowed, NotFound
from app.history.records import Clip, ClipPage, ClipQuery, Forecast, Job, JobEvent, JobMark, JobState, Project
from app.loras import Loras
from app.refining import Refining
from app.settings import Settings
from engine.alternatives import Alternative, Alternatives, alternatives, in_words
from engine.errors import InvalidRequest, ModelNotFound
from engine.plan import Plan, check_mode, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.fakes import MACHINE, POCKET
from tests.fakes_video import picture, write_video

STEPS_PER_SECOND = 4.0
WAITING = (JobState.QUEUED, JobState.BLOCKED, JobState.PAUSED)
REAL = read_spec(POCKET, "pocket")
SPEC = SimpleNamespace(**{field.name: getattr(REAL, field.name) for field in dataclasses.fields(REAL)} | {
    "name": "pocket",
    "native_width": 192,
    "native_height": 128,
    "native_frames": 25,
    "fps": 8.0,
    "max_frames": 49,
    "fixed_size": False,
    "frame_step": 8,
    "size_multiple": 16,
    "temporal_scale": 4,
    "recommended_steps": 12,
    "recommended_guidance": 6.0,
    "scheduler": "dpm",
    "max_width": 256,
    "max_height": 256,
    "modes": ("t2v", "v2v"),
    "fingerprint": "pocket",
})
STILL = SimpleNamespace(**{**vars(SPEC), "name": "still", "modes": ("i2v",)})


class FakeStudio:
    """`folder`: where its few files go. `speed`: sampling steps a second."""

    def __init__(self, folder: Path, *, speed: float = STEPS_PER_SECOND) -> None:
        self.folder, self.speed = folder, speed
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = SimpleNamespace(data_dir=folder, incoming_dir=folder / "incoming", uploads_dir=folder / "uploads",
                                        parts_dir=folder / "parts", min_free_bytes=0, allowed_hosts="", refiner_vision_model="")
        self.kept_in = Settings(data_dir=folder)
        self.loras = Loras(self.kept_in)
        self.refining = Refining(self.kept_in, self.spec, self.loras)
        self.specs: tuple[Any, ...] = (SPEC,)
        self._jobs: dict[str, Job] = {}
        self._clips: dict[str, Clip] = {}
        self._projects = {"p1": Project("p1", "My videos", time.time())}
        self._keys: dict[str, str] = {}
        self._count = 0
        self.worker_alive, self.blocked_reason = True, None
        self._lock = threading.RLock()

    # --- jobs
    def _new_id(self) -> str:
        self._count += 1
        return f"{self._count:08x}{uuid.uuid4().hex[:24]}"

    def submit_batch(self, requests: Any, *, owner: str = "local", project_id: str | None = None, idempotency_key: str | None = None,
                     made_from: str | None = None) -> tuple[Job, ...]:
        wishes = [self._checked(request) for request in requests]
        return tuple(self.submit(wish, owner=owner, project_id=project_id, made_from=made_from,
                                 idempotency_key=f"{idempotency_key}.{number}" if idempotency_key else None)
                     for number, wish in enumerate(wishes))

    def submit(self, request: Any, *, owner: str = "local", project_id: str | None = None, idempotency_key: str | None = None,
               made_from: str | None = None) -> Job:
        if idempotency_key in self._keys:
            return self._jobs[self._keys[idempotency_key]]
        wish = self._checked(request if isinstance(request, GenerationRequest) else GenerationRequest.from_mapping(request))
        now = time.time()
        job = Job(
            id=self._new_id(),
            owner=owner,
            project_id=project_id or "p1",
            kind="generate",
            state=JobState.QUEUED,
            request=wish.to_json(),
            rank=now,
            attempt=0,
            max_attempts=3,
            stage=None,
            step=0,
            steps=wish.steps or 12,
            eta_seconds=None,
            progress_at=None,
            resumed_from=None,
            status_seq=1,
            preview_seq=0,
            error_code=None,
            error=None,
            notes=(),
            clip_id=None,
            made_from=made_from,
            created_at=now,
            started_at=None,
            finished_at=None,
        )
        self._jobs[job.id] = job
        if idempotency_key:
            self._keys[idempotency_key] = job.id
        return job

    def _checked(self, wish: GenerationRequest) -> GenerationRequest:
        check_mode(wish, self.spec(wish.model))
        frames = wish.frames or 25
        if (frames - 1) % 8:
            nearest = round((frames - 1) / 8) * 8 + 1
            raise InvalidRequest(
                "frames",
                f"is {frames}; this model makes 8k + 1 frames, 9 to 49. The nearest is {nearest}.",
                suggestion=nearest,
            )
        seed = int(time.time() * 1e6) % 10**6 if wish.seed is None else wish.seed
        return dataclasses.replace(
            wish,
            frames=frames,
            width=wish.width or 192,
            height=wish.height or 128,
            steps=wish.steps or 12,
            guidance=6.0 if wish.guidance is None else wish.guidance,
            seed=seed,
        )

    def _tick(self) -> None:
        with self._lock:  # the site asks from several threads
            self._go_on()

    def _go_on(self) -> None:
        running = next((j for j in list(self._jobs.values()) if j.state is JobState.RUNNING), None)
        if running is None and self.worker_alive and not self.blocked_reason:
            waiting = sorted((j for j in list(self._jobs.values()) if j.state is JobState.QUEUED), key=lambda j: j.rank)
            if waiting:
                self._set(waiting[0].id, state=JobState.RUNNING, started_at=time.time(), attempt=1, stage="load")
        elif running is not None:
            self._advance(running)
        for job in list(self._jobs.values()):
            if job.state is JobState.CANCELLING:
                self._set(job.id, state=JobState.CANCELLED, finished_at=time.time())

    def _advance(self, job: Job) -> None:
        passed = time.time() - (job.started_at or 0)
        step = int(passed * self.speed)
        if step >= job.steps + 2:
            if "fails" in job.request["prompt"]:
                self._set(
                    job.id,
                    state=JobState.FAILED,
                    error="All frames were equal, so nothing was saved. Try another seed.",
                    error_code="output_rejected",
                    finished_at=time.time(),
                )
            else:
                self._finish(job)
        elif step > job.steps:
            self._set(job.id, stage="decode", step=9, steps=25) if job.stage != "decode" else None
        elif step != job.step or job.stage == "load":
            eta = (job.steps - step) / self.speed
            film = Image.new("RGB", (96 * 7, 64))
            for i in range(7):
                frame = picture(job.request["prompt"], i / 7, 96, 64)
                noise = Image.fromarray((np.random.default_rng(i).random((8, 12, 3)) * 255).astype("uint8")).resize((96, 64), Image.BICUBIC)
                film.paste(Image.blend(noise, frame, min(step / job.steps, 1)), (96 * i, 0))
            data = io.BytesIO()
            film.save(data, "WEBP")
            (self.folder / f"{job.id}.webp").write_bytes(data.getvalue())
            self._set(job.id, stage="sample", step=step, eta_seconds=eta, preview_seq=job.preview_seq + 1)

    def _finish(self, job: Job) -> None:
        clip = self.add_clip(job.request["prompt"], job=job)
        self._set(job.id, state=JobState.DONE, clip_id=clip.id, finished_at=time.time(), step=job.steps)

    def add_clip(self, prompt: str, *, job: Job | None = None, age: float = 0.0, favourite: bool = False) -> Clip:
        request = job.request if job else self._checked(GenerationRequest(prompt=prompt)).to_json()
        clip_id, recipe = (
            self._new_id(),
            {"sprocket": 1, "request": request, "seconds": {"load": 0.4, "encode": 0.1, "sample": 2.9, "decode": 1.2}},
        )
        write_video(self.folder / f"{clip_id}.mp4", prompt, request["frames"], recipe)
        picture(prompt, 0.5, 384, 256).save(self.folder / f"{clip_id}.poster.webp")
        clip = Clip(
            id=clip_id,
            owner="local",
            project_id=job.project_id if job else "p1",
            job_id=job.id if job else "",
            name=prompt[:60],
            prompt=prompt,
            model="pocket",
            seed=request["seed"],
            file=f"{clip_id}.mp4",
            sha256="0" * 64,
            size_bytes=48_213,
            width=192,
            height=128,
            frames=request["frames"],
            fps=8.0,
            recipe=recipe,
            favourite=favourite,
            made_from=job.made_from if job else None,
            created_at=time.time() - age,
        )
        self._clips[clip_id] = clip
        return clip

    def _set(self, job_id: str, **changes: Any) -> Job:
        job = self._jobs[job_id]
        self._jobs[job_id] = dataclasses.replace(job, status_seq=job.status_seq + 1, **changes)
        return self._jobs[job_id]

    def job(self, job_id: str, *, owner: str) -> Job:
        self._tick()
        if job_id not in self._jobs:
            raise NotFound(f"job_id: {job_id[:40]!r} is not one of your jobs.")
        return self._jobs[job_id]

    def jobs(self, *, owner: str, active_only: bool = False, limit: int = 100) -> tuple[Job, ...]:
        self._tick()
        every = list(self._jobs.values())
        running = [j for j in every if not j.state.ended and j.state not in WAITING]
        waiting = sorted((j for j in every if j.state in WAITING), key=lambda j: j.rank)
        ended = [] if active_only else sorted((j for j in every if j.state.ended), key=lambda j: -(j.finished_at or 0))
        return tuple([*running, *waiting, *ended][:limit])

    def marks(self) -> tuple[JobMark, ...]:
        self._tick()
        return tuple(JobMark(j.id, j.owner, j.status_seq, j.preview_seq) for j in list(self._jobs.values()) if not j.state.ended)

    def job_events(self, job_id: str, *, owner: str) -> tuple[JobEvent, ...]:
        return ()

    def current_job(self, *, owner: str) -> Job | None:
        return next(iter(self.jobs(owner=owner, active_only=True)), None)

    def cancel(self, job_id: str, *, owner: str) -> Job:
        job = self.job(job_id, owner=owner)
        if job.state.ended:
            return job
        return self._set(
            job_id,
            state=JobState.CANCELLING if job.state is JobState.RUNNING else JobState.CANCELLED,
            finished_at=time.time(),
        )

    def retry(self, job_id: str, *, owner: str) -> Job:
        job = self.job(job_id, owner=owner)
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise NotAllowed("Only failed and cancelled jobs can be tried again.")
        return self._set(job_id, state=JobState.QUEUED, rank=time.time(), error=None, stage=None, step=0, preview_seq=0)

    def duplicate(self, job_id: str, *, owner: str) -> Job:
        return self.submit(self.job(job_id, owner=owner).request)

    def move(self, job_id: str, *, owner: str, to: str) -> None:
        line = [j for j in self.jobs(owner=owner, active_only=True) if j.state in WAITING]
        index = next((i for i, j in enumerate(line) if j.id == job_id), None)
        if index is None:
            raise NotAllowed("Only waiting jobs can be moved.")
        job = line.pop(index)
        line.insert({"up": max(index - 1, 0), "down": index + 1, "top": 0, "bottom": len(line)}[to], job)
        for rank, each in enumerate(line):
            self._set(each.id, rank=float(rank))

    def take_back(self, job_id: str, *, owner: str) -> GenerationRequest:
        job = self.cancel(job_id, owner=owner)
        return GenerationRequest.from_mapping(job.request)

    def preview_path(self, job_id: str, *, owner: str) -> Path | None:
        self.job(job_id, owner=owner)
        return self.folder / f"{job_id}.webp"

    # --- clips
    def clips(self, query: ClipQuery, *, owner: str) -> ClipPage:
        words = query.words.lower().split()
        found = [
            c
            for c in self._clips.values()
            if bool(c.trashed_at) == query.trashed
            and all(w in f"{c.prompt} {c.name}".lower() for w in words)
            and (not query.project_id or c.project_id == query.project_id)
            and (not query.model or c.model == query.model)
            and (c.favourite or not query.favourites_only)
        ]
        found.sort(key=lambda c: -c.created_at)
        start, pages = (query.page - 1) * query.page_size, max(1, -(-len(found) // query.page_size))
        return ClipPage(tuple(found[start : start + query.page_size]), query.page, pages, len(found))

    def clip(self, clip_id: str, *, owner: str) -> Clip:
        if clip_id not in self._clips:
            raise NotFound("clip_id: not one of your clips.")
        return self._clips[clip_id]

    def clip_path(self, clip_id: str, *, owner: str) -> Path:
        return self.folder / self.clip(clip_id, owner=owner).file

    def poster_path(self, clip_id: str, *, owner: str) -> Path:
        return self.folder / f"{self.clip(clip_id, owner=owner).id}.poster.webp"

    def lineage(self, clip_id: str, *, owner: str) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        clip = self.clip(clip_id, owner=owner)
        return (
            tuple(c for c in self._clips.values() if c.id == clip.made_from),
            tuple(c for c in self._clips.values() if c.made_from == clip_id),
        )

    def _change(self, clip_id: str, **changes: Any) -> Clip:
        self._clips[clip_id] = dataclasses.replace(self.clip(clip_id, owner="local"), **changes)
        return self._clips[clip_id]

    def rename(self, clip_id: str, name: str, *, owner: str) -> Clip:
        return self._change(clip_id, name=name)

    def set_favourite(self, clip_id: str, favourite: bool, *, owner: str) -> Clip:
        return self._change(clip_id, favourite=favourite)

    def trash(self, clip_id: str, *, owner: str) -> Clip:
        return self._change(clip_id, trashed_at=time.time())

    def untrash(self, clip_id: str, *, owner: str) -> Clip:
        return self._change(clip_id, trashed_at=None)

    def clip_request(self, clip_id: str, *, owner: str) -> GenerationRequest:
        return GenerationRequest.from_mapping(self.clip(clip_id, owner=owner).recipe["request"])

    def request_from_file(self, path: Path) -> GenerationRequest:
        from engine.video.recipe import read_recipe

        return GenerationRequest.from_mapping(read_recipe(path)["request"])

    def stand_in(self, source: str, *, owner: str) -> str:
        return ""

    def missing_loras(self, source: str, *, owner: str) -> list[str]:
        from engine.video.recipe import read_recipe

        return self.loras.missing(read_recipe(Path(source)) if Path(source).exists() else self.clip(source, owner=owner).recipe)

    # --- the rest
    def projects(self, *, owner: str) -> tuple[Project, ...]:
        return tuple(dataclasses.replace(p, clips=sum(c.project_id == p.id for c in self._clips.values())) for p in self._projects.values())

    def create_project(self, name: str, *, owner: str) -> Project:
        project = Project(self._new_id(), name, time.time())
        self._projects[project.id] = project
        return project

    def rename_project(self, project_id: str, name: str, *, owner: str) -> Project:
        if project_id not in self._projects:
            raise NotFound("project_id: not one of your projects.")
        self._projects[project_id] = dataclasses.replace(self._projects[project_id], name=name)
        return self._projects[project_id]

    def models(self) -> tuple[Any, ...]:
        return self.specs

    def spec(self, model: str) -> Any:
        found = next((spec for spec in self.specs if spec.name == model), None)
        if found is None:
            raise ModelNotFound(f"model: {str(model)[:60]!r} is not on this machine. Installed: pocket.")
        return found

    # --- what clips start from: the real thing, on the fake's folder
    def add_input(self, path: Path, *, field: str | None = None) -> str:
        return inputs.add_file(self.kept_in, path, field)

    def add_frame(self, clip_id: str, frame: int | None = None, *, owner: str) -> str:
        return inputs.add_frame(self.kept_in, self.clip_path(clip_id, owner=owner), self.clip(clip_id, owner=owner), frame)

    def input_facts(self, name: str) -> Any:
        return input_view.facts(self.kept_in, name)

    def input_preview(self, name: str, **shape: Any) -> bytes:
        return input_view.preview(self.kept_in, name, **shape)

    def forecast(self, request: GenerationRequest, *, owner: str) -> Forecast:
        wish = self._checked(request)
        return Forecast(
            seconds=(wish.steps or 12) / self.speed + 1,
            memory_bytes=412 * 2**20,
            basis="from 12 clips made on this machine",
            notes=("bf16 on this processor (cpu).",),
            queued_ahead=len(self.jobs(owner=owner, active_only=True)),
        )

    def _planned(self, request: GenerationRequest) -> Plan:
        """By the real planner, on the models that ship, for a machine of its own."""
        wish = dataclasses.replace(self._checked(request), model="pocket")
        return plan(wish, read_spec(POCKET if wish.image is None else POCKET.with_name("pocket-i2v"), "pocket"), MACHINE)

    def in_words(self, request: GenerationRequest, *, owner: str) -> tuple[Alternative, ...]:
        return in_words(self._planned(request), MACHINE, [])

    def alternatives(self, request: GenerationRequest, *, owner: str) -> Alternatives:
        return alternatives(self._planned(request), MACHINE, [])

    def status(self) -> Any:
        active = self.jobs(owner="local", active_only=True)
        waiting = sum(j.state in WAITING for j in active)
        return SimpleNamespace(
            worker_alive=self.worker_alive,
            disk_free_bytes=10**11,
            blocked_reason=self.blocked_reason,
            queued=waiting,
            running=len(active) - waiting,
            hardware=None,
            worker_message=None,
            recovery_message=None,
        )

    def hardware(self) -> Any:
        return MACHINE

    def devices(self) -> str:
        return "together"

    def set_devices(self, mode: str) -> str:
        return mode

    def close(self) -> None:
        pass
