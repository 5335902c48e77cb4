"""Who agreed: several approvers of one version, delegations, reports, and changes of rules that wait for somebody."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for name in ("assents", "reports"):
        op.add_column("approvals", sa.Column(name, sa.Text, nullable=False, server_default="[]"))
    op.add_column("policies", sa.Column("gates", sa.Text))
    _fill_gates(op.get_bind())
    op.create_table(
        "policy_changes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("use_case", sa.Text, nullable=False),
        sa.Column("policy", sa.Text),
        sa.Column("gates", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("requested_by_id", sa.Text),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("assents", sa.Text, nullable=False),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_by_id", sa.Text),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("policy_changes_use_case", "policy_changes", ["use_case"])
    op.create_table(
        "delegations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("use_case", sa.Text, nullable=False),
        sa.Column("giver", sa.Text, nullable=False),
        sa.Column("giver_id", sa.Text, nullable=False),
        sa.Column("taker", sa.Text, nullable=False),
        sa.Column("taker_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("delegations_taker", "delegations", ["use_case", "taker_id"])


def _fill_gates(connection: sa.Connection) -> None:
    """The gates that hold are those by which the newest version was judged; without that the first change is free."""
    policies = sa.table("policies", sa.column("use_case"), sa.column("gates"))
    events = sa.table("events", sa.column("seq"), sa.column("type"), sa.column("use_case"), sa.column("payload"))
    for use_case in connection.execute(sa.select(policies.c.use_case)).scalars().all():
        of_it = events.c.use_case == use_case, events.c.type == "version.registered"
        query = sa.select(events.c.payload).where(*of_it).order_by(events.c.seq.desc()).limit(1)
        gates = json.loads(connection.execute(query).scalar() or "{}").get("gates")
        if gates is not None:
            here = policies.c.use_case == use_case
            connection.execute(policies.update().where(here).values(gates=json.dumps(gates)))
