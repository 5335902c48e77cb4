"""Events: what happened to keys, versions and endpoints, as one chain in which each names the hash of the last."""

import hashlib
import json
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import uuid6
from sqlalchemy import Connection, Select, insert, select, update

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.tables import event_head, events, outbox, storable, subscriptions

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

GENESIS = "0" * 64
TEXTS = ("actor", "actor_id", "subject", "reason", "before", "after", "payload")
"""The fields whose texts the hash covers by a digest: those that may tell of people."""
DIGEST = "sha256:"


@dataclass(frozen=True)
class Actor:
    """Who acts. id: of the person or service, the same whatever credential it uses; "" for the system.

    os_user: the account on the machine, where a command was not authenticated otherwise.
    """

    name: str
    roles: tuple[str, ...]
    os_user: str = ""
    id: str = ""


SYSTEM = Actor("system", ("system",))


@dataclass(frozen=True)
class EventType:
    """What an event of this type says, and how loud it is unless `record` is told otherwise."""

    description: str
    severity: Severity = "info"


EVENT_TYPES: Mapping[str, EventType] = {
    "version.registered": EventType("A version was sealed and registered, with its lineage."),
    "version.measured": EventType("A version's gates were judged again; the results before stay on record.", "warning"),
    "version.retired": EventType("A version was taken out of use and cannot be served again."),
    "version.load_failed": EventType(
        "A replica set a version aside: wrong digest or golden rows, or no approval.", "critical"
    ),
    "gate.passed": EventType("A version passed a gate of its use case."),
    "gate.failed": EventType("A version failed a gate of its use case.", "warning"),
    "approval.requested": EventType("Somebody asked for the approval of a version."),
    "approval.agreed": EventType("One of the persons whose approval a version needs has approved it."),
    "approval.reported": EventType("A report was attached to the request for a version's approval."),
    "approval.approved": EventType("An authorised person approved a version's digest."),
    "approval.rejected": EventType("An authorised person rejected a version.", "warning"),
    "approval.revoked": EventType("An approval was taken back.", "warning"),
    "approval.expired": EventType("An approval or a request for one reached its end.", "warning"),
    "delegation.given": EventType("Somebody may approve versions in another's place, until a moment.", "warning"),
    "delegation.ended": EventType("The right to approve in another's place was taken back."),
    "break_glass": EventType("A version was promoted without approval, for the reason given.", "critical"),
    "rollout.started": EventType("A version began to take shadow or canary traffic."),
    "rollout.step": EventType("A rollout moved to its next step."),
    "rollout.paused": EventType("Somebody lets a rollout go no step on by itself."),
    "rollout.resumed": EventType("Somebody lets a rollout go on by itself again."),
    "rollout.promoted": EventType("A rollout ended with its version as champion."),
    "rollout.rolled_back": EventType("Traffic went back to the champion before, or a rollout was undone.", "warning"),
    "rollout.failed": EventType("A rollout ended because its version could not be served.", "critical"),
    "champion.set": EventType("An endpoint's champion changed."),
    "key.created": EventType("A key was made for a principal."),
    "key.revoked": EventType("A key was revoked.", "warning"),
    "development.ended": EventType("The first key was made for somebody: nobody is a development principal again."),
    "policy.changed": EventType("A rule of a use case or of the platform changed.", "warning"),
    "use_case.declared": EventType("A use case says another owner, purpose, tier or time between reviews of itself."),
    "use_case.reviewed": EventType("An authorised person looked at a use case."),
    "review.overdue": EventType("A use case was not looked at in the time that it declares.", "warning"),
    "policy.requested": EventType("Somebody wants other rules, gates or monitoring, which others must approve."),
    "policy.approved": EventType("Somebody approved a change of rules, gates or monitoring.", "warning"),
    "policy.rejected": EventType("A change of rules, gates or monitoring was refused, taken back or replaced."),
    "monitoring.changed": EventType("Somebody said how predictions of a use case are watched from now on.", "warning"),
    "alarm.raised": EventType("A monitored value crossed its threshold.", "warning"),
    "alarm.worsened": EventType("What an alarm is about matters more than it did, or has spread.", "warning"),
    "alarm.resolved": EventType("A monitored value is within its threshold again."),
    "alarm.silenced": EventType("Somebody silenced an alarm for a time.", "warning"),
    "monitoring.stopped": EventType("An endpoint is not watched any more until a person acts.", "critical"),
    "retraining.decided": EventType("The governor decided whether to train again."),
    "retraining.finished": EventType("A retraining ended: its challenger is better, or not, or there is none."),
    "feature.stale": EventType("The newest value of a feature view is older than its definition wants.", "warning"),
    "feature.fresh": EventType("A feature view that was stale has a fresh value again."),
    "parity.failed": EventType("Features that were served are not what their history says they were.", "warning"),
    "vulnerability.found": EventType("A live version is affected by an advisory published since.", "critical"),
    "ledger.missing": EventType("A disk fell silent with answers that had not reached shared storage.", "critical"),
    "ledger.erased": EventType("Predictions and labels of a person were erased from the ledger.", "warning"),
    "data.read": EventType("Somebody took a table of a snapshot, rows and all, over HTTP."),
    "data.retired": EventType("A snapshot's rows were deleted, and what was made from it alone.", "warning"),
    "data.erased": EventType("Rows of a person were erased from snapshots and all that was made from them.", "warning"),
    "subscription.ended": EventType("A subscriber answered that it is gone (410) and is told nothing more.", "warning"),
    "notification.set_aside": EventType("An event that cannot be read was not sent to a subscription.", "critical"),
    "schedule.changed": EventType("What is due by the clock was declared anew, paused, resumed or made up for."),
    "schedule.failed": EventType("A run that was due by the clock failed, or died several times.", "warning"),
    "budget.changed": EventType("What a use case may cost in a month was set, raised, lowered or taken away."),
    "budget.warned": EventType("A use case has spent the share of its month's budget that it warns of.", "warning"),
    "run.stalled": EventType("A run made no progress within its limit and was stopped; the same goes on.", "critical"),
    "budget.exceeded": EventType("A run was stopped because the month's budget of its use case is spent.", "critical"),
    "resources.changed": EventType("What a step or an endpoint is given of CPUs, memory or replicas was changed."),
    "backup.created": EventType("All state was copied, as it was at one moment, to the place that is named."),
    "backup.restored": EventType(
        "This is a backup, put into an empty place; what came after its point is not in it.", "warning"
    ),
    "backup.pruned": EventType("Old backups were deleted, as the rule for them says."),
    "schema.upgraded": EventType("The control store was brought to the schema of a newer release."),
    "audit.failed": EventType("Events, anchors or the tables they describe are not what they were.", "critical"),
    "audit.anchored": EventType("The end of the chain of events is written down outside the database."),
    "audit.delayed": EventType("The second place does not take anchors, or no time stamp is given.", "warning"),
    "audit.erased": EventType("Texts that told of a person were taken out of the events and tables.", "warning"),
}


@dataclass(frozen=True)
class Event:
    """One record. `before` and `after`: the state of the subject; `hash` covers all other fields (`hash_of_fields`).

    actor_id: which person or service acted; None for the system, and in what was written before ids were. salt: what
    the digests of its texts are made with (`covered`); None in what was written before texts could be erased.
    """

    seq: int
    id: str
    time: datetime
    type: str
    severity: Severity
    actor: str
    actor_id: str | None
    roles: tuple[str, ...]
    use_case: str | None
    subject: str
    reason: str
    before: Any
    after: Any
    payload: Mapping[str, Any]
    previous_hash: str
    hash: str
    salt: Any = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, the time in RFC 3339; without the salt, which no subscriber needs to keep."""
        shown = self.to_record()
        del shown["salt"]
        return shown

    def to_record(self) -> dict[str, Any]:
        """As `to_json`, with the salt: all that its hash can be computed from."""
        return asdict(self) | {"roles": list(self.roles), "time": _moment(self.time)}


def record(
    connection: Connection,
    type: str,
    actor: Actor,
    subject: str,
    use_case: str | None = None,
    before: Any = None,
    after: Any = None,
    payload: Mapping[str, Any] | None = None,
    reason: str = "",
    now: datetime | None = None,
    severity: Severity | None = None,
) -> Event:
    """Append an event to the chain, and to the outbox for each subscription that wants it.

    It happens inside the caller's `ControlStore.transaction()`, so the change, its record and its notification are
    written together or not at all.
    subject: what it is about, such as "flights@7" or "key ci". before, after, payload: JSON values; moments become
    text, and a number that is not finite its name. now: by the database's clock, None for what it shows: the dispatcher
    tells what is due by that one. Raises ValueError for a type that EVENT_TYPES does not list.
    """
    if type not in EVENT_TYPES:
        raise ValueError(f"Event type {type!r} is unknown. Known: {', '.join(EVENT_TYPES)}.")
    head = connection.execute(select(event_head.c.seq, event_head.c.hash).with_for_update()).one()
    details = dict(payload or {}) | ({"os_user": actor.os_user} if actor.os_user else {})
    fields: dict[str, Any] = {
        "seq": head.seq + 1,
        "id": str(uuid6.uuid7()),
        "time": (now or database_now(connection)).astimezone(UTC),
        "type": type,
        "severity": severity or EVENT_TYPES[type].severity,
        "actor": plain(actor.name),
        "actor_id": plain(actor.id or None),
        "roles": list(actor.roles),
        "use_case": plain(use_case),
        "subject": plain(subject),
        "reason": plain(reason),
        "before": plain(before),
        "after": plain(after),
        "payload": plain(details),
        "previous_hash": head.hash,
        "salt": secrets.token_hex(16),
    }
    fields["hash"] = hash_of_fields(fields)
    connection.execute(insert(events), fields)
    connection.execute(update(event_head), {"seq": fields["seq"], "hash": fields["hash"]})
    made = Event(**fields | {"roles": actor.roles})
    _announce(connection, made)
    return made


def _announce(connection: Connection, event: Event) -> None:
    rows = [
        {
            "event_seq": event.seq, "subscription": row.id, "channel": row.channel.partition(":")[0],
            "subject": event.subject, "attempts": 0, "next_at": event.time, "error": "",
        }
        for row in connection.execute(select(subscriptions).where(subscriptions.c.ended_at.is_(None)))
        if row.use_case in (None, event.use_case)
        and (not row.types or event.type in row.types)
        and SEVERITIES.index(event.severity) >= SEVERITIES.index(row.minimum_severity)
    ]  # fmt: skip
    if rows:
        connection.execute(insert(outbox), rows)


def read_events(
    store: ControlStore,
    after_seq: int = 0,
    use_case: str | None = None,
    types: Iterable[str] | None = None,
    subject: str | None = None,
    limit: int = 1000,
) -> list[Event]:
    """At most `limit` events behind number `after_seq`, in their order, of all use cases, types, subjects or some.

    Numbers are given in the order of commits, without gaps: who reads on behind the last one misses none.
    """
    query = select(events).where(events.c.seq > after_seq).order_by(events.c.seq).limit(limit)
    with store.reading() as connection:
        return list(read(connection, _of_these(query, use_case, types, subject)))


def newest_events(
    store: ControlStore,
    before_seq: int | None = None,
    use_case: str | None = None,
    types: Iterable[str] | None = None,
    subject: str | None = None,
    limit: int = 100,
) -> list[Event]:
    """As `read_events`, backwards: those before number `before_seq`, None for all, the newest first."""
    query = select(events).order_by(events.c.seq.desc()).limit(limit)
    if before_seq is not None:
        query = query.where(events.c.seq < before_seq)
    with store.reading() as connection:
        return list(read(connection, _of_these(query, use_case, types, subject)))


def _of_these(
    query: Select[Any], use_case: str | None, types: Iterable[str] | None, subject: str | None
) -> Select[Any]:
    if use_case is not None:
        query = query.where(events.c.use_case == plain(use_case))
    if types is not None:
        query = query.where(events.c.type.in_(list(types)))
    if subject is not None:
        query = query.where(events.c.subject == plain(subject))
    return query


def read(connection: Connection, query: Select[Any]) -> Iterator[Event]:
    """The events that a query of the table `events` finds. Raises IntegrityError where a column was made unreadable."""
    last = 0
    try:
        found = connection.execute(query)
        names = tuple(found.keys())
        for row in found:
            fields = dict(zip(names, row, strict=True))
            yield Event(**fields | {"roles": tuple(fields["roles"])})
            last = fields["seq"]
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"What stands behind event {last} in the audit log cannot be read: {error}.") from error


def hash_of_fields(fields: Mapping[str, Any]) -> str:
    """SHA-256 over the fields of an event, but for its hash, as JSON with sorted keys and without spaces.

    Two formats. Since there are salts, what is hashed of the fields in TEXTS is not their texts but digests of these,
    so that a text can be erased and the hash still holds; and `format` is 2. Before, it was the texts themselves.
    """
    covers = {name: value for name, value in fields.items() if name not in ("hash", "salt")}
    covers["time"] = _moment(fields["time"])
    salt = fields.get("salt")
    if salt is not None:
        covers |= {name: covered(fields[name], below(salt, name)) for name in TEXTS} | {"format": 2}
    elif covers["actor_id"] is None:  # as the events before there were ids were hashed
        del covers["actor_id"]
    text = json.dumps(covers, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def covered(value: Any, salt: Any) -> Any:
    """What is hashed of a value: the same with a digest, made with the salt, in the place of each text.

    salt: a text, from which that of each part follows (`below`), so that one is stored for a whole event; where a text
    below was erased, the salts of the parts one by one, and of the erased text its digest alone.
    """
    if isinstance(salt, str) and salt.startswith(DIGEST):
        return salt
    if isinstance(value, str):
        return DIGEST + hashlib.sha256((salt + value).encode()).hexdigest()
    if isinstance(value, Mapping):
        return {name: covered(part, below(salt, name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [covered(part, below(salt, str(place))) for place, part in enumerate(value)]
    return value


def below(salt: Any, name: str) -> Any:
    """The salt of a part. Who has it learns nothing of the one above, nor of those beside it."""
    if isinstance(salt, str):
        return hashlib.sha256(f"{salt}/{name}".encode()).hexdigest()
    return salt[name]


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def plain(value: Any) -> Any:
    """JSON values that every database keeps as they are: an event must not fail for a NaN in its numbers."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return plain(str(value))
