"""The inventory: every use case that the control store knows, whose it is, how it stands, and when people look at it.

What a use case declares of itself, and each review, is an event: the newest one counts, and no table beside the events
can say otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, union

from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.governance.alarms import AlarmRecord, StandingAlarms, standing_alarms
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, Event, read, record
from mlops_ray.governance.principals import Role
from mlops_ray.governance.tables import approvals, endpoints, events, versions
from mlops_ray.governance.versions import expect_name

REVIEWERS: tuple[Role, ...] = ("approve", "admin")
AGAIN_AFTER = timedelta(days=7)
_DECLARED, _REVIEWED, _OVERDUE = "use_case.declared", "use_case.reviewed", "review.overdue"


@dataclass(frozen=True)
class Declared:
    """What a use case says of itself. tier: "" where it names none; review_every_s: None where nobody has to look."""

    owner: str = ""
    purpose: str = ""
    tier: str = ""
    review_every_s: float | None = None


@dataclass(frozen=True)
class Entry:
    """live_version, live_since: of the champion, None where nothing is live. approval: the state of the newest request
    about it, "" where nobody asked. open_alarms: about any version.

    reviewed_at, reviewed_by: the last review. next_review_at: counted from that, or from when reviews were declared;
    None where none are.
    """

    use_case: str
    declared: Declared
    live_version: int | None
    live_since: datetime | None
    approval: str
    newest_version: int | None
    registered_at: datetime | None
    open_alarms: int
    reviewed_at: datetime | None = None
    reviewed_by: str = ""
    next_review_at: datetime | None = None

    def is_overdue(self, now: datetime) -> bool:
        return self.next_review_at is not None and self.next_review_at <= now

    def shown(self, now: datetime) -> dict[str, Any]:
        """As JSON, with what a use case declares beside the rest, and `overdue`."""
        fields = dict(vars(self))
        fields |= vars(fields.pop("declared")) | {"overdue": self.is_overdue(now)}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


def declare(store: ControlStore, actor: Actor, use_case: str, declared: Declared, now: datetime | None = None) -> None:
    """Record what a use case says of itself, with `use_case.declared` if it said something else before."""
    expect_name(use_case)
    with store.transaction() as connection:
        last = _last(connection, use_case, _DECLARED)
        before, after = last and last.after, asdict(declared)
        if before != after:
            record(connection, _DECLARED, actor, use_case, use_case, before, after, now=now)


def review(store: ControlStore, actor: Actor, use_case: str, reason: str, now: datetime | None = None) -> Event:
    """Record that somebody looked at a use case and found it right, with `use_case.reviewed`.

    reason: what they looked at. Raises ForbiddenError for who carries none of REVIEWERS, ConfigurationError without a
    reason or for a use case that is not known.
    """
    expect_name(use_case)
    if not set(REVIEWERS).intersection(actor.roles):
        raise ForbiddenError(f"A review of {use_case} needs a person with the role {REVIEWERS[0]!r} there.")
    if not reason.strip():
        raise ConfigurationError("A review needs a reason: what was looked at, and what was found.")
    with store.transaction() as connection:
        if not _names(connection, use_case):
            raise ConfigurationError(f"There is no use case {use_case!r}. `mlops-ray inventory` lists all.")
        last = _last(connection, use_case, _REVIEWED)
        before = last and {"reviewed_at": last.time, "reviewed_by": last.actor}
        return record(connection, _REVIEWED, actor, use_case, use_case, before, reason=reason, now=now)


def announce_overdue(store: ControlStore, now: datetime) -> list[str]:
    """Record `review.overdue` for each use case whose review is, and again each week; returns their names."""
    overdue = [entry for entry in inventory(store, now) if entry.is_overdue(now)]
    said = []
    for entry in overdue:
        with store.transaction() as connection:
            due, last = entry.next_review_at, _last(connection, entry.use_case, _OVERDUE)
            if due is None or (last is not None and last.time >= due and last.time > now - AGAIN_AFTER):
                continue
            reason = f"The review of {entry.use_case} was due on {due:%Y-%m-%d}."
            record(connection, _OVERDUE, SYSTEM, entry.use_case, entry.use_case, reason=reason, now=now)
        said.append(entry.use_case)
    return said


def inventory(store: ControlStore, now: datetime, use_case: str | None = None) -> list[Entry]:
    """All use cases that declared themselves, or have a version that was registered or is live, by name; `use_case`:
    that one alone, if there is such a one."""
    return with_alarms(store, now, use_case)[0]


def with_alarms(
    store: ControlStore, now: datetime, use_case: str | None = None, known: StandingAlarms | None = None
) -> tuple[list[Entry], list[AlarmRecord]]:
    """As `inventory`, with the alarms that stand there: those that it counts, and those that are silenced. known: which
    stood when somebody looked last, for who looks often."""
    with store.reading() as connection:
        names = sorted(_names(connection, use_case))
        alarms = known.now(connection, names) if known else standing_alarms(connection, names)
        return _entries(connection, names, alarms, now), alarms


def _names(connection: Connection, use_case: str | None) -> set[str]:
    """Of all that there are, or of one, if there is such a one."""
    queries = [select(table.c.use_case) for table in (versions, endpoints, events)]
    queries[-1] = queries[-1].where(events.c.type == _DECLARED)
    if use_case is not None:
        queries = [query.where(query.selected_columns[0] == use_case).limit(1) for query in queries]
        return {name for query in queries for name in connection.execute(query).scalars()}
    return {str(name) for name in connection.execute(union(*queries)).scalars()}


def _entries(connection: Connection, names: Sequence[str], alarms: Sequence[AlarmRecord], now: datetime) -> list[Entry]:
    """Of some use cases, with as many queries as of one: there may be hundreds, and millions of events."""
    live = {row.use_case: row for row in connection.execute(select(endpoints).where(endpoints.c.use_case.in_(names)))}
    newest, asked = _newest_versions(connection, names), _approvals_of_champions(connection, names)
    declared, since = _declared(connection, names)
    reviewed = _last_of_each(connection, names, _REVIEWED)
    open_alarms = Counter(one.use_case for one in alarms if one.is_open(now))
    found = []
    for name in names:
        champion, (version, registered_at) = live.get(name), newest.get(name, (None, None))
        says = declared.get(name, Declared())
        review = reviewed.get(name)
        counted_from = max((one for one in (since.get(name), review and review.time) if one), default=None)
        every = says.review_every_s
        found.append(
            Entry(
                name,
                says,
                champion.champion_version if champion else None,
                champion.champion_since if champion else None,
                asked.get(name, ""),
                version,
                registered_at,
                open_alarms[name],
                review.time if review else None,
                review.actor if review else "",
                counted_from + timedelta(seconds=every) if every is not None and counted_from else None,
            )
        )
    return found


def _newest_versions(connection: Connection, names: Sequence[str]) -> dict[str, tuple[int, datetime]]:
    """Each with when it was registered."""
    largest = (
        select(versions.c.use_case, func.max(versions.c.version).label("version"))
        .where(versions.c.use_case.in_(names))
        .group_by(versions.c.use_case)
        .subquery()
    )
    on = (versions.c.use_case == largest.c.use_case) & (versions.c.version == largest.c.version)
    query = select(versions.c.use_case, versions.c.version, versions.c.registered_at).join(largest, on)
    return {row.use_case: (row.version, row.registered_at) for row in connection.execute(query)}


def _approvals_of_champions(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """The state of the newest request about each champion."""
    on = (
        (approvals.c.use_case == endpoints.c.use_case)
        & (approvals.c.model_digest == endpoints.c.champion_digest)
        & (approvals.c.version == endpoints.c.champion_version)
    )
    query = select(approvals.c.use_case, approvals.c.state).join(endpoints, on).where(endpoints.c.use_case.in_(names))
    return {row.use_case: row.state for row in connection.execute(query.order_by(approvals.c.id))}


def _last_of_each(connection: Connection, names: Sequence[str], type: str) -> dict[str, Event]:
    """The last event of a type of each use case."""
    last = select(func.max(events.c.seq)).where(events.c.type == type, events.c.use_case.in_(names))
    query = select(events).where(events.c.seq.in_(last.group_by(events.c.use_case)))
    return {event.use_case or "": event for event in read(connection, query)}


def _declared(connection: Connection, names: Sequence[str]) -> tuple[dict[str, Declared], dict[str, datetime | None]]:
    """What each use case says of itself, and since when it declares reviews without a break: whoever changes how often
    does not put the next one off."""
    # Put in order here: asked to, SQLite walks through all events of a use case in theirs.
    told = read(connection, select(events).where(events.c.use_case.in_(names), events.c.type == _DECLARED))
    says, since = dict[str, Declared](), dict[str, datetime | None]()
    for event in sorted(told, key=lambda event: event.seq):
        name = event.use_case or ""
        says[name] = Declared(**event.after)
        since[name] = (since.get(name) or event.time) if says[name].review_every_s is not None else None
    return says, since


def _last(connection: Connection, use_case: str, type: str) -> Event | None:
    query = select(events).where(events.c.use_case == use_case, events.c.type == type)
    return next(read(connection, query.order_by(events.c.seq.desc()).limit(1)), None)
