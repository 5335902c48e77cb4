"""Which person acted, beside the name they had then; nothing for what was written before."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_COLUMNS = {
    "events": ("actor_id",),
    "versions": ("author_id",),
    "approvals": ("author_id", "requested_by_id", "decided_by_id"),
}


def upgrade() -> None:
    for table, names in _COLUMNS.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text, nullable=True))
