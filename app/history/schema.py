"""The tables, as they stand after the newest migration. `HEAD` is that migration's id.

Times are UTC seconds; JSON columns hold text. Migrations spell their own tables out and never import this file.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from app.history.records import JobState

HEAD = "0005"

metadata = MetaData()
_LARGE = Integer().with_variant(BigInteger, "postgresql")
"""Up to 2^63 - 1, as every integer of SQLite."""
_STATES = ", ".join(f"'{state.value}'" for state in JobState)

projects = Table(
    "projects", metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("owner", "name", name="uq_projects_owner_name"),
)

jobs = Table(
    "jobs", metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("project_id", String(32), ForeignKey("projects.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("request_sha", Text, nullable=False),
    Column("idem_key", Text),
    Column("rank", Float, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("kills", Integer, nullable=False, server_default="0"),
    Column("death_mark", Integer),
    Column("lapses", Text, nullable=False, server_default="[]"),
    Column("way", Text),
    Column("stage", Text),
    Column("step", Integer, nullable=False, server_default="0"),
    Column("steps", Integer, nullable=False, server_default="0"),
    Column("eta_seconds", Float),
    Column("progress_at", Float),
    Column("resumed_from", Integer),
    Column("status_seq", Integer, nullable=False, server_default="1"),
    Column("preview_seq", Integer, nullable=False, server_default="0"),
    Column("error_code", Text),
    Column("error", Text),
    Column("notes", Text, nullable=False, server_default="[]"),
    Column("clip_id", String(32)),
    Column("made_from", String(32)),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("cancel_requested_at", Float),
    Column("lease_token", Text),
    Column("lease_until", Float),
    Column("holder", Text),
    Column("reserved_by", Text),
    Column("batch_id", String(32)),
    UniqueConstraint("owner", "idem_key", name="uq_jobs_owner_idem_key"),
    CheckConstraint(f"state IN ({_STATES})", name="ck_jobs_state"),
    Index("ix_jobs_state_rank", "state", "rank"),
    Index("ix_jobs_batch_id", "batch_id"),
)

job_events = Table(
    "job_events", metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    Index("ix_job_events_job_id", "job_id"),
)

clips = Table(
    "clips", metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("project_id", String(32), ForeignKey("projects.id"), nullable=False),
    Column("job_id", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("search", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("seed", _LARGE, nullable=False),
    Column("file", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", _LARGE, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("frames", Integer, nullable=False),
    Column("fps", Float, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("favourite", Integer, nullable=False, server_default="0"),
    Column("made_from", String(32)),
    Column("created_at", Float, nullable=False),
    Column("trashed_at", Float),
    Column("missing", Integer, nullable=False, server_default="0"),
    Column("sidecar_stale", Integer, nullable=False, server_default="0"),
    Column("published_at", Float),
    Column("public_search", Text),
    UniqueConstraint("job_id", name="uq_clips_job_id"),
    UniqueConstraint("file", name="uq_clips_file"),
    Index("ix_clips_owner_created", "owner", "created_at"),
    Index("ix_clips_made_from", "made_from"),
    Index("ix_clips_model_created", "model", "created_at"),
    Index("ix_clips_project_id", "project_id"),
    Index("ix_clips_published_at", "published_at"),
)

meta = Table(
    "meta", metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", Float, nullable=False),
)
