"""Since when a rollout is paused, if it is; and which approvals wait is told from an index."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("approvals_state", "approvals", ["state"])
