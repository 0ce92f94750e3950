"""How often a job's worker died at the same place, and which sidecars no longer say what the row says."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("crashes", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("kills", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("death_mark", sa.Integer))
    op.add_column("clips", sa.Column("sidecar_stale", sa.Integer, nullable=False, server_default="0"))
