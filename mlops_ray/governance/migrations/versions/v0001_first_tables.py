"""The first tables: principals, the chain of events with its outbox, and what is live."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def _column(name: str, type_: Any, *constraints: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, *constraints, **{"nullable": False, **options})


def upgrade() -> None:
    _principals()
    _events()
    _live()


def _principals() -> None:
    op.create_table(
        "principals",
        _column("id", sa.Text, primary_key=True),
        _column("name", sa.Text),
        _column("roles", sa.Text),
        _column("use_cases", sa.Text),
        _column("key_hash", sa.Text, unique=True),
        _column("created_at", _MOMENT),
        _column("expires_at", _MOMENT, nullable=True),
        _column("revoked_at", _MOMENT, nullable=True),
        _column("development", sa.Boolean),
        _column("requests_per_s", sa.Float, nullable=True),
    )
    _partial_index("principals_active_name", "principals", "name", "revoked_at IS NULL", unique=True)


def _events() -> None:
    op.create_table(
        "events",
        _column("seq", _BIG, primary_key=True, autoincrement=False),
        _column("id", sa.Text, unique=True),
        _column("time", _MOMENT),
        _column("type", sa.Text),
        _column("severity", sa.Text),
        _column("actor", sa.Text),
        _column("roles", sa.Text),
        _column("use_case", sa.Text, nullable=True),
        _column("subject", sa.Text),
        _column("reason", sa.Text),
        _column("before", sa.Text, nullable=True),
        _column("after", sa.Text, nullable=True),
        _column("payload", sa.Text),
        _column("previous_hash", sa.Text),
        _column("hash", sa.Text),
    )
    op.create_index("events_use_case", "events", ["use_case", "seq"])
    op.create_index("events_subject", "events", ["subject", "seq"])
    head = op.create_table(
        "event_head",
        _column("id", sa.Integer, primary_key=True, autoincrement=False),
        _column("seq", _BIG),
        _column("hash", sa.Text),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64}])
    op.create_table(
        "anchors",
        _column("seq", _BIG, primary_key=True, autoincrement=False),
        _column("hash", sa.Text, primary_key=True),
        _column("time", _MOMENT),
        _column("place", sa.Text),
    )
    op.create_table(
        "outbox",
        _column("event_seq", _BIG, sa.ForeignKey("events.seq"), primary_key=True, autoincrement=False),
        _column("subscription", sa.Text, primary_key=True),
        _column("channel", sa.Text),
        _column("subject", sa.Text),
        _column("attempts", sa.Integer),
        _column("next_at", _MOMENT),
        _column("delivered_at", _MOMENT, nullable=True),
        _column("error", sa.Text),
    )
    _partial_index("outbox_waiting", "outbox", "next_at", "delivered_at IS NULL")


def _live() -> None:
    op.create_table(
        "endpoints",
        _column("use_case", sa.Text, primary_key=True),
        _column("revision", sa.Integer),
        _column("champion_version", sa.Integer, nullable=True),
        _column("champion_digest", sa.Text, nullable=True),
        _column("champion_since", _MOMENT, nullable=True),
        _column("previous_version", sa.Integer, nullable=True),
        _column("previous_digest", sa.Text, nullable=True),
    )
    op.create_table(
        "rollouts",
        _column("id", sa.Text, primary_key=True),
        _column("use_case", sa.Text),
        _column("version", sa.Integer),
        _column("digest", sa.Text),
        _column("plan", sa.Text),
        _column("state", sa.Text),
        _column("step", sa.Integer),
        _column("step_since", _MOMENT),
        _column("started_at", _MOMENT),
        _column("ended_at", _MOMENT, nullable=True),
        _column("reason", sa.Text),
        _column("actor", sa.Text),
    )
    _partial_index("rollouts_one_running", "rollouts", "use_case", "ended_at IS NULL", unique=True)
    op.create_table(
        "replicas",
        _column("id", sa.Text, primary_key=True),
        _column("use_case", sa.Text),
        _column("node", sa.Text),
        _column("revision", sa.Integer),
        _column("loaded", sa.Text),
        _column("failed", sa.Text),
        _column("counters", sa.Text),
        _column("seen_at", _MOMENT),
    )
    op.create_index("ix_replicas_use_case", "replicas", ["use_case"])


def _partial_index(name: str, table: str, column: str, where: str, unique: bool = False) -> None:
    op.create_index(name, table, [column], unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
