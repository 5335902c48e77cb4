"""Whose a key is: keys of one name were one person's, each of another name somebody's of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("principals", sa.Column("person", sa.Text, nullable=False, server_default=""))
    keys = sa.table("principals", sa.column("id"), sa.column("name"), sa.column("person"), sa.column("development"))
    first = keys.alias("first")
    of_name = sa.select(sa.func.min(first.c.id)).where(first.c.name == keys.c.name).scalar_subquery()
    op.execute(keys.update().values(person=sa.case((keys.c.development, keys.c.name), else_=of_name)))
