"""The studio's answers as markup: one function per panel. Reads the studio, changes nothing."""

from __future__ import annotations

from typing import Any

from app.errors import NotFound
from app.history.records import Clip, ClipPage, ClipQuery, Job, JobState, Project
from app.key_frames import strip_count, waits
from app.ui.address import Address
from app.ui.html.account import account_html
from app.ui.html.batch import batch_html, batch_token
from app.ui.html.common import empty, link
from app.ui.html.fill import fill_html, followers
from app.ui.html.frame import header_html
from app.ui.html.gallery import clip_html, gallery_html
from app.ui.html.models import models_html
from app.ui.html.queue import queue_html
from app.ui.html.status import stage_html
from app.ui.parts import OWNER, remembered_batch
from app.ui.public import gallery_of, public_view, section
from engine.errors import SprocketError
from engine.spec import ModelSpec

QUEUE_SHOWN = 100
FOLLOWERS_OF = 48
"""Newest clips of one size and rate that are looked through for those that may follow one; a search finds the others."""


def project_of(projects: tuple[Project, ...], wanted: str) -> str:
    """`wanted` if it exists, else the first project."""
    return wanted if any(p.id == wanted for p in projects) else (projects[0].id if projects else "")


def header(studio: Any, at: Address, project: str, status: Any) -> str:
    """The bar on top. `status` is `studio.status()`, asked once for all panels."""
    projects = studio.projects(owner=OWNER)
    return header_html(
        at,
        projects,
        project_of(projects, project),
        busy=status.queued + status.running,
        blocked=status.blocked_reason,
        message=status.recovery_message,
        account=account_html(getattr(studio, "visitor", None)),
    )


def header_token(at: Address, status: Any) -> str:
    """Changes when the bar does, as far as jobs and the disk go."""
    return f"{at.view}|{status.queued + status.running}|{status.blocked_reason}|{status.recovery_message}"


def find_job(studio: Any, job_id: str) -> Job | None:
    """The job, or None when it is unknown or another's."""
    if not job_id:
        return None
    try:
        return studio.job(job_id, owner=OWNER)
    except NotFound:
        return None


def find_clip(studio: Any, job: Job) -> Clip | None:
    """The clip of a job, or None when there is none (any more): its files may have been deleted by hand and the history made again."""
    if not job.clip_id:
        return None
    try:
        return studio.clip(job.clip_id, owner=OWNER)
    except NotFound:
        return None


def spec_of(studio: Any, model: object) -> ModelSpec | None:
    """The model's facts, or None when it is not on this machine."""
    if not isinstance(model, str):
        return None
    try:
        return studio.spec(model)
    except SprocketError:
        return None


def stage(studio: Any, job: Job | None, status: Any) -> str:
    """The Create page's screen for `job`."""
    if job is None:
        return stage_html(None)
    clip = find_clip(studio, job)
    spec = spec_of(studio, job.request.get("model"))
    frames = pictures(studio, job, spec)
    return stage_html(
        job,
        clip,
        ahead=ahead(studio, job),
        blocked=status.blocked_reason,
        preview_frames=frames,
        worker_alive=status.worker_alive,
        worker_message=status.worker_message,
        keys=studio.key_frames(job.id, owner=OWNER) if waits(job) else (),
    )


def pictures(studio: Any, job: Job, spec: ModelSpec | None) -> int:
    """How many pictures stand side by side in the job's preview: the clip's latent frames, or as many as rounds have made so far."""
    if spec is None:
        return 0
    if job.request.get("fps") is None and job.request.get("key_frames") is None:
        return ((job.request.get("frames") or spec.native_frames) - 1) // spec.temporal_scale + 1
    width, height = job.request.get("width") or spec.native_width, job.request.get("height") or spec.native_height
    return strip_count(studio.preview_path(job.id, owner=OWNER), width / height)


def stage_token(job: Job | None, status: Any) -> str:
    """Changes when the screen does; while a job waits, also with what runs before it."""
    if job is None:
        return "none"
    waits = f"{status.queued}:{status.running}:{status.worker_alive}" if job.state is JobState.QUEUED else ""
    return f"{job.id}:{job.status_seq}:{job.preview_seq}:{waits}:{status.blocked_reason}"


def batch_jobs(studio: Any, memory: object, job_id: str) -> tuple[Job, ...]:
    """The jobs of the batch that the job on the screen belongs to, as far as they are still here."""
    ids = remembered_batch(memory)
    return tuple(job for each in ids if (job := find_job(studio, each))) if job_id in ids else ()


def batch(jobs: tuple[Job, ...], job_id: str) -> tuple[str, str]:
    """(markup, token) of the tiles below the screen."""
    return batch_html(jobs, job_id), batch_token(jobs, job_id)


def queue(status: Any, jobs: tuple[Job, ...]) -> str:
    """The Queue page; `jobs` from `queue_jobs`."""
    return queue_html(
        jobs,
        worker_alive=status.worker_alive,
        worker_message=status.worker_message,
    )


def queue_jobs(studio: Any) -> tuple[Job, ...]:
    return studio.jobs(owner=OWNER, limit=QUEUE_SHOWN)


def ahead(studio: Any, job: Job) -> int:
    """How many jobs run before this one."""
    if job.state is not JobState.QUEUED:
        return 0
    ids = [other.id for other in studio.jobs(owner=OWNER, active_only=True)]
    return ids.index(job.id) if job.id in ids else 0


def gallery(studio: Any, at: Address, follow: str | None = None) -> str:
    """The Gallery page: the grid, or the page of the clip the address names. `follow`: words of a clip that is to follow it."""
    if at.public:
        return public_view(studio, at)
    projects = studio.projects(owner=OWNER)
    if not at.clip:
        page: ClipPage = studio.clips(at.query(), owner=OWNER)
        return gallery_html(page, at, projects, [spec.name for spec in studio.models()], shared=gallery_of(studio) is not None)
    try:
        clip = studio.clip(at.clip, owner=OWNER)
    except NotFound:
        return empty(
            "No such clip",
            "It was never here, or it belongs to someone else.",
            action=link("Show all clips", Address(view="gallery").href()),
        )
    parents, children = studio.lineage(clip.id, owner=OWNER)
    name = next((p.name for p in projects if p.id == clip.project_id), "")
    fitting = studio.clips(ClipQuery(follow or "", shape=(clip.width, clip.height), fps=clip.fps, page_size=FOLLOWERS_OF), owner=OWNER)
    fill = fill_html(clip, followers(clip, fitting.clips), many=fitting.total > FOLLOWERS_OF, words=follow)
    return clip_html(clip, parents, children, name, at, fill, section(studio, clip))


def models(studio: Any, said: object = "") -> str:
    """The Models page; `said`: why the last wish was refused."""
    hub, words = studio.hub, said if isinstance(said, str) else ""
    return models_html(hub.cards(), folder=str(hub.folder), free_bytes=hub.free_bytes(), offline=hub.offline, said=words)


def model_names(studio: Any) -> list[str]:
    """What the form's list of models offers."""
    return [spec.name for spec in studio.models()]
