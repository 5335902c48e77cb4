"""Changes of monitoring wait for somebody else's approval, and replicas say how requests went."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    # Empty in what was asked for before, and in what the release before goes on to write: changes of the rules.
    op.add_column("policy_changes", sa.Column("monitoring", sa.Text, nullable=True))
    # With a default, so that replicas of the version before go on to report while they are replaced.
    op.add_column("replicas", sa.Column("requests", sa.Text, nullable=False, server_default="{}"))
