"""Which software a replica runs, by the schema that it was made for."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # With a default, so that replicas of the version before go on to report while they are replaced.
    op.add_column("replicas", sa.Column("schema_revision", sa.Text, nullable=False, server_default=""))
