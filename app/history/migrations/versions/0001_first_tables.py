"""Projects, jobs, their events, clips."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LARGE = sa.Integer().with_variant(sa.BigInteger, "postgresql")
STATES = "'queued', 'running', 'finalizing', 'done', 'failed', 'cancelling', 'cancelled', 'blocked', 'paused'"


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("owner", "name", name="uq_projects_owner_name"),
    )
    _jobs()
    _clips()
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("project_id", sa.String(32), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("request_sha", sa.Text, nullable=False),
        sa.Column("idem_key", sa.Text),
        sa.Column("rank", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("stage", sa.Text),
        sa.Column("step", sa.Integer, nullable=False, server_default="0"),
        sa.Column("steps", sa.Integer, nullable=False, server_default="0"),
        sa.Column("eta_seconds", sa.Float),
        sa.Column("progress_at", sa.Float),
        sa.Column("resumed_from", sa.Integer),
        sa.Column("status_seq", sa.Integer, nullable=False, server_default="1"),
        sa.Column("preview_seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("notes", sa.Text, nullable=False, server_default="[]"),
        sa.Column("clip_id", sa.String(32)),
        sa.Column("made_from", sa.String(32)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("cancel_requested_at", sa.Float),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", sa.Float),
        sa.Column("holder", sa.Text),
        sa.Column("reserved_by", sa.Text),
        sa.UniqueConstraint("owner", "idem_key", name="uq_jobs_owner_idem_key"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_jobs_state"),
    )
    op.create_index("ix_jobs_state_rank", "jobs", ["state", "rank"])
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"])


def _clips() -> None:
    op.create_table(
        "clips",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("project_id", sa.String(32), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("seed", LARGE, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("size_bytes", LARGE, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("fps", sa.Float, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("favourite", sa.Integer, nullable=False, server_default="0"),
        sa.Column("made_from", sa.String(32)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("trashed_at", sa.Float),
        sa.Column("missing", sa.Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint("job_id", name="uq_clips_job_id"),
        sa.UniqueConstraint("file", name="uq_clips_file"),
    )
    op.create_index("ix_clips_owner_created", "clips", ["owner", "created_at"])
    op.create_index("ix_clips_made_from", "clips", ["made_from"])
