"""How often memory ran out in a job and with which way, and the way of its latest attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lapses", sa.Text, nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("way", sa.Text))
