"""Since which revision the parts of an endpoint stand; what a replica loads and serves, and when it left."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("stands_since", sa.Integer, nullable=False, server_default="0"))
    # Nobody knows when the parts of an older endpoint changed last: what was looked at before counts as past.
    op.execute("UPDATE endpoints SET stands_since = revision")
    # With defaults, so that replicas of the version before go on to report while they are replaced.
    for name, default in (("loading", "[]"), ("step", "")):
        op.add_column("replicas", sa.Column(name, sa.Text, nullable=False, server_default=default))
    op.add_column("replicas", sa.Column("serving", sa.Text, nullable=True))
    op.add_column("replicas", sa.Column("left_at", sa.DateTime(timezone=True), nullable=True))
