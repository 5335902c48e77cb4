"""Alarms in the audit log: raised once, resolved once, silenced for a time with a reason.

An alarm is a subject of its own, `alarm <id>`, so its events name it, whoever reads them. Its id is made by who raises
it and kept until the event is written: told again after a crash, it is known and nothing is written twice.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, select

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, Event, Severity, plain, read, record
from mlops_ray.governance.tables import event_head, events

RAISED, WORSENED, RESOLVED, SILENCED = "alarm.raised", "alarm.worsened", "alarm.resolved", "alarm.silenced"
_TYPES = (RAISED, WORSENED, RESOLVED, SILENCED)
_PREFIX = "alarm "
_ERASED = "audit.erased"
_AT_A_TIME, _FEW_EVENTS = 500, 20_000
_END = events.alias()


@dataclass(frozen=True)
class AlarmRecord:
    """An alarm as the audit log has it. since: the beginning of what it is about; raised_at: of the event.

    payload: what monitoring found, with `question`, `version` and `columns` among it, and in `resolved` by when its
    predictions were calm again, which of recorded requests is long before it was noticed. silenced_until: None for
    never; one that lies in the past is over.
    """

    id: str
    use_case: str
    version: int
    question: str
    title: str
    severity: Severity
    since: datetime
    raised_at: datetime
    resolved_at: datetime | None = None
    silenced_until: datetime | None = None
    silenced_because: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)

    def is_open(self, now: datetime) -> bool:
        """Neither resolved nor silenced."""
        return self.resolved_at is None and (self.silenced_until is None or self.silenced_until <= now)


def raise_alarm(
    store: ControlStore,
    use_case: str,
    version: int,
    alarm_id: str,
    title: str,
    severity: Severity,
    since: datetime,
    payload: Mapping[str, Any],
) -> bool:
    """Record that an alarm was raised, unless that is known; `payload` names its `question`. Whether it was new."""
    details = {**payload, "alarm": alarm_id, "version": version, "since": since.isoformat()}
    return _record_once(store, RAISED, use_case, alarm_id, title, details, severity)


def worsen_alarm(
    store: ControlStore,
    use_case: str,
    version: int,
    alarm_id: str,
    title: str,
    severity: Severity,
    payload: Mapping[str, Any],
) -> bool:
    """Record that an alarm matters more than was said, or has spread. Whether it was new: told by its `change`.

    Commits of earlier releases have none; there it is told by its window.
    """
    details = {**payload, "alarm": alarm_id, "version": version}
    subject, change = f"{_PREFIX}{alarm_id}", plain(_change(payload))
    with store.transaction() as connection:
        told = read(connection, select(events).where(events.c.subject == subject, events.c.type == WORSENED))
        if any(_change(event.payload) == change for event in told):
            return False
        record(
            connection, WORSENED, SYSTEM, subject, use_case=use_case, payload=details, reason=title, severity=severity
        )
    return True


def _change(payload: Mapping[str, Any]) -> Any:
    return payload.get("change", payload["window"])


def resolve_alarm(store: ControlStore, use_case: str, alarm_id: str, reason: str, payload: Mapping[str, Any]) -> bool:
    """Record that an alarm is over, unless that is known. Whether it was new."""
    return _record_once(store, RESOLVED, use_case, alarm_id, reason, {**payload, "alarm": alarm_id}, "info")


def silence_alarm(
    store: ControlStore, actor: Actor, use_case: str, alarm_id: str, reason: str, until: datetime, now: datetime
) -> AlarmRecord:
    """Nobody acts on the alarm until then; it stays in the log, and speaks again if it is not resolved by that time.

    alarm_id: of one that is not resolved, or its beginning. Raises ConfigurationError if there is none or several, for
    an end that is past, and without a reason.
    """
    if not reason.strip():
        raise ConfigurationError("Say why the alarm is silenced: the reason goes into the audit log.")
    if until <= now:
        raise ConfigurationError(f"The silence would end at {until.isoformat()}, which is past. Give a later end.")
    with store.transaction() as connection:
        known = [one for one in _alarms(connection, use_case) if one.resolved_at is None]
        found = [one for one in known if one.id.startswith(alarm_id)]
        if len(found) != 1:
            there = ", ".join(one.id for one in known) or "none"
            raise ConfigurationError(f"{len(found)} open alarms of {use_case} begin with {alarm_id!r}. Open: {there}.")
        payload = {"alarm": found[0].id, "version": found[0].version, "until": until.isoformat()}
        subject = f"{_PREFIX}{found[0].id}"
        record(connection, SILENCED, actor, subject, use_case=use_case, payload=payload, reason=reason, now=now)
    return replace(found[0], silenced_until=until, silenced_because=reason)


def alarms_of(store: ControlStore, use_case: str) -> list[AlarmRecord]:
    """All alarms of a use case, resolved ones too, in the order in which they were raised."""
    with store.reading() as connection:
        return _alarms(connection, use_case)


def standing_alarms(connection: Connection, use_cases: Collection[str]) -> list[AlarmRecord]:
    """All alarms of some use cases that are not resolved, silenced ones too, in the order in which they were raised.
    Of those that are resolved nothing is read but that."""
    return _about(connection, _standing(connection, use_cases))


class StandingAlarms:
    """The alarms that stand, for who looks often: of millions of events those written since the last look are read.

    That they are of the same history is told by the hash of the event up to which was read, so that a database brought
    back from a backup is read anew; and so is one from which texts were erased.
    """

    def __init__(self) -> None:
        self._read: _Read = 0, "", {}

    def now(self, connection: Connection, use_cases: Collection[str]) -> list[AlarmRecord]:
        """As `standing_alarms`."""
        seq, hash, told = self._read
        head = connection.execute(select(event_head.c.seq, event_head.c.hash)).one()
        if (seq, hash) != (head.seq, head.hash):
            same = (
                0 < seq <= head.seq <= seq + _FEW_EVENTS
                and hash == connection.execute(select(events.c.hash).where(events.c.seq == seq)).scalar()
            )
            found = _since(connection, told, seq, head.seq) if same else None
            told = _told_of(connection, head.seq) if found is None else found
            self._read = head.seq, head.hash, told
        wanted = set(use_cases)
        every = (event for one in told.values() for event in one if event.use_case in wanted)
        return _folded(sorted(every, key=lambda event: event.seq))


_Told = Mapping[str, tuple[Event, ...]]  # of each alarm that stands all its events, by subject
_Read = tuple[int, str, _Told]


def _told_of(connection: Connection, up_to: int) -> _Told:
    found: dict[str, tuple[Event, ...]] = {}
    names = connection.execute(select(events.c.use_case).where(events.c.type == RAISED).distinct()).scalars().all()
    for event in _events_about(connection, _standing(connection, [name for name in names if name])):
        if event.seq <= up_to:
            found[event.subject] = (*found.get(event.subject, ()), event)
    return found


def _since(connection: Connection, told: _Told, seq: int, up_to: int) -> _Told | None:
    """With what was written behind `seq`; None where that changed what was written before."""
    found = dict(told)
    of_these = events.c.seq > seq, events.c.seq <= up_to, events.c.type.in_((*_TYPES, _ERASED))
    for event in read(connection, select(events).where(*of_these).order_by(events.c.seq)):
        if event.type == _ERASED:
            return None
        if event.type == RESOLVED:
            found.pop(event.subject, None)
        elif event.type == RAISED or event.subject in found:
            found[event.subject] = (*found.get(event.subject, ()), event)
    return found


def recent_alarms(store: ControlStore, use_case: str, limit: int) -> list[AlarmRecord]:
    """Those that are not resolved, and the `limit` that were raised last, in the order in which they were raised."""
    of_it = events.c.use_case == use_case, events.c.type == RAISED
    newest = select(events.c.subject).where(*of_it).order_by(events.c.seq.desc()).limit(limit)
    with store.reading() as connection:
        last = connection.execute(newest).scalars().all()
        return _about(connection, {*_standing(connection, [use_case]), *last})


def _standing(connection: Connection, use_cases: Collection[str]) -> list[str]:
    """The subjects of alarms that were raised and not resolved; the index `events_type` alone tells."""
    same = (_END.c.use_case == events.c.use_case) & (_END.c.subject == events.c.subject)
    raised = (events.c.type == RAISED) & events.c.use_case.in_(use_cases)
    query = select(events.c.subject).where(raised, ~exists().where(_END.c.type == RESOLVED, same))
    return list(connection.execute(query).scalars())


def _about(connection: Connection, subjects: Collection[str]) -> list[AlarmRecord]:
    return _folded(_events_about(connection, subjects))


def _events_about(connection: Connection, subjects: Collection[str]) -> list[Event]:
    """In their order."""
    found: list[Event] = []
    ordered = sorted(subjects)
    for start in range(0, len(ordered), _AT_A_TIME):
        some = ordered[start : start + _AT_A_TIME]
        # By subject alone: with types SQLite takes their index, and reads all alarms that there ever were.
        found += read(connection, select(events).where(events.c.subject.in_(some)))
    return sorted((event for event in found if event.type in _TYPES), key=lambda event: event.seq)


def open_alarms(store: ControlStore, use_case: str, version: int, now: datetime) -> list[str]:
    """Titles of the alarms about a version that somebody acts on: neither resolved nor silenced, and more than info."""
    return [
        one.title
        for one in alarms_of(store, use_case)
        if one.version == version and one.is_open(now) and one.severity != "info"
    ]


def _record_once(
    store: ControlStore,
    type: str,
    use_case: str,
    alarm_id: str,
    reason: str,
    payload: Mapping[str, Any],
    severity: Severity,
) -> bool:
    subject = f"{_PREFIX}{alarm_id}"
    known = select(events.c.seq).where(events.c.subject == subject, events.c.type == type).limit(1)
    with store.transaction() as connection:
        if connection.execute(known).first() is not None:
            return False
        record(connection, type, SYSTEM, subject, use_case=use_case, payload=payload, reason=reason, severity=severity)
    return True


def _alarms(connection: Connection, use_case: str) -> list[AlarmRecord]:
    query = select(events).where(events.c.use_case == use_case, events.c.type.in_(_TYPES)).order_by(events.c.seq)
    return _folded(read(connection, query))


def _folded(told: Iterable[Event]) -> list[AlarmRecord]:
    """What became of each alarm, from all its events in their order."""
    found: dict[str, AlarmRecord] = {}
    for event in told:
        if event.type == RAISED:
            found[event.subject] = _raised(event)
        elif event.subject in found and event.type == WORSENED:
            said = {**found[event.subject].payload, **event.payload}
            found[event.subject] = replace(
                found[event.subject], title=event.reason, severity=event.severity, payload=said
            )
        elif event.subject in found and event.type == RESOLVED:
            said = {**found[event.subject].payload, "resolved": event.payload.get("resolved")}
            found[event.subject] = replace(found[event.subject], resolved_at=event.time, payload=said)
        elif event.subject in found:
            until = datetime.fromisoformat(event.payload["until"])
            found[event.subject] = replace(found[event.subject], silenced_until=until, silenced_because=event.reason)
    return list(found.values())


def _raised(event: Event) -> AlarmRecord:
    said = event.payload
    return AlarmRecord(
        said["alarm"], event.use_case or "", said["version"], said["question"], event.reason, event.severity,
        datetime.fromisoformat(said["since"]), event.time, payload=said,
    )  # fmt: skip
