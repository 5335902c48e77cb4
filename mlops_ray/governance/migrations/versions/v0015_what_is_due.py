"""What is due by the clock, and what became of each run."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "schedules",
        sa.Column("use_case", sa.Text, primary_key=True),
        sa.Column("operation", sa.Text, primary_key=True),
        sa.Column("cron", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("catch_up", sa.Boolean, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("feature_repo", sa.Text, nullable=False),
        sa.Column("decided_until", moment, nullable=False),
        sa.Column("paused_at", moment, nullable=True),
    )
    op.create_table(
        "schedule_runs",
        sa.Column("use_case", sa.Text, primary_key=True),
        sa.Column("operation", sa.Text, primary_key=True),
        sa.Column("due_at", moment, primary_key=True),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("recorded_at", moment, nullable=False),
        sa.Column("started_at", moment, nullable=True),
        sa.Column("ended_at", moment, nullable=True),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("schedule_runs_open", "schedule_runs", ["state"])
