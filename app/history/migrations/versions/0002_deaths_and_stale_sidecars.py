"""How often a job's worker died at the same place; which sidecars no longer say what the row says; faster forecasts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("crashes", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("kills", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("death_mark", sa.Integer))
    op.add_column("clips", sa.Column("sidecar_stale", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_clips_model_created", "clips", ["model", "created_at"])
    op.create_index("ix_clips_project_id", "clips", ["project_id"])
