"""The tables of the control store. A change here needs a migration, which a test compares with what stands here."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)

# The newest migration. Knowing it here lets a process that finds the schema up to date do without Alembic.
SCHEMA_REVISION = "0017"
# Of what replicas report, on SQLite, where it has a file of its own. It stays while columns are only added.
REPORTS_REVISION = "0007"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its time zone: stored as UTC, read as UTC. Refuses one without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone.")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text as every database keeps it, see `storable`. What somebody wrote, or some library said of an error, holds
    anything; a rollback must not fail for it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """The text without what PostgreSQL does not store (a NUL) and nobody does (half of a surrogate pair)."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


class Json(TypeDecorator[Any]):
    """A JSON value as text, None as NULL.

    Not the databases' own types: SQLite makes 1 of 1.0 and a float of a large integer, PostgreSQL refuses some texts,
    and an event must be read exactly as it was hashed.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else _read(value)


def _read(text: str) -> Any:
    """As `json.loads`, several times as fast: a page reads a thousand values."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:  # half of a surrogate pair, a number that is none: what only the other takes
        return json.loads(text)


# SQLite has one integer type, and only under this name can it be a table's primary key without an index beside it.
_BIG = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()


def _column(name: str, type_: Any, *constraints: Any, **options: Any) -> Column[Any]:
    """A column that may not be null, unless it says so."""
    return Column(name, type_, *constraints, **{"nullable": False, **options})


principals = Table(
    "principals",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("name", PlainText),
    _column("roles", Json),
    _column("use_cases", Json),
    _column("key_hash", PlainText, unique=True),
    _column("created_at", UtcDateTime),
    _column("expires_at", UtcDateTime, nullable=True),
    _column("revoked_at", UtcDateTime, nullable=True),
    _column("development", Boolean),
    _column("requests_per_s", Float, nullable=True),
    _column("person", PlainText, server_default=""),
)
# A name can be given again after its key was revoked, so that a key can be replaced by one of the same name.
Index(
    "principals_active_name",
    principals.c.name,
    unique=True,
    sqlite_where=text("revoked_at IS NULL"),
    postgresql_where=text("revoked_at IS NULL"),
)

events = Table(
    "events",
    metadata,
    _column("seq", _BIG, primary_key=True, autoincrement=False),
    _column("id", PlainText, unique=True),
    _column("time", UtcDateTime),
    _column("type", PlainText),
    _column("severity", PlainText),
    _column("actor", PlainText),
    _column("actor_id", PlainText, nullable=True),
    _column("roles", Json),
    _column("use_case", PlainText, nullable=True),
    _column("subject", PlainText),
    _column("reason", PlainText),
    _column("before", Json, nullable=True),
    _column("after", Json, nullable=True),
    _column("payload", Json),
    _column("previous_hash", PlainText),
    _column("hash", PlainText),
    _column("salt", Json, nullable=True),
    Index("events_use_case", "use_case", "seq"),
    Index("events_subject", "subject", "seq"),
    # Which alarms stand, and what use cases declare, is told from this index alone, among millions of events.
    Index("events_type", "type", "use_case", "subject", "seq"),
)

# One row: the end of the chain of events. Who writes holds a lock on it, so there is one writer at a time.
event_head = Table(
    "event_head",
    metadata,
    _column("id", Integer, primary_key=True, autoincrement=False),
    _column("seq", _BIG),
    _column("hash", PlainText),
)

# What was said of the chain's end outside (governance.anchors). Proves nothing by itself, as it lies beside the events.
# subtrees: of the Merkle tree up to there, so that the next anchor reads only what is new. written_at, second_at: since
# when file and second place have it.
anchors = Table(
    "anchors",
    metadata,
    _column("seq", _BIG, primary_key=True, autoincrement=False),
    _column("hash", PlainText, primary_key=True),
    _column("time", UtcDateTime),
    _column("place", PlainText),
    _column("root", PlainText, nullable=True),
    _column("subtrees", Json, nullable=True),
    _column("key", PlainText, nullable=True),
    _column("signature", PlainText, nullable=True),
    _column("time_stamp", PlainText, nullable=True),
    _column("written_at", UtcDateTime, nullable=True),
    _column("second_at", UtcDateTime, nullable=True),
)

# One row for each event and subscription that wants it, written with the event. `subject` keeps the order of delivery.
outbox = Table(
    "outbox",
    metadata,
    _column("event_seq", _BIG, ForeignKey("events.seq"), primary_key=True, autoincrement=False),
    _column("subscription", PlainText, primary_key=True),
    _column("channel", PlainText),
    _column("subject", PlainText),
    _column("attempts", Integer),
    _column("next_at", UtcDateTime),
    _column("delivered_at", UtcDateTime, nullable=True),
    _column("error", PlainText),
)
Index(
    "outbox_waiting",
    outbox.c.next_at,
    sqlite_where=text("delivered_at IS NULL"),
    postgresql_where=text("delivered_at IS NULL"),
)
# Finds what stands before an event of the same subject, which has to be delivered first.
Index(
    "outbox_order",
    outbox.c.subscription,
    outbox.c.subject,
    outbox.c.event_seq,
    sqlite_where=text("delivered_at IS NULL"),
    postgresql_where=text("delivered_at IS NULL"),
)

# Who is told of what. `secret` signs what a webhook is sent; it and the channel must be readable to be used.
subscriptions = Table(
    "subscriptions",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText, nullable=True),
    _column("types", Json),
    _column("minimum_severity", PlainText),
    _column("channel", PlainText),
    _column("secret", PlainText),
    _column("created_at", UtcDateTime),
    _column("created_by", PlainText),
    _column("ended_at", UtcDateTime, nullable=True),
    _column("paused_at", UtcDateTime, nullable=True),
)

# What only one process does at a time: who does it, and until when nobody else may.
leases = Table(
    "leases",
    metadata,
    _column("name", PlainText, primary_key=True),
    _column("holder", PlainText),
    _column("until", UtcDateTime),
)

# What a use case demands before a version of it may be live; see governance.policies.Policy. gates: by which its
# versions are judged, as text.
policies = Table(
    "policies",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("policy", Json),
    _column("since", UtcDateTime),
    _column("gates", Json, nullable=True),
)

# One row for each time somebody wanted another policy, other gates or other monitoring where that needs an approval.
# monitoring: what is wanted of it; policy and gates are then those that held when it was asked for.
policy_changes = Table(
    "policy_changes",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText),
    _column("policy", Json, nullable=True),
    _column("gates", Json, nullable=True),
    _column("state", PlainText),
    _column("requested_by", PlainText),
    _column("requested_by_id", PlainText, nullable=True),
    _column("requested_at", UtcDateTime),
    _column("expires_at", UtcDateTime),
    _column("assents", Json),
    _column("decided_by", PlainText, nullable=True),
    _column("decided_by_id", PlainText, nullable=True),
    _column("decided_at", UtcDateTime, nullable=True),
    _column("reason", PlainText),
    _column("monitoring", Json, nullable=True),
    Index("policy_changes_use_case", "use_case"),
)

# How a use case's predictions are watched, one row for each time somebody said it: the last one holds.
monitoring_definitions = Table(
    "monitoring_definitions",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("revision", Integer, primary_key=True, autoincrement=False),
    _column("definition", Json, nullable=True),
    _column("digest", PlainText),
    _column("changed_by", PlainText),
    _column("changed_by_id", PlainText, nullable=True),
    _column("changed_at", UtcDateTime),
    _column("reason", PlainText),
)

# Who may approve in whose place, and until when.
delegations = Table(
    "delegations",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText),
    _column("giver", PlainText),
    _column("giver_id", PlainText),
    _column("taker", PlainText),
    _column("taker_id", PlainText),
    _column("role", PlainText),
    _column("given_at", UtcDateTime),
    _column("until", UtcDateTime),
    _column("ended_at", UtcDateTime, nullable=True),
    _column("reason", PlainText),
    Index("delegations_taker", "use_case", "taker_id"),
)

# What was registered: the digests of a version's parts, who made it, and the gates that it did not pass.
versions = Table(
    "versions",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("version", Integer, primary_key=True, autoincrement=False),
    _column("model_digest", PlainText),
    _column("evaluation_digest", PlainText),
    _column("materials_digest", PlainText),
    _column("author", PlainText),
    _column("author_id", PlainText, nullable=True),
    _column("failed_gates", Json),
    _column("registered_at", UtcDateTime),
    _column("retired_at", UtcDateTime, nullable=True),
)

# One row for each time somebody asked for the approval of a version.
approvals = Table(
    "approvals",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText),
    _column("version", Integer),
    _column("model_digest", PlainText),
    _column("evaluation_digest", PlainText),
    _column("materials_digest", PlainText),
    _column("author", PlainText),
    _column("author_id", PlainText, nullable=True),
    _column("state", PlainText),
    _column("break_glass", Boolean),
    _column("requested_by", PlainText),
    _column("requested_by_id", PlainText, nullable=True),
    _column("requested_at", UtcDateTime),
    _column("decided_by", PlainText, nullable=True),
    _column("decided_by_id", PlainText, nullable=True),
    _column("decided_at", UtcDateTime, nullable=True),
    _column("expires_at", UtcDateTime),
    _column("reason", PlainText),
    _column("assents", Json, server_default="[]"),
    _column("reports", Json, server_default="[]"),
    Index("approvals_digest", "use_case", "model_digest"),
    # What waits is a handful among all that was ever decided.
    Index("approvals_state", "state"),
)

# What is live. stands_since: the revision since which champion, previous one and rollout are those; only the rollout's
# step has changed since.
endpoints = Table(
    "endpoints",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("revision", Integer),
    _column("stands_since", Integer, server_default="0"),
    _column("champion_version", Integer, nullable=True),
    _column("champion_digest", PlainText, nullable=True),
    _column("champion_since", UtcDateTime, nullable=True),
    _column("previous_version", Integer, nullable=True),
    _column("previous_digest", PlainText, nullable=True),
)

rollouts = Table(
    "rollouts",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText),
    _column("version", Integer),
    _column("digest", PlainText),
    _column("plan", Json),
    _column("state", PlainText),
    _column("step", Integer),
    _column("step_since", UtcDateTime),
    _column("started_at", UtcDateTime),
    _column("ended_at", UtcDateTime, nullable=True),
    _column("reason", PlainText),
    _column("actor", PlainText),
    _column("paused_at", UtcDateTime, nullable=True),
)
Index(
    "rollouts_one_running",
    rollouts.c.use_case,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)

# What a use case declares to be due by the clock. reference: of its file, as `mlops-ray` is told; feature_repo: of its
# definitions. decided_until: up to when each due run has a row below. paused_at: since when none is started.
schedules = Table(
    "schedules",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("operation", PlainText, primary_key=True),
    _column("cron", PlainText),
    _column("time_zone", PlainText),
    _column("catch_up", Boolean),
    _column("reference", PlainText),
    _column("feature_repo", PlainText),
    _column("decided_until", UtcDateTime),
    _column("paused_at", UtcDateTime, nullable=True),
)

# Each run that was due or asked for, once: what became of it.
schedule_runs = Table(
    "schedule_runs",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("operation", PlainText, primary_key=True),
    _column("due_at", UtcDateTime, primary_key=True),
    _column("cause", PlainText),
    _column("state", PlainText),
    _column("attempt", Integer),
    _column("recorded_at", UtcDateTime),
    _column("started_at", UtcDateTime, nullable=True),
    _column("ended_at", UtcDateTime, nullable=True),
    _column("detail", PlainText),
    Index("schedule_runs_open", "state"),
)

# What work used, as its processes were measured: a row for each run, part of it and month, of replicas for each hour.
# since: the beginning of that month or hour, in UTC. key: of the run of a step (pipeline.records). prices: the digest
# of the table that held then, "" for none.
usage = Table(
    "usage",
    metadata,
    _column("run", PlainText, primary_key=True),
    _column("kind", PlainText, primary_key=True),
    _column("name", PlainText, primary_key=True),
    _column("since", UtcDateTime, primary_key=True),
    _column("use_case", PlainText),
    _column("key", PlainText),
    _column("prices", PlainText),
    _column("quantities", Json),
    _column("state", PlainText),
    _column("seen_at", UtcDateTime),
    Index("usage_use_case", "use_case", "since"),
)

# Every table of prices that was ever used, so that what was recorded under it costs what it did.
price_tables = Table(
    "price_tables",
    metadata,
    _column("digest", PlainText, primary_key=True),
    _column("prices", Json),
    _column("first_at", UtcDateTime),
)

# What a use case may cost in a month ("2026-11"), or in each that has no row of its own (""). warned_for: the month in
# which it was said that the warning's share is spent.
budgets = Table(
    "budgets",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("month", PlainText, primary_key=True),
    _column("amount", Float),
    _column("currency", PlainText),
    _column("warn_at", Float),
    _column("warned_for", PlainText, server_default=""),
)

# What a step or an endpoint is given in the place of what the code says.
declared_resources = Table(
    "declared_resources",
    metadata,
    _column("use_case", PlainText, primary_key=True),
    _column("name", PlainText, primary_key=True),
    _column("resources", Json),
)

# What replicas last said of themselves; see governance.replicas. On SQLite it stands in a file of its own.
replicas = Table(
    "replicas",
    metadata,
    _column("id", PlainText, primary_key=True),
    _column("use_case", PlainText, index=True),
    _column("node", PlainText),
    _column("revision", Integer),
    _column("loaded", Json),
    _column("loading", Json, server_default="[]"),
    _column("failed", Json),
    _column("serving", Json, nullable=True),
    _column("step", PlainText, server_default=""),
    _column("counters", Json),
    _column("disk", PlainText, server_default=""),
    _column("unmoved_s", Float, nullable=True),
    _column("schema_revision", PlainText, server_default=""),
    _column("requests", Json, server_default="{}"),
    _column("seen_at", UtcDateTime),
    _column("left_at", UtcDateTime, nullable=True),
)

# What does not take the audit log's lock, because it is said every second and is no event.
REPORTS = (replicas, leases)
