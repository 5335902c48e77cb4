"""Anchors that are signed and lie at a second place, and a salt for the texts of an event; none for what stands."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_TEXTS = ("root", "subtrees", "key", "signature", "time_stamp")


def upgrade() -> None:
    op.add_column("events", sa.Column("salt", sa.Text, nullable=True))
    for name in _TEXTS:
        op.add_column("anchors", sa.Column(name, sa.Text, nullable=True))
    for name in ("written_at", "second_at"):
        op.add_column("anchors", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.execute(sa.text("UPDATE anchors SET written_at = time"))
