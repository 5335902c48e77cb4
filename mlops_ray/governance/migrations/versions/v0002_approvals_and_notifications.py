"""Versions, policies and approvals; subscriptions, and the lease of the one who delivers."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)


def _column(name: str, type_: Any, *constraints: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, *constraints, **{"nullable": False, **options})


def upgrade() -> None:
    _notifications()
    _versions()
    _approvals()


def _notifications() -> None:
    waiting = sa.text("delivered_at IS NULL")
    columns = ["subscription", "subject", "event_seq"]
    op.create_index("outbox_order", "outbox", columns, sqlite_where=waiting, postgresql_where=waiting)
    op.create_table(
        "subscriptions",
        _column("id", sa.Text, primary_key=True),
        _column("use_case", sa.Text, nullable=True),
        _column("types", sa.Text),
        _column("minimum_severity", sa.Text),
        _column("channel", sa.Text),
        _column("secret", sa.Text),
        _column("created_at", _MOMENT),
        _column("created_by", sa.Text),
        _column("ended_at", _MOMENT, nullable=True),
    )
    op.create_table(
        "leases",
        _column("name", sa.Text, primary_key=True),
        _column("holder", sa.Text),
        _column("until", _MOMENT),
    )


def _versions() -> None:
    op.create_table(
        "policies",
        _column("use_case", sa.Text, primary_key=True),
        _column("policy", sa.Text),
        _column("since", _MOMENT),
    )
    op.create_table(
        "versions",
        _column("use_case", sa.Text, primary_key=True),
        _column("version", sa.Integer, primary_key=True, autoincrement=False),
        _column("model_digest", sa.Text),
        _column("evaluation_digest", sa.Text),
        _column("materials_digest", sa.Text),
        _column("author", sa.Text),
        _column("failed_gates", sa.Text),
        _column("registered_at", _MOMENT),
    )


def _approvals() -> None:
    op.create_table(
        "approvals",
        _column("id", sa.Text, primary_key=True),
        _column("use_case", sa.Text),
        _column("version", sa.Integer),
        _column("model_digest", sa.Text),
        _column("evaluation_digest", sa.Text),
        _column("materials_digest", sa.Text),
        _column("author", sa.Text),
        _column("state", sa.Text),
        _column("break_glass", sa.Boolean),
        _column("requested_by", sa.Text),
        _column("requested_at", _MOMENT),
        _column("decided_by", sa.Text, nullable=True),
        _column("decided_at", _MOMENT, nullable=True),
        _column("expires_at", _MOMENT),
        _column("reason", sa.Text),
    )
    op.create_index("approvals_digest", "approvals", ["use_case", "model_digest"])
