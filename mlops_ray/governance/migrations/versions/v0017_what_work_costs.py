"""What work used and costs, what it may cost, and what it is given."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "usage",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("since", moment, primary_key=True),
        sa.Column("use_case", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("prices", sa.Text, nullable=False),
        sa.Column("quantities", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("seen_at", moment, nullable=False),
    )
    op.create_index("usage_use_case", "usage", ["use_case", "since"])
    op.create_table(
        "price_tables",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("prices", sa.Text, nullable=False),
        sa.Column("first_at", moment, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("use_case", sa.Text, primary_key=True),
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("amount", sa.Float, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("warn_at", sa.Float, nullable=False),
        sa.Column("warned_for", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "declared_resources",
        sa.Column("use_case", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("resources", sa.Text, nullable=False),
    )
