"""On which disk a replica keeps answers until they lie on shared storage, and how old the oldest of them is."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # With a default, so that replicas of the version before go on to report while they are replaced.
    op.add_column("replicas", sa.Column("disk", sa.Text, nullable=False, server_default=""))
    op.add_column("replicas", sa.Column("unmoved_s", sa.Float, nullable=True))
