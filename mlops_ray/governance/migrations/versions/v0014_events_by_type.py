"""Events are found by their type: pages and the inventory ask for few types among millions of events."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_index("events_type", "events", ["type", "use_case", "subject", "seq"])
