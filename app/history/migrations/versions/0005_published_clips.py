"""Which clips their owners have published, and what the public gallery's search looks through."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("clips", sa.Column("published_at", sa.Float))
    op.add_column("clips", sa.Column("public_search", sa.Text))
    op.create_index("ix_clips_published_at", "clips", ["published_at"])
