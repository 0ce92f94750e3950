"""The studio's answers as markup: one function per panel. Reads the studio, changes nothing."""

from __future__ import annotations

from typing import Any

from app.errors import NotFound
from app.history.records import ClipPage, Job, JobState, Project
from app.ui.address import Address
from app.ui.html.common import empty, link
from app.ui.html.frame import header_html
from app.ui.html.gallery import clip_html, gallery_html
from app.ui.html.queue import queue_html, queue_token
from app.ui.html.status import stage_html
from app.ui.parts import OWNER
from engine.errors import SprocketError
from engine.spec import ModelSpec

QUEUE_SHOWN = 100


def project_of(projects: tuple[Project, ...], wanted: str) -> str:
    """`wanted` if it exists, else the first project."""
    return wanted if any(p.id == wanted for p in projects) else (projects[0].id if projects else "")


def header(studio: Any, at: Address, project: str) -> tuple[str, str]:
    """Markup and a token that changes when the markup does."""
    status, projects = studio.status(), studio.projects(owner=OWNER)
    busy = status.queued + status.running
    html = header_html(
        at,
        projects,
        project_of(projects, project),
        busy=busy,
        blocked=status.blocked_reason,
        message=status.recovery_message,
    )
    return html, f"{at.view}|{busy}|{status.blocked_reason}|{status.recovery_message}"


def find_job(studio: Any, job_id: str) -> Job | None:
    """The job, or None when it is unknown or another's."""
    if not job_id:
        return None
    try:
        return studio.job(job_id, owner=OWNER)
    except NotFound:
        return None


def spec_of(studio: Any, model: object) -> ModelSpec | None:
    """The model's facts, or None when it is not on this machine."""
    try:
        return studio.spec(model)
    except SprocketError:
        return None


def stage(studio: Any, job: Job | None) -> tuple[str, str]:
    """The Create page's screen for `job`, and its token."""
    if job is None:
        return stage_html(None), "none"
    status = studio.status()
    clip = None
    if job.clip_id:
        try:
            clip = studio.clip(job.clip_id, owner=OWNER)
        except NotFound:
            clip = None
    ahead = _ahead(studio, job) if job.state is JobState.QUEUED else 0
    spec = spec_of(studio, job.request.get("model"))
    frames = ((job.request.get("frames") or spec.native_frames) - 1) // spec.temporal_scale + 1 if spec else 0
    html = stage_html(
        job,
        clip,
        ahead=ahead,
        blocked=status.blocked_reason,
        preview_frames=frames,
        worker_alive=status.worker_alive,
        worker_message=status.worker_message,
    )
    return html, stage_token(job, ahead, status.worker_alive)


def stage_token(job: Job, ahead: int, worker_alive: bool) -> str:
    return f"{job.id}:{job.status_seq}:{job.preview_seq}:{ahead}:{worker_alive}"


def queue(studio: Any) -> tuple[str, str]:
    """The Queue page and its token."""
    jobs, status = studio.jobs(owner=OWNER, limit=QUEUE_SHOWN), studio.status()
    return (
        queue_html(
            jobs, blocked=status.blocked_reason, worker_alive=status.worker_alive, worker_message=status.worker_message
        ),
        queue_token(jobs, status.blocked_reason, status.worker_alive),
    )


def gallery(studio: Any, at: Address) -> str:
    """The Gallery page: the grid, or the page of the clip the address names."""
    projects = studio.projects(owner=OWNER)
    if not at.clip:
        page: ClipPage = studio.clips(at.query(), owner=OWNER)
        return gallery_html(page, at, projects, [spec.name for spec in studio.models()])
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
    return clip_html(clip, parents, children, name, at)


def _ahead(studio: Any, job: Job) -> int:
    active = studio.jobs(owner=OWNER, active_only=True)
    ids = [other.id for other in active]
    return ids.index(job.id) if job.id in ids else 0
