"""Schedules in the control store: what a use case declares to be due by the clock, and who paused it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, and_, insert, select, update

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore, StoreInTransaction, database_now
from mlops_ray.governance.events import Actor, Event, newest_events, record
from mlops_ray.governance.tables import schedule_runs, schedules

CHANGED = "schedule.changed"
GONE = "Its schedule is declared no more."


@dataclass(frozen=True)
class Declared:
    """One operation of one use case. cron, time_zone, catch_up: as `use_case.Schedule`, with its zone.

    reference: of the use case's file, feature_repo: of its definitions, as `mlops-ray` is told. decided_until: up to
    when each due run is recorded (`schedule_runs`). paused_at: since when none is started, None for not.
    """

    use_case: str
    operation: str
    cron: str
    time_zone: str
    catch_up: bool
    reference: str
    feature_repo: str
    decided_until: datetime
    paused_at: datetime | None = None


@dataclass(frozen=True)
class Wanted:
    """What `declare` writes of one operation, as in `Declared`."""

    operation: str
    cron: str
    time_zone: str
    catch_up: bool


def declare(
    store: ControlStore, actor: Actor, use_case: str, reference: str, feature_repo: str, wanted: tuple[Wanted, ...]
) -> None:
    """Let the operations of a use case be due as in `wanted`, and no others; an event if that changes anything.

    What is new is due from now on. Another cron is, too: what the old one left undecided is not made up for. What is
    paused stays so, also where it was gone in between. What waits of one that is gone is skipped.
    """
    with store.transaction() as connection:
        before = {one.operation: one for one in read_schedules(connection, use_case)}
        now = database_now(connection)
        for one in wanted:
            old = before.get(one.operation)
            same = old is not None and (old.cron, old.time_zone) == (one.cron, one.time_zone)
            values = {
                "cron": one.cron, "time_zone": one.time_zone, "catch_up": one.catch_up, "reference": reference,
                "feature_repo": feature_repo, "decided_until": old.decided_until if same and old else now,
            }  # fmt: skip
            if old is None:
                last = _last(store, connection, use_case, one.operation)
                paused_at = now if last is not None and last.after["paused"] else None
                key = {"use_case": use_case, "operation": one.operation, "paused_at": paused_at}
                connection.execute(insert(schedules).values(**key, **values))
            else:
                connection.execute(update(schedules).where(_is(use_case, one.operation)).values(values))
        for gone in before.keys() - {one.operation for one in wanted}:
            _remove(connection, use_case, gone)
        old_words, new_words = ({one.operation: _in_words(one) for one in ones} for ones in (before.values(), wanted))
        if old_words != new_words:
            subject = f"schedules of {use_case}"
            record(connection, CHANGED, actor, subject, use_case, before=old_words, after=new_words, now=now)


def remove(store: ControlStore, actor: Actor, use_case: str, operation: str | None, reason: str) -> None:
    """Let it, None: nothing of the use case, be due no more, as if it were no longer declared.

    Raises ConfigurationError if it is not declared.
    """
    with store.transaction() as connection:
        before = read_schedules(connection, use_case)
        gone = before if operation is None else [find_schedule(connection, use_case, operation)]
        if not gone:
            raise ConfigurationError(f"{use_case} has no schedules. `mlops-ray schedule list` tells who has.")
        for one in gone:
            _remove(connection, use_case, one.operation)
        old, new = ({one.operation: _in_words(one) for one in before if one not in without} for without in ([], gone))
        record(connection, CHANGED, actor, f"schedules of {use_case}", use_case, before=old, after=new, reason=reason)


def pause(store: ControlStore, actor: Actor, use_case: str, operation: str, reason: str) -> Event | None:
    """Start no run of it until it is resumed (`schedule_runs.resume`). If it was paused already, returns by whom.

    Raises ConfigurationError if it is not declared.
    """
    with store.transaction() as connection:
        is_paused = find_schedule(connection, use_case, operation).paused_at is not None
        earlier = _last(store, connection, use_case, operation) if is_paused else None
        set_paused(connection, actor, use_case, operation, reason, paused=True)
        return earlier


def list_schedules(store: ControlStore, use_case: str | None = None) -> list[Declared]:
    """Of one use case or of all, by name."""
    with store.reading() as connection:
        return read_schedules(connection, use_case)


def read_schedules(connection: Connection, use_case: str | None = None) -> list[Declared]:
    """As `list_schedules`, in the caller's transaction."""
    query = select(schedules).order_by(schedules.c.use_case, schedules.c.operation)
    if use_case is not None:
        query = query.where(schedules.c.use_case == use_case)
    return [Declared(**row._mapping) for row in connection.execute(query)]


def find_schedule(connection: Connection, use_case: str, operation: str) -> Declared:
    """Raises ConfigurationError if it is not declared."""
    found = read_schedules(connection, use_case)
    for one in found:
        if one.operation == operation:
            return one
    known = ", ".join(one.operation for one in found) or "nothing"
    raise ConfigurationError(
        f"{operation} of {use_case} has no schedule (declared: {known}). Add it to `schedules` of the use case, and "
        f"`mlops-ray schedule start` it."
    )


def set_paused(connection: Connection, actor: Actor, use_case: str, operation: str, reason: str, paused: bool) -> None:
    """In the caller's transaction; an event, also of a second one who pauses it. Raises as `pause`."""
    since, now = find_schedule(connection, use_case, operation).paused_at, database_now(connection)
    values = {"paused_at": (since or now) if paused else None}
    connection.execute(update(schedules).where(_is(use_case, operation)).values(values))
    before, after = {"paused": since is not None}, {"paused": paused}
    subject = f"schedule {use_case} {operation}"
    record(connection, CHANGED, actor, subject, use_case, before=before, after=after, reason=reason, now=now)


def _last(store: ControlStore, connection: Connection, use_case: str, operation: str) -> Event | None:
    """By which it was paused or resumed the last time."""
    within, subject = StoreInTransaction(store, connection), f"schedule {use_case} {operation}"
    found = newest_events(within, use_case=use_case, types=[CHANGED], subject=subject)
    changes = (one for one in found if one.before and one.before.get("paused") != one.after.get("paused"))
    return next(changes, None)


def _remove(connection: Connection, use_case: str, operation: str) -> None:
    connection.execute(schedules.delete().where(_is(use_case, operation)))
    waiting = _is(use_case, operation, schedule_runs) & (schedule_runs.c.state == "waiting")
    connection.execute(update(schedule_runs).where(waiting).values({"state": "skipped", "detail": GONE}))


def _is(use_case: str, operation: str, table: Table = schedules) -> ColumnElement[bool]:
    return and_(table.c.use_case == use_case, table.c.operation == operation)


def _in_words(one: Declared | Wanted) -> str:
    return f"{one.cron} {one.time_zone}{', catching up' if one.catch_up else ''}"
